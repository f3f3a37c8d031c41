/**
 * Operands and options of the ops; `backend.ts` declares the ops themselves. Nothing here knows about requests.
 *
 * Activations are f32 `[rows, cols]`, row-major, with room for `maxRows` rows. Only the first `input.numRows` rows are valid in a step.
 */
import type { TokenLogprobs } from './sample-spec.ts'

/** A weight matrix in one of the formats that backends load. Row-major, `rows` output features x `cols` input features. */
export type MatrixData =
  | { readonly format: 'f32'; readonly values: Float32Array }
  /** IEEE binary16 bits. */
  | { readonly format: 'f16'; readonly values: Uint16Array }
  /** w = code * scale + min. Groups run along a row; `cols` is a multiple of `group`. */
  | {
      readonly format: 'q8'
      readonly group: 16 | 32
      /** All codes lie in -32 .. 31, or in 0 .. 63 with minimums. The cpu backend multiplies them in fewer steps. Absent: not known. */
      readonly isNarrow?: true
      readonly hasSubScales?: true
      readonly codes: Int8Array // [rows, cols]
      readonly scales: Float32Array // [rows, cols / group]
      readonly mins: Float32Array | null // [rows, cols / group]
    }
  /** Two codes of 0 .. 15 per byte, the even column in the low nibble: w = (code - 8) * scale, or code * scale + min with minimums. */
  | {
      readonly format: 'q4'
      readonly group: 32
      /**
       * For every 256 columns of a row, the scales are 8-bit integers times one f16, and so are the minimums. The cpu backend stores them in
       * that smaller form. Absent: not known.
       */
      readonly hasSubScales?: true
      readonly codes: Uint8Array // [rows, cols / 2]
      readonly scales: Float32Array // [rows, cols / 32]
      readonly mins: Float32Array | null // [rows, cols / 32]
    }
  /** MXFP4 as stored (mxfp4.ts): two E2M1 codes per byte, the even column in the low nibble; w = value of the code * 2^(exponent - 127). */
  | {
      readonly format: 'mxfp4'
      readonly group: 32
      readonly codes: Uint8Array // [rows, cols / 2]
      readonly exponents: Uint8Array // [rows, cols / 32]
    }

export type MatrixFormat = MatrixData['format']

/**
 * A matrix that is read a few rows at a time, so that it is never in memory twice. All pieces have the same format and group, and either all
 * or none have minimums.
 */
export interface MatrixRows {
  /** Rows `first` .. `first + count - 1`. The caller may keep them, and may read on while it uses them. */
  read(first: number, count: number): Promise<MatrixData>
}

/** A weight matrix W [rows, cols] in a backend's memory, applied as y = x W^T. */
export interface Matrix {
  readonly label: string
  readonly rows: number // output features
  readonly cols: number // input features
  readonly format: MatrixFormat
}

/** The weight matrices of `numExperts` experts, equal in shape and format, in one piece of a backend's memory. */
export interface ExpertMatrix extends Matrix {
  readonly numExperts: number
  // rows and cols are those of one expert's matrix
}

/** The adapters' updates of one linear layer's weights, in a backend's memory. */
export interface LowRank {
  readonly label: string
  readonly rows: number // output features
  readonly cols: number // input features
  readonly numAdapters: number
}

/** One adapter's update of rows firstRow .. firstRow + rows - 1 of a matrix: W += up down. The parts of an adapter do not share rows. */
export interface LowRankPart {
  readonly firstRow: number
  readonly rows: number
  readonly rank: number
  readonly down: Float32Array // [rank, cols]
  /** Already multiplied by the adapter's scale. */
  readonly up: Float32Array // [rows, rank]
}

/** The chosen experts of a step's rows and their weights, with the working buffers of the experts. In a backend's memory. */
export interface Routing extends RoutingShape {
  readonly label: string
}

export interface RoutingShape {
  readonly numExperts: number
  /** Experts per row. */
  readonly topK: number
  /** Width of an expert's inner activations. */
  readonly inner: number
  /** Width of an expert's output. */
  readonly outer: number
}

/** A weight vector (norm weight, bias) in a backend's memory, f32. */
export interface Vector {
  readonly label: string
  readonly length: number
}

/** A step buffer in a backend's memory: f32 [maxRows, cols]. */
export interface Activation {
  readonly label: string
  readonly cols: number
}

/** Frequencies of rotary embedding: rotates the first `rotaryDim` dims of each head, as pairs (i, i + rotaryDim / 2). */
export interface RopeTable {
  readonly label: string
  readonly rotaryDim: number
}

/** RMSNorm: x / sqrt(mean(x^2) + eps) * weight. Models that store w for a factor of 1 + w get the 1 added on load. */
export interface Norm {
  readonly weight: Vector
  readonly eps: number
}

/** LayerNorm: (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias. */
export interface LayerNorm {
  readonly weight: Vector
  readonly bias: Vector | null
  readonly eps: number
}

/**
 * How a sequence's rows become one vector. `mean`; `rootMean`: the sum divided by the square root of the number of rows; `weightedMean`: the
 * mean with weights 1, 2, ... in order; `max`: the largest value of each column; `first` or `last` row.
 */
export type Pooling = 'mean' | 'rootMean' | 'weightedMean' | 'max' | 'first' | 'last'

/**
 * Element format of the KV pool. q8: int8 codes with one f32 scale per token and KV head, separately for K and V:
 * code = nearest(x * 127 / max |x|), value = code * scale.
 */
export type KvFormat = 'f32' | 'f16' | 'q8'

/** What one layer keeps per token: K and V, [numKvHeads, headDim] each. */
export interface KvShape {
  readonly numKvHeads: number
  readonly headDim: number
}

/** One pool per layer that stores K and V. All pools use the same block ids, so one block table serves all layers. */
export interface KvLayout {
  readonly numBlocks: number
  /** Tokens per block. */
  readonly blockSize: number
  readonly layers: readonly KvShape[]
}

/**
 * What one layer keeps per sequence besides K and V, as f32: the last inputs of its convolution, [channels, kernel - 1], and a recurrent
 * state, [heads, valueDim, keyDim].
 */
export interface StateShape {
  readonly channels: number
  /** Inputs per output of the convolution. */
  readonly kernel: number
  /** 0: no recurrent state. */
  readonly heads: number
  readonly valueDim: number
  readonly keyDim: number
}

/** The state pool. A slot holds the states of one sequence, for all layers that have one. */
export interface StateLayout {
  readonly numSlots: number
  readonly layers: readonly StateShape[]
}

/** f32 values per slot of one layer. */
export function stateValues({ channels, kernel, heads, valueDim, keyDim }: StateShape): number {
  return channels * (kernel - 1) + heads * valueDim * keyDim
}

export interface BackendLimits {
  /** The most rows (tokens) per step: `--max-num-batched-tokens`. */
  readonly maxRows: number
  /** The most sequences per step. */
  readonly maxSequences: number
  /** The most sampled rows per step (more than `maxSequences` when drafts are verified). */
  readonly maxSampleRows: number
  /** Entries of one sequence's block table. */
  readonly maxBlocksPerSequence: number
}

/** The input of a step: `numRows` tokens of `numSequences` sequences. The rows of a sequence are adjacent and in order. */
export interface StepInput {
  readonly numRows: number
  readonly numSequences: number
  /** [numRows]: a token id, or -(i + 1) = "the token sampled by sample row i of the previous step", which may still be on the device. */
  readonly tokens: Int32Array
  readonly positions: Int32Array // [numRows]
  /** [numRows]: blockId * blockSize + offset, the place in the KV pool where the row's K and V are written. */
  readonly slots: Int32Array
  /** [numSequences + 1]: rows sequenceStarts[s] .. sequenceStarts[s + 1] - 1 belong to sequence s. */
  readonly sequenceStarts: Int32Array
  /** [numSequences, maxBlocksPerSequence]: a sequence's block ids, in order of position; entries past its context are ignored. */
  readonly blockTables: Int32Array
  readonly maxBlocksPerSequence: number
  /** [numRows]: the table row that `embedAdd` adds to each row; absent when no op needs it. */
  readonly places?: Int32Array
  /** [numRows]: the adapter that `addLowRank` uses for each row, -1 for none; absent when no op needs it. */
  readonly adapters?: Int32Array
  /**
   * [numSequences, 2]: the slot to read a sequence's state from before its first row (-1 at the start of a text), and the slot to write it to
   * after its last row. A step never writes a slot that another of its sequences reads. Absent when no layer keeps a state.
   */
  readonly stateSlots?: Int32Array
  /** The rows, ascending, that `keepOutputs` keeps: sampling, scoring and pooling need no others. Absent: all rows. */
  readonly outputRows?: Int32Array
}

export interface LinearOptions {
  /** Normalise x first. */
  readonly norm?: Norm
  readonly bias?: Vector
  /** Add to what `out` holds instead of overwriting it. */
  readonly residual?: boolean
  /**
   * W has 2 * out.cols rows, first those of the gate, then those of the up projection: out = act(x Wg^T) * (x Wu^T).
   */
  readonly glu?: Glu
  /** out = act(x W^T). Not together with `glu`. */
  readonly activation?: Activated | Xielu
}

/** Options of `activate`: either `glu` or `activation`, as in LinearOptions. */
export type ActivateOptions = { readonly residual?: boolean } & (
  | { readonly glu: Glu; readonly activation?: undefined }
  | { readonly activation: Activated | Xielu; readonly glu?: undefined }
)

/**
 * How a gated layer combines its two projections: act(gate) * up, or `silu_clamped` (gpt-oss): with g = min(gate, 7) and
 * u = max(-7, min(up, 7)), g / (1 + e^(-1.702 g)) * (u + 1).
 */
export type Glu = Activated | 'silu_clamped'

export interface RouteOptions {
  /** How logits become scores: softmax over all experts, or the sigmoid of each. */
  readonly scores: 'softmax' | 'sigmoid'
  /** [numExperts]: added to the scores when experts are chosen, but not to their weights. */
  readonly bias: Vector | null
  /**
   * Splits the experts into `count` groups of equal size and chooses from the `used` best groups only. A group's score is the sum of its two
   * largest scores (DeepSeek-V3, arXiv 2412.19437).
   */
  readonly groups: { readonly count: number; readonly used: number } | null
  /** Divide the scores of a row's experts by their sum. */
  readonly normalizes: boolean
  /** Multiplies the weights. */
  readonly scale: number
  /** [numExperts]: also multiplies the weight of each chosen expert. */
  readonly expertScales?: Vector | null
}

export interface ExpertWeights {
  readonly gateUp: ExpertMatrix // per expert [2 inner, x.cols], loaded for glu; [inner, x.cols] with `activation`
  readonly down: ExpertMatrix // per expert [outer, inner]
  readonly gateUpBias?: Vector // [numExperts, gateUp.rows]
  readonly downBias?: Vector // [numExperts, outer]
  /** Added once to the weighted sum of a row's experts. */
  readonly bias?: Vector // [outer]
}

/** Options of `experts`: `glu` as in LinearOptions, or `activation` for experts without a gate. */
export type ExpertsOptions = {
  /** Normalise x first. */
  readonly norm?: Norm
  /** Add to what `out` holds instead of overwriting it. */
  readonly residual: boolean
} & (
  { readonly glu: Glu; readonly activation?: undefined } | { readonly activation: Activated; readonly glu?: undefined }
)

/** `gelu` is exact, from the error function; `gelu_tanh` is its tanh approximation; `relu2` is max(0, x)^2. */
export type Activated = 'silu' | 'gelu_tanh' | 'gelu' | 'relu2'

/** xIELU (arXiv 2411.13010): alphaP x^2 + beta x above 0, alphaN (e^x - 1 - x) + beta x below. */
export interface Xielu {
  readonly kind: 'xielu'
  readonly alphaP: number
  readonly alphaN: number
  readonly beta: number
}

/**
 * Alternating updates (AltUp, arXiv 2301.13310): several residual streams of the same width. A layer computes the active stream; the others
 * are predicted from it and corrected.
 */
export interface StreamOptions {
  /** 2 to 4 of them. */
  readonly streams: readonly Activation[]
  /** Index of the stream that the layer computes. */
  readonly active: number
  /** [rows, streams]: the logits of a router. */
  readonly logits: Activation
  /** [streams x streams, streams] for predictStreams, [streams, streams] for correctStreams. */
  readonly coefficients: Vector
}

/** The columns of an activation from `offset` on. */
export interface Columns {
  readonly x: Activation
  readonly offset: number
}

export interface ConvolutionOptions {
  /** Index into StateLayout.layers, which gives channels and kernel. */
  readonly layer: number
  /** [channels, kernel], the oldest input's weight first. */
  readonly weight: Vector
  readonly bias: Vector | null
  readonly kernel: number
  /** First column of x that is read. */
  readonly offset: number
  /** False: out = silu(conv(x)). True: x holds B, C and z, [rows, 3 channels], and out = C * conv(B * z). */
  readonly isGated: boolean
}

interface ScanOptions {
  /** Index into StateLayout.layers, which gives heads, keyDim (q and k) and valueDim (v). */
  readonly layer: number
  /** Heads of q and k. Each serves heads / numKeyHeads heads of v. */
  readonly numKeyHeads: number
  /** True: head h uses key head h % numKeyHeads. False: adjacent heads share one, floor(h numKeyHeads / heads). */
  readonly tilesKeyHeads: boolean
  /** [heads]; all values are negative. */
  readonly decayRate: Vector
  /** [heads] */
  readonly stepBias: Vector
  /** silu(gate) multiplies the output. [heads, valueDim] */
  readonly gate: Columns
  /** Without stepBias, before softplus. [heads] */
  readonly step: Columns
}

export interface GatedDeltaOptions extends ScanOptions {
  /** Before sigmoid. [heads] */
  readonly beta: Columns
  /** Normalises each head's output before the gate. Weight [valueDim]. */
  readonly norm: Norm
}

export interface SelectiveScanOptions extends ScanOptions {
  /** [heads]: times v, added to the output (D in the paper). */
  readonly skip: Vector
  /** Normalises the gated output, over all heads of a key head together. Weight [heads, valueDim]. */
  readonly norm: Norm
}

export interface LogitsOptions {
  readonly norm: Norm
  readonly softcap: number | null
  /** Multiplies the logits (1 for most families). */
  readonly scale: number
}

export interface StepOutput {
  /** Drawn tokens, one per sample row, in order. */
  readonly sampled: Int32Array
  /** One per sample row: null where spec.logprobs is -1. */
  readonly sampledLogprobs: readonly (TokenLogprobs | null)[]
  /** One per score row, in order. */
  readonly scores: readonly TokenLogprobs[]
  /** [sample rows, vocab] raw logits, only after `endStep({ logits: true })` (tests, tools); else null. */
  readonly logits: Float32Array | null
  /** [numSequences, cols], the result of `pool`; null when it was not called. */
  readonly pooled: Float32Array | null
  /** Device time of the step in microseconds, where the adapter has timestamp queries; else null. */
  readonly gpuMicros: number | null
  /** Device times per kernel, only with `traceKernels`. */
  readonly kernels: readonly { readonly kernel: string; readonly micros: number; readonly count: number }[] | null
}
