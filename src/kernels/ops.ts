/**
 * The op vocabulary: everything a backend must be able to compute, and all that `decoder.ts` may ask of one.
 *
 * A step is: `beginStep(input)`, then ops in program order (each may execute at once or only be recorded), then
 * `endStep()`, which resolves with the few numbers the host needs. Activations are f32 `[rows, cols]`, row-major, with
 * room for `maxRows` rows; only the first `input.numRows` are valid in a step. Nothing here knows about requests.
 *
 * Row invariance (docs/architecture.md): the result of a row never depends on how many rows share the step, on which row
 * it is, or on where chunk borders fall.
 */

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
      readonly codes: Int8Array // [rows, cols]
      readonly scales: Float32Array // [rows, cols / group]
      readonly mins: Float32Array | null // [rows, cols / group]
    }
  /**
   * Two codes per byte, the even column in the low nibble, each 0..15.
   * Without `mins`: w = (code - 8) * scale. With: w = code * scale + min.
   */
  | {
      readonly format: 'q4'
      readonly group: 32
      readonly codes: Uint8Array // [rows, cols / 2]
      readonly scales: Float32Array // [rows, cols / 32]
      readonly mins: Float32Array | null // [rows, cols / 32]
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

/** Which of a sequence's rows stand for it: the mean of all, the first or the last. */
export type Pooling = 'mean' | 'first' | 'last'

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
  /** Tokens a block. */
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
}

export interface ExpertWeights {
  readonly gateUp: ExpertMatrix // [2 inner, x.cols] an expert, loaded for glu
  readonly down: ExpertMatrix // [outer, inner] an expert
  readonly gateUpBias?: Vector // [numExperts, 2 inner]
  readonly downBias?: Vector // [numExperts, outer]
}

export interface ExpertsOptions {
  /** Normalise x first. */
  readonly norm?: Norm
  readonly glu: Glu
  /** Add to what `out` holds instead of overwriting it. */
  readonly residual: boolean
}

/** `gelu` is the exact one, by the error function; `gelu_tanh` its tanh approximation; `relu2` the square of what is above 0. */
export type Activated = 'silu' | 'gelu_tanh' | 'gelu' | 'relu2'

/** xIELU (https://arxiv.org/abs/2411.13010): alphaP x^2 + beta x above 0, alphaN (e^x - 1 - x) + beta x below. */
export interface Xielu {
  readonly kind: 'xielu'
  readonly alphaP: number
  readonly alphaN: number
  readonly beta: number
}

/** What q and k are normalised over: each head, all heads, or each head after its rotation. */
export type QkNormKind = 'head' | 'full' | 'rotatedHead'

export interface QkvOptions {
  /** Index into KvLayout.layers. */
  readonly layer: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  /** RMSNorm of q and k. */
  readonly qkNorm: { readonly kind: QkNormKind; readonly q: Norm; readonly k: Norm } | null
  /** Each head of v is divided by its root mean square; together with a `qkNorm` of heads only. */
  readonly vNorm?: { readonly eps: number } | null
  readonly rope: RopeTable | null
  /** There are queries alone, [rows, numHeads headDim]: the layer attends to what another one stored. */
  readonly isQueryOnly?: boolean
}

export interface AttentionOptions {
  /** Index into KvLayout.layers. */
  readonly layer: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  /** Scores are multiplied by this. */
  readonly scale: number
  /** Position p attends to p - window + 1 .. p, and up to p + window - 1 where attention is bidirectional. */
  readonly window: number | null
  /** scores = softcap * tanh(scores / softcap). */
  readonly softcap: number | null
  /** [numHeads]: a logit beside the scores of each head, to which nothing belongs (attention sinks). */
  readonly sinks?: Vector | null
  /** Rows see the rows after them too, as encoders do. The same in all attention ops of a step, which has whole sequences. */
  readonly bidirectional?: boolean
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

/**
 * How one row is sampled. Plain data, compiled once a request. The order is the field's usual one:
 * repetition penalty -> additive adjustments -> mask -> temperature -> top-k -> top-p -> min-p -> Gumbel-max.
 * Where a row is sampled (device or host) never changes the token: `kernels/sampling.ts` is the definition.
 */
export interface SampleSpec {
  /** 0: greedy (argmax after adjustments and mask; lowest token id wins ties). */
  readonly temperature: number
  /** 0: off. */
  readonly topK: number
  /** 1: off. */
  readonly topP: number
  /** 0: off. */
  readonly minP: number
  /** u32. Noise of a token = hash(seed, choice, position of the sampled token, token id). */
  readonly seed: number
  readonly choice: number
  /** Logit l of a listed token becomes l > 0 ? l / penalty : l * penalty. */
  readonly repetition: { readonly penalty: number; readonly tokens: Int32Array } | null
  /** Added to the logits of the listed tokens; -Infinity bans. Tokens are distinct. */
  readonly adjustments: { readonly tokens: Int32Array; readonly deltas: Float32Array } | null
  /** The token before this one where it is still on the device: what it changes once it is known. */
  readonly pending: PendingToken | null
  /** Bit t of word t >> 5 set = token t allowed. u32[ceil(vocab / 32)]. */
  readonly mask: Uint32Array | null
  /** -1: none. Otherwise log-probabilities of the sampled token and of the top N (0..20), from the raw logits. */
  readonly logprobs: number
}

/**
 * The token that a sample row of the previous step drew. It counts as listed in `repetition` where there is one; its adjustment is `deltas[i]`
 * where it is `adjustments.tokens[i]`, else `delta`.
 */
interface PendingToken {
  readonly row: number
  /** As long as `adjustments.tokens`; null: what they are without it. */
  readonly deltas: Float32Array | null
  readonly delta: number
}

export interface SampleRow {
  /** Row of the step whose logits are sampled; the sampled token's position is positions[row] + 1. */
  readonly row: number
  readonly spec: SampleSpec
}

/** Log-probabilities of given next tokens (prompt scoring). */
export interface ScoreRow {
  readonly row: number
  readonly target: number
  readonly topN: number
}

export interface TokenLogprobs {
  /** Of the sampled or the target token; natural logarithm of the softmax of the raw logits. */
  readonly logprob: number
  /** Rank among all tokens, 1 = most likely. */
  readonly rank: number
  readonly topTokens: readonly number[]
  readonly topLogprobs: readonly number[]
}

export interface StepOutput {
  /** One a sample row, in order. */
  readonly sampled: Int32Array
  /** One a sample row: null where spec.logprobs is -1. */
  readonly sampledLogprobs: readonly (TokenLogprobs | null)[]
  /** One a score row, in order. */
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

export interface BackendInfo {
  readonly kind: 'reference' | 'webgpu' | 'cpu'
  /** Adapter or CPU name, driver and version, for logs, benchmarks and /version. */
  readonly adapter: string
  readonly driver: string
  readonly isSoftware: boolean
  readonly kvFormat: KvFormat
  readonly hasTimestamps: boolean
  /** Bytes the KV pool may take, or null when the backend cannot tell. */
  readonly memoryBudgetBytes: number | null
}

/** What a backend holds on its device, in bytes. */
export interface MemoryUse {
  /** Matrices and vectors, as packed. */
  readonly weightBytes: number
  /** The paged pool and the pool of states. */
  readonly kvCacheBytes: number
  /** Activations, rotation tables, logits and what else the steps compute in. */
  readonly scratchBytes: number
}

/**
 * A matrix as a backend lays it out in memory, for a cache on disk. The planes are the backend's own memory: they are valid until the promise
 * of the callback that got them resolves.
 */
export interface PackedMatrix {
  readonly format: MatrixFormat
  /** What the backend needs to know beside the planes; opaque. */
  readonly form: Readonly<Record<string, number>>
  readonly planes: readonly Uint8Array[]
}

/** A packed matrix whose planes are still on disk. */
export interface StoredMatrix {
  readonly format: MatrixFormat
  readonly form: Readonly<Record<string, number>>
  readonly planeBytes: readonly number[]
  /** Reads plane `index` into `target`, which is as long as the plane. */
  read(index: number, target: Uint8Array): Promise<void>
}

export interface MatrixUse {
  /** The matrix will be used with LinearOptions.glu (a backend may interleave gate and up rows). */
  readonly glu?: boolean
  /** Gets the matrix as it was laid out, before `loadMatrix` resolves. */
  readonly onPacked?: (packed: PackedMatrix) => Promise<void>
}

export interface ExpertsUse {
  /** As MatrixUse.glu, of every expert. */
  readonly glu?: boolean
  /** Gets each expert's matrix as it was laid out, in their order. */
  readonly onPacked?: (packed: PackedMatrix, expert: number) => Promise<void>
}

/** The ops of a forward pass, recorded once: every step runs the same ones. Opaque. */
export interface OpSequence {
  readonly label: string
}

/** Of a backend that calls the ops anew in every step. */
export interface RepeatedOps extends OpSequence {
  readonly ops: () => void
}

/** What logits are made of: the arguments that `sample` and `score` will get. */
export interface HeadCall {
  readonly x: Activation
  readonly head: Matrix
  readonly options: LogitsOptions
}

/** A backend. Creation is `createReferenceBackend`, `createWebGpuBackend`, `createCpuBackend` (options: `BackendOptions`). */
export interface Backend {
  readonly info: BackendInfo

  // -- load time ------------------------------------------------------------------------------------------------------
  loadMatrix(label: string, rows: number, cols: number, data: MatrixData | MatrixRows, use?: MatrixUse): Promise<Matrix>
  /** Names the layout of packed matrices: what was exported under one name may be imported under that name only. */
  readonly packedLayout: string
  /** The matrix that `onPacked` got at another start. Throws RangeError when sizes or form do not fit, and what `read` throws. */
  importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix, use?: MatrixUse): Promise<Matrix>
  /**
   * Experts' matrices, each of `rows` x `cols`, asked for one after another: no more than one is held beside what is on the device. Throws
   * where their formats differ.
   */
  loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix>
  /** What `loadExperts` laid out at another start; throws as `importMatrix` does. */
  importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix>
  loadVector(label: string, values: Float32Array): Vector
  /** Each adapter's update of a matrix of `rows` x `cols`; without parts: none. Throws RangeError for one that does not fit. */
  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank
  /** `attentionFactor` multiplies cos and sin (yarn, longrope); 1 otherwise. */
  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable
  createActivation(label: string, cols: number): Activation
  /** Room for the routing of `maxRows` rows, to be shared by all layers of this shape. */
  createRouting(label: string, shape: RoutingShape): Routing
  /** Allocates the paged pool; call once, after the weights. */
  createKvCache(layout: KvLayout): void
  /** Bytes one block takes over all layers, K and V. */
  kvBlockBytes(layout: KvLayout): number
  /** Blocks a pool can have at most (a device's largest binding); Infinity where memory alone decides. */
  maxKvBlocks(layout: KvLayout): number
  /** Allocates the pool of states; call at most once, after the weights. Slots need not be cleared: nothing is read that was not written. */
  createStatePool(layout: StateLayout): void
  /** Bytes a slot takes over all layers. */
  stateSlotBytes(layout: StateLayout): number
  /** Slots a pool can have at most. */
  maxStateSlots(layout: StateLayout): number
  /**
   * The ops that `ops` calls (all but sample and score), to be run by each step as a whole. To be called before `ready`,
   * which checks their shapes and settles whatever does not depend on the step; `ops` may be called then, later, or more than once.
   * `head`: null where no logits are made.
   */
  record(label: string, ops: () => void, head: HeadCall | null): OpSequence
  /**
   * Bytes, at most `atMostBytes`, that the device allocates on trial; freed again. Absent where `info.memoryBudgetBytes` says it, or the device's memory
   * is the host's.
   */
  tryAllocate?(atMostBytes: number): Promise<number>
  /** All weights are in: compile pipelines, warm up, free staging memory. */
  ready(signal?: AbortSignal): Promise<void>
  /** Memory held now; buffers of a step that is in flight are left out. */
  memoryUse(): MemoryUse

  // -- a step, in program order ---------------------------------------------------------------------------------------
  /** Copies the first `numTokens` tokens' K and V of block `source` to `destination`, all layers, before this step's ops. */
  copyBlock(source: number, destination: number, numTokens: number): void
  beginStep(input: StepInput): void
  /** The recorded ops, in their order. Ops may also be called one by one, at more cost. */
  run(sequence: OpSequence): void
  /** out[r] = table[tokens[r]] * scale */
  embed(out: Activation, table: Matrix, scale: number): void
  /** out[r] += table[places[r]] */
  embedAdd(out: Activation, table: Matrix): void
  /** out = x W^T, see LinearOptions. out.cols = W.rows, or W.rows / 2 with glu. out must not be x. */
  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void
  /** out += up (down norm(x)) by the update of each row's adapter; rows without one stay as they are. out must not be x. */
  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void
  /** What `linear` does with a finished product, for one that something was added to. out must not be x. */
  activate(out: Activation, x: Activation, options: ActivateOptions): void
  /** residual += norm(x): families that normalise a block's output before adding it. */
  normAdd(residual: Activation, x: Activation, norm: Norm): void
  /** out = norm(x); out may be x. */
  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void
  /** Chooses each row's experts by the logits of all of them, [rows, numExperts]. The lowest of equal experts is chosen first. */
  route(routing: Routing, logits: Activation, options: RouteOptions): void
  /**
   * out = the sum over a row's experts of weight * (act(x Wg^T + bg) * (x Wu^T + bu) Wd^T + bd), added up from the largest score down. out may be x.
   */
  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void
  /**
   * qkv [rows, (numHeads + 2 numKvHeads) headDim]: q and k normalised and rotated; q written to `q` [rows, numHeads headDim],
   * k and v to the pool at the row's slot. With `isQueryOnly` there is q alone, and nothing is stored.
   */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void
  /** Attention of every row over its sequence's blocks, own chunk included (already stored), causal or not. out [rows, numHeads headDim] */
  attention(out: Activation, q: Activation, options: AttentionOptions): void
  /** A row for each sequence, into `StepOutput.pooled`. At most once a step. */
  pool(x: Activation, pooling: Pooling): void
  /** x *= sigmoid(gate), which is as wide or has one column for all. */
  sigmoidGate(x: Activation, gate: Activation): void
  /** Causal convolution of each channel over a sequence's tokens, from its state on, which is advanced. out [rows, channels] */
  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void
  /**
   * The gated delta rule, token after token, from the sequence's state S on, which is advanced. x holds q, k [numKeyHeads, keyDim] and v [heads, valueDim];
   * q and k are divided by their lengths, q by sqrt(keyDim) too. For each head: S *= exp(decayRate softplus(step + stepBias));
   * S += sigmoid(beta) (v - S k) k^T; out = norm(S q) silu(gate). out [rows, heads valueDim]. Source: arXiv 2412.06464.
   */
  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void
  /**
   * Mamba-2's selective state space, token after token, from the sequence's state S on, which is advanced. x holds v [heads, valueDim], k and q
   * [numKeyHeads, keyDim] (x, B and C there). For each head, with dt = softplus(step + stepBias): S = exp(decayRate dt) S + dt v k^T;
   * out = norm((S q + skip v) silu(gate)). out [rows, heads valueDim]. Source: arXiv 2405.21060.
   */
  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void
  /** Logits of the sample rows into backend memory, then a token for each. At most once a step. */
  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void
  /** Log-probabilities of given tokens, computed in chunks of rows. At most once a step. */
  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void
  /** Runs what was recorded. Up to two steps may be in flight; they complete in order. Rejects with DeviceLostError when the device goes. */
  /** Begins what was issued of the step so far: the rest is issued later. Absent where a step begins as a whole. */
  flush?(): void
  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput>

  // -- between steps --------------------------------------------------------------------------------------------------
  /** Opaque bytes of the blocks, kvBlockBytes each, ordered after every step begun so far. */
  readBlocks(blocks: readonly number[]): Promise<Uint8Array>
  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}

export interface BackendOptions {
  readonly limits: BackendLimits
  /** Measure per kernel (slower). */
  readonly traceKernels: boolean
  /** Elements of the KV pool; absent: the backend's own. */
  readonly kvFormat?: KvFormat
}

/** The device went away under the running steps. The runner fails them and loads again on a new device. */
export class DeviceLostError extends Error {
  override readonly name = 'DeviceLostError'
}
