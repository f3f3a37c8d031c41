/**
 * The op vocabulary: what ops compute on, and with what options; `backend.ts` lists the ops themselves.
 *
 * Activations are f32 `[rows, cols]`, row-major, with room for `maxRows` rows; only the first `input.numRows` are valid in a step. Nothing here
 * knows about requests.
 */
import type { TokenLogprobs } from './sample-spec.ts'

/** Formats a weight matrix can arrive in. Row-major, `rows` output features x `cols` input features. */
export type MatrixData =
  | { readonly format: 'f32'; readonly values: Float32Array }
  /** IEEE binary16 bits. */
  | { readonly format: 'f16'; readonly values: Uint16Array }
  /** w = code * scale + min. Groups run along a row; `cols` is a multiple of `group`. */
  | {
      readonly format: 'q8'
      readonly group: 16 | 32
      /** Codes lie in -32 .. 31, or with minimums in 0 .. 63: a cpu multiplies such in fewer steps. Absent: they may not. */
      readonly isNarrow?: true
      readonly hasSubScales?: true
      readonly codes: Int8Array // [rows, cols]
      readonly scales: Float32Array // [rows, cols / group]
      readonly mins: Float32Array | null // [rows, cols / group]
    }
  /** Two codes per byte, the even column in the low nibble, each 0..15: w = (code - 8) * scale; with minimums w = code * scale + min. */
  | {
      readonly format: 'q4'
      readonly group: 32
      /**
       * The scales of 256 columns of a row are integers of 8 bits times one f16, and so are minimums: a cpu stores them in less room. Absent: they
       * may not be.
       */
      readonly hasSubScales?: true
      readonly codes: Uint8Array // [rows, cols / 2]
      readonly scales: Float32Array // [rows, cols / 32]
      readonly mins: Float32Array | null // [rows, cols / 32]
    }
  /** As stored (mxfp4.ts): two E2M1 codes per byte, the even column in the low nibble; w = value of the code * 2^(exponent - 127). */
  | {
      readonly format: 'mxfp4'
      readonly group: 32
      readonly codes: Uint8Array // [rows, cols / 2]
      readonly exponents: Uint8Array // [rows, cols / 32]
    }

export type MatrixFormat = MatrixData['format']

/** A matrix that is read a few rows at a time, so that it is never in memory twice. Every piece has the same format, group, and minimums or none. */
export interface MatrixRows {
  /** Rows `first` .. `first + count - 1`; valid until the next call. */
  read(first: number, count: number): Promise<MatrixData>
}

/** A weight matrix in a backend's memory, y = x W^T. */
export interface Matrix {
  readonly label: string
  readonly rows: number // output features
  readonly cols: number // input features
  readonly format: MatrixFormat
}

/** Weight matrices of as many experts, alike in shape and format, in one piece of a backend's memory. */
export interface ExpertMatrix extends Matrix {
  readonly numExperts: number
  // rows and cols are those of one expert's matrix
}

/** What adapters add to one linear layer's weights, in a backend's memory. */
export interface LowRank {
  readonly label: string
  readonly rows: number // output features
  readonly cols: number // input features
  readonly numAdapters: number
}

/** One adapter's update of some rows of a matrix: W += up down. Parts of an adapter have rows of their own. */
export interface LowRankPart {
  readonly firstRow: number
  readonly rows: number
  readonly rank: number
  readonly down: Float32Array // [rank, cols]
  /** The adapter's scale is in it. */
  readonly up: Float32Array // [rows, rank]
}

/** Which experts the rows of a step go to, with what weights; and room for what experts compute. In a backend's memory. */
export interface Routing extends RoutingShape {
  readonly label: string
}

export interface RoutingShape {
  readonly numExperts: number
  /** Experts a row goes to. */
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

/** Rotary embedding frequencies: `inverseFrequencies.length * 2` leading dims of each head are rotated, as pairs (i, i + half). */
export interface RopeTable {
  readonly label: string
  readonly rotaryDim: number
}

/** RMSNorm: x / sqrt(mean(x^2) + eps) * weight. Weights stored as w with (1 + w) meant are folded on load. */
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
 * What stands for a sequence: the mean of its rows; their sum by the square root of their number; their mean weighted 1, 2, ... in order; the largest
 * value of each column; the first or the last row.
 */
export type Pooling = 'mean' | 'rootMean' | 'weightedMean' | 'max' | 'first' | 'last'

/**
 * Elements of the KV pool. q8: int8 codes with an f32 scale for each token, KV head, and K or V: code = nearest(x * 127 / max |x|), and the
 * value is code * scale.
 */
export type KvFormat = 'f32' | 'f16' | 'q8'

/** What one layer keeps of each token: K and V, [numKvHeads, headDim] each. */
export interface KvShape {
  readonly numKvHeads: number
  readonly headDim: number
}

/** A pool for each layer that stores K and V, all with the same blocks: one block table serves them. */
export interface KvLayout {
  readonly numBlocks: number
  /** Tokens per block. */
  readonly blockSize: number
  readonly layers: readonly KvShape[]
}

/**
 * What one layer keeps of each sequence beside K and V, as f32: the inputs that its convolution looks back on, [channels, kernel - 1], and a recurrent
 * state, [heads, valueDim, keyDim].
 */
export interface StateShape {
  readonly channels: number
  /** Inputs that a convolution's output depends on. */
  readonly kernel: number
  /** 0: there is no recurrent state. */
  readonly heads: number
  readonly valueDim: number
  readonly keyDim: number
}

/** Slots that hold one sequence's states of all layers that keep one. */
export interface StateLayout {
  readonly numSlots: number
  readonly layers: readonly StateShape[]
}

/** f32 values that a slot has of one layer. */
export function stateValues({ channels, kernel, heads, valueDim, keyDim }: StateShape): number {
  return channels * (kernel - 1) + heads * valueDim * keyDim
}

export interface BackendLimits {
  /** Rows (tokens) a step may have: `--max-num-batched-tokens`. */
  readonly maxRows: number
  /** Sequences a step may have. */
  readonly maxSequences: number
  /** Rows a step may sample (more than `maxSequences` when drafts are verified). */
  readonly maxSampleRows: number
  /** Entries of one sequence's block table. */
  readonly maxBlocksPerSequence: number
}

/** What a step computes on: `numRows` tokens of `numSequences` sequences, the rows of a sequence adjacent and in order. */
export interface StepInput {
  readonly numRows: number
  readonly numSequences: number
  /** [numRows]: a token id, or -(i + 1) = "the token sampled by sample row i of the previous step", which may still be on the device. */
  readonly tokens: Int32Array
  readonly positions: Int32Array // [numRows]
  /** [numRows]: blockId * blockSize + offset, where the row's K and V are written. */
  readonly slots: Int32Array
  /** [numSequences + 1]: rows sequenceStarts[s] .. sequenceStarts[s + 1] - 1 belong to sequence s. */
  readonly sequenceStarts: Int32Array
  /** [numSequences, maxBlocksPerSequence]: block ids of positions 0.. in order; entries past the context are ignored. */
  readonly blockTables: Int32Array
  readonly maxBlocksPerSequence: number
  /** [numRows]: the row of its table that `embedAdd` takes for each row; absent where no op asks for it. */
  readonly places?: Int32Array
  /** [numRows]: the adapter that `addLowRank` takes for each row, -1 for none; absent where no op asks for it. */
  readonly adapters?: Int32Array
  /**
   * [numSequences, 2]: the slot that a sequence's state before its first row is read from, -1 at the start of a text, and the slot that the state after
   * its last row is written to. No slot is written that another sequence of the step reads. Absent where no layer keeps a state.
   */
  readonly stateSlots?: Int32Array
  /** Rows that outputs are made of, ascending: those that `keepOutputs` leaves. Absent: all. */
  readonly outputRows?: Int32Array
}

export interface LinearOptions {
  /** Normalise x first. */
  readonly norm?: Norm
  readonly bias?: Vector
  /** Add to what `out` holds instead of overwriting it. */
  readonly residual?: boolean
  /**
   * W holds 2 * out.cols rows, the gate's then the up projection's: out = act(x Wg^T) * (x Wu^T).
   */
  readonly glu?: Glu
  /** out = act(x W^T). Not together with `glu`. */
  readonly activation?: Activated | Xielu
}

/** How `activate` makes its output: `glu` as in LinearOptions, or `activation`. */
export type ActivateOptions = { readonly residual?: boolean } & (
  | { readonly glu: Glu; readonly activation?: undefined }
  | { readonly activation: Activated | Xielu; readonly glu?: undefined }
)

/**
 * How gate and up projection are joined: act(gate) * up, or `silu_clamped` (gpt-oss): with g = min(gate, 7) and u = max(-7, min(up, 7)),
 * g / (1 + e^(-1.702 g)) * (u + 1).
 */
export type Glu = Activated | 'silu_clamped'

export interface RouteOptions {
  /** What experts' scores are made of their logits by: over all experts, or each by itself. */
  readonly scores: 'softmax' | 'sigmoid'
  /** [numExperts] added to the scores that experts are chosen by, not to their weights. */
  readonly bias: Vector | null
  /** Only experts of the `used` best of `count` equal groups are chosen; a group counts as much as its two best scores. */
  readonly groups: { readonly count: number; readonly used: number } | null
  /** A row's weights are divided by their sum. */
  readonly normalizes: boolean
  /** Weights are multiplied by this. */
  readonly scale: number
  /** [numExperts]: then by this of the chosen expert. */
  readonly expertScales?: Vector | null
}

export interface ExpertWeights {
  readonly gateUp: ExpertMatrix // [2 inner, x.cols] an expert, loaded for glu; [inner, x.cols] with `activation`
  readonly down: ExpertMatrix // [outer, inner] an expert
  readonly gateUpBias?: Vector // [numExperts, gateUp.rows]
  readonly downBias?: Vector // [numExperts, outer]
  /** Added to the sum of a row's experts, whatever their weights. */
  readonly bias?: Vector // [outer]
}

/** `glu` as in LinearOptions; or `activation`, of experts without a gate. */
export type ExpertsOptions = {
  /** Normalise x first. */
  readonly norm?: Norm
  /** Add to what `out` holds instead of overwriting it. */
  readonly residual: boolean
} & (
  { readonly glu: Glu; readonly activation?: undefined } | { readonly activation: Activated; readonly glu?: undefined }
)

/** `gelu` is the exact one, by the error function; `gelu_tanh` its tanh approximation; `relu2` the square of what is above 0. */
export type Activated = 'silu' | 'gelu_tanh' | 'gelu' | 'relu2'

/** xIELU (https://arxiv.org/abs/2411.13010): alphaP x^2 + beta x above 0, alphaN (e^x - 1 - x) + beta x below. */
export interface Xielu {
  readonly kind: 'xielu'
  readonly alphaP: number
  readonly alphaN: number
  readonly beta: number
}

/**
 * Alternating updates (AltUp): several residual streams of the same width, of which a layer computes one and the others follow.
 * Source: arXiv 2301.13310.
 */
export interface StreamOptions {
  /** 2 to 4 of them. */
  readonly streams: readonly Activation[]
  /** Index of the stream that layers compute. */
  readonly active: number
  /** [rows, streams]: a router's logits. */
  readonly logits: Activation
  /** [streams x streams, streams] of predictStreams, [streams, streams] of correctStreams. */
  readonly coefficients: Vector
}

/** Columns of an activation, from `offset` on. */
export interface Columns {
  readonly x: Activation
  readonly offset: number
}

export interface ConvolutionOptions {
  /** Index into StateLayout.layers; channels and kernel are that layer's. */
  readonly layer: number
  /** [channels, kernel], the oldest input's weight first. */
  readonly weight: Vector
  readonly bias: Vector | null
  readonly kernel: number
  /** First column of x that is read. */
  readonly offset: number
  /** False: out = silu(conv(x)). True: x has three times as many columns, those of B, C and z: out = C * conv(B * z). */
  readonly isGated: boolean
}

interface ScanOptions {
  /** Index into StateLayout.layers; heads and dims are that layer's: keyDim values of q and k, valueDim of v. */
  readonly layer: number
  /** Heads of q and k, each for heads / numKeyHeads heads. */
  readonly numKeyHeads: number
  /** Head h has those of h % numKeyHeads; else neighbours share them. */
  readonly tilesKeyHeads: boolean
  /** [heads], all below 0. */
  readonly decayRate: Vector
  /** [heads] */
  readonly stepBias: Vector
  /** Multiplies the output, through silu. [heads, valueDim] */
  readonly gate: Columns
  /** Before softplus and stepBias. [heads] */
  readonly step: Columns
}

export interface GatedDeltaOptions extends ScanOptions {
  /** Before sigmoid. [heads] */
  readonly beta: Columns
  /** Of each head's output, before the gate. Weight [valueDim]. */
  readonly norm: Norm
}

export interface SelectiveScanOptions extends ScanOptions {
  /** [heads] */
  readonly skip: Vector
  /** Of the gated output, over the heads of each key head together. Weight [heads, valueDim]. */
  readonly norm: Norm
}

export interface LogitsOptions {
  readonly norm: Norm
  readonly softcap: number | null
  /** Logits are multiplied by this (1 for most families). */
  readonly scale: number
}

export interface StepOutput {
  /** One per sample row, in order. */
  readonly sampled: Int32Array
  /** One per sample row: null where spec.logprobs is -1. */
  readonly sampledLogprobs: readonly (TokenLogprobs | null)[]
  /** One per score row, in order. */
  readonly scores: readonly TokenLogprobs[]
  /** [sample rows, vocab] raw logits, only when `endStep({ logits: true })` asked (tests, tools). */
  readonly logits: Float32Array | null
  /** [numSequences, cols] of what `pool` was given, else null. */
  readonly pooled: Float32Array | null
  /** Device time of the step where the adapter can tell (timestamp-query), else null. */
  readonly gpuMicros: number | null
  /** Per kernel device times, only in per-kernel tracing. */
  readonly kernels: readonly { readonly kernel: string; readonly micros: number; readonly count: number }[] | null
}
