/**
 * What a backend does: everything that `decoder.ts` may ask of one.
 *
 * A step is: `beginStep(input)`, then ops in program order (each may execute at once or only be recorded), then
 * `endStep()`, which resolves with the few numbers the host needs.
 *
 * Row invariance (docs/architecture.md): the result of a row never depends on how many rows share the step, on which row
 * it is, or on where chunk borders fall.
 */
import type { AttentionOptions, HeadProductsOptions, QkvOptions } from './attention-options.ts'
import type {
  ActivateOptions,
  Activation,
  BackendLimits,
  Columns,
  ConvolutionOptions,
  ExpertMatrix,
  ExpertWeights,
  ExpertsOptions,
  GatedDeltaOptions,
  KvFormat,
  KvLayout,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixFormat,
  MatrixRows,
  Norm,
  Pooling,
  RopeTable,
  RouteOptions,
  Routing,
  RoutingShape,
  SelectiveScanOptions,
  StateLayout,
  StepInput,
  StepOutput,
  StreamOptions,
  Vector,
} from './ops.ts'
import type { SampleRow, ScoreRow } from './sample-spec.ts'

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
  /**
   * out[r] = table[tokens[r]] * scale; with `adds` it is added to what `out` holds, and a token that the table has no row of takes its first row.
   */
  embed(out: Activation, table: Matrix, scale: number, adds?: boolean): void
  /** out[r] += table[places[r]] */
  embedAdd(out: Activation, table: Matrix): void
  /** out = x W^T, see LinearOptions. out.cols = W.rows, or W.rows / 2 with glu. out must not be x. */
  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void
  /** out += up (down norm(x)) by the update of each row's adapter; rows without one stay as they are. out must not be x. */
  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void
  /** What `linear` does with a finished product, for one that something was added to. out must not be x. */
  activate(out: Activation, x: Activation, options: ActivateOptions): void
  /** residual = (residual + norm(x)) * scale (1 if left out): families that normalise a block's output before adding it. */
  normAdd(residual: Activation, x: Activation, norm: Norm, scale?: number): void
  /** out = norm(x), of each norm.weight.length columns by themselves; out may be x. */
  rmsNorm(out: Activation, x: Activation, norm: Norm): void
  /** residual = (residual + x) * scale */
  add(residual: Activation, x: Activation, scale: number): void
  /** x *= y, as many columns of it as x has. */
  multiply(x: Activation, y: Columns): void
  /** x = gelu_tanh(max(0, x - mean - deviations * deviation)), mean and standard deviation of the row: all but the largest become 0. */
  sparseGelu(x: Activation, deviations: number): void
  /** x *= rms(reference) / max(rms(x), sqrt(1e-5)), the root mean squares of the row. */
  matchLength(x: Activation, reference: Activation): void
  /** With c = coefficients tanh(logits): every stream i += the sum over j of c[i, j] stream j, all as they were; out = the active stream then. */
  predictStreams(out: Activation, options: StreamOptions): void
  /** With c = coefficients tanh(logits): every stream i += (1 + c[i]) (x - the active stream as it was); x = the active stream then, times scale. */
  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void
  /** out = norm(x); out may be x. */
  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void
  /** Chooses each row's experts by the logits of all of them, [rows, numExperts]. The lowest of equal experts is chosen first. */
  route(routing: Routing, logits: Activation, options: RouteOptions): void
  /**
   * out = the sum over a row's experts of weight * (act(x Wg^T + bg) * (x Wu^T + bu) Wd^T + bd), added up from the largest score down. out may be x.
   * Experts without a gate: act(x Wu^T + bu) Wd^T + bd.
   */
  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void
  /**
   * qkv [rows, (numHeads + 2 numKvHeads) headDim]: q and k normalised and rotated; q written to `q` [rows, numHeads headDim],
   * k and v to the pool at the row's slot. With `isQueryOnly` there is q alone, and nothing is stored.
   */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void
  /** out[r, h, i] = head h of x[r] times its vector i. out [rows, numHeads count], from a column on. */
  headProducts(out: Columns, options: HeadProductsOptions): void
  /** Attention of every row over its sequence's blocks, own chunk included (already stored), causal or not. out [rows, numHeads headDim] */
  attention(out: Activation, q: Activation, options: AttentionOptions): void
  /**
   * From here on the step has its output rows only (`StepInput.outputRows`): those of each activation move to its front, in their order, and what is in
   * the others is lost. Ops that write to K and V or to states, and bidirectional attention, may
   * not follow. At most once a step.
   */
  keepOutputs(activations: readonly Activation[]): void
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
