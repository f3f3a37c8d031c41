/**
 * The interface of a compute backend: everything that a model's forward pass may call.
 *
 * A step is `beginStep(input)`, then ops in program order (a backend may execute each at once or only record it), then
 * `endStep()`, which resolves with the few numbers the host needs.
 *
 * Row invariance (docs/architecture.md): the result of a row never depends on how many rows share the step, on its index
 * in the step, or on where a prompt is split into chunks.
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
  /** Bytes the KV pool may take; null when the backend does not know. */
  readonly memoryBudgetBytes: number | null
}

/** Device memory that a backend holds, in bytes. */
export interface MemoryUse {
  /** Matrices and vectors, as packed. */
  readonly weightBytes: number
  /** The paged KV pool and the state pool. */
  readonly kvCacheBytes: number
  /** Activations, rotary tables, logits and other working buffers of a step. */
  readonly scratchBytes: number
}

/**
 * A matrix in a backend's own layout, to be cached on disk. The planes are views of the backend's memory: they are valid until the promise of
 * the callback that received them resolves.
 */
export interface PackedMatrix {
  readonly format: MatrixFormat
  /** The backend's own metadata for the planes; opaque to callers. */
  readonly form: Readonly<Record<string, number>>
  readonly planes: readonly Uint8Array[]
}

/** A packed matrix whose planes are still on disk. */
export interface StoredMatrix {
  readonly format: MatrixFormat
  readonly form: Readonly<Record<string, number>>
  readonly planeBytes: readonly number[]
  /** Reads plane `index` into `target`, which has the plane's length. */
  read(index: number, target: Uint8Array): Promise<void>
}

export interface MatrixUse {
  /** The matrix will be used with LinearOptions.glu (a backend may interleave gate and up rows). */
  readonly glu?: boolean
  /** Receives the packed matrix before `loadMatrix` resolves. */
  readonly onPacked?: (packed: PackedMatrix) => Promise<void>
}

export interface ExpertsUse {
  /** As MatrixUse.glu, for every expert. */
  readonly glu?: boolean
  /** Receives each expert's packed matrix, in expert order. */
  readonly onPacked?: (packed: PackedMatrix, expert: number) => Promise<void>
}

/** The ops of a forward pass, recorded once and run by every step. Opaque to callers. */
export interface OpSequence {
  readonly label: string
}

/** The sequence of a backend that calls the ops again in every step. */
export interface RepeatedOps extends OpSequence {
  readonly ops: () => void
}

/** How logits are computed: the arguments that `sample` and `score` will receive. */
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
  /** Identifies the layout of packed matrices. A matrix can be imported only by a backend with the layout that exported it. */
  readonly packedLayout: string
  /** Loads a matrix that `onPacked` received in an earlier run. @throws RangeError when sizes or form do not match, and whatever `read` throws */
  importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix, use?: MatrixUse): Promise<Matrix>
  /**
   * Loads one matrix of `rows` x `cols` per expert. `load` is called for one expert at a time, so the host holds at most one of them.
   * @throws when their formats differ
   */
  loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix>
  /** Loads experts that `loadExperts` packed in an earlier run. @throws as `importMatrix` does */
  importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix>
  loadVector(label: string, values: Float32Array): Vector
  /**
   * Loads each adapter's update of a matrix of `rows` x `cols`; an adapter without parts does not change it.
   * @throws RangeError for a part of the wrong size
   */
  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank
  /** `attentionFactor` multiplies cos and sin (YaRN, LongRoPE); 1 otherwise. */
  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable
  createActivation(label: string, cols: number): Activation
  /** Allocates the routing of `maxRows` rows; all layers of this shape share it. */
  createRouting(label: string, shape: RoutingShape): Routing
  /** Allocates the paged pool; call once, after the weights. */
  createKvCache(layout: KvLayout): void
  /** Bytes per block: K and V of all layers. */
  kvBlockBytes(layout: KvLayout): number
  /** The most blocks a pool can have (limited by the device's largest binding); Infinity where only memory limits it. */
  maxKvBlocks(layout: KvLayout): number
  /** Allocates the state pool; call at most once, after the weights. Slots need not be cleared: every slot is written before it is read. */
  createStatePool(layout: StateLayout): void
  /** Bytes per slot: the states of all layers. */
  stateSlotBytes(layout: StateLayout): number
  /** The most slots a pool can have. */
  maxStateSlots(layout: StateLayout): number
  /**
   * Records the ops that `ops` calls (all but sample and score), so that each step can run them as a whole. Call it before `ready`, which
   * checks shapes and precomputes whatever does not depend on the step. The backend may call `ops` at once, later, or several times.
   * `head`: null for a model without logits.
   */
  record(label: string, ops: () => void, head: HeadCall | null): OpSequence
  /**
   * Allocates up to `atMostBytes` on the device to learn how much is free, frees it, and returns the bytes that were allocated. Absent where
   * `info.memoryBudgetBytes` is known or the device shares the host's memory.
   */
  tryAllocate?(atMostBytes: number): Promise<number>
  /** Call once all weights are loaded: compiles pipelines, warms up, frees staging memory. */
  ready(signal?: AbortSignal): Promise<void>
  /** Memory held now, without the buffers of a step in flight. */
  memoryUse(): MemoryUse

  // -- a step, in program order ---------------------------------------------------------------------------------------
  /** Copies K and V of the first `numTokens` tokens of block `source` to block `destination`, in all layers, before this step's ops. */
  copyBlock(source: number, destination: number, numTokens: number): void
  beginStep(input: StepInput): void
  /** Runs the recorded ops in order. Ops may also be called one by one, at a higher cost. */
  run(sequence: OpSequence): void
  /**
   * out[r] = table[tokens[r]] * scale. With `adds`, out[r] += table[tokens[r]] * scale, and a token beyond the table's rows uses row 0.
   */
  embed(out: Activation, table: Matrix, scale: number, adds?: boolean): void
  /** out[r] += table[places[r]] */
  embedAdd(out: Activation, table: Matrix): void
  /** out = x W^T, see LinearOptions. out.cols = W.rows, or W.rows / 2 with glu. out must not be x. */
  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void
  /** out += up (down norm(x)) with the matrices of each row's adapter; rows without an adapter do not change. out must not be x. */
  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void
  /** Applies an activation as `linear` does, to a product x that `addLowRank` has changed since. out must not be x. */
  activate(out: Activation, x: Activation, options: ActivateOptions): void
  /** residual = (residual + norm(x)) * scale (default 1), for families that normalise a block's output before adding it. */
  normAdd(residual: Activation, x: Activation, norm: Norm, scale?: number): void
  /** out = norm(x), computed separately for each group of norm.weight.length columns; out may be x. */
  rmsNorm(out: Activation, x: Activation, norm: Norm): void
  /** residual = (residual + x) * scale */
  add(residual: Activation, x: Activation, scale: number): void
  /** x *= y, which must have x.cols columns from its offset on. */
  multiply(x: Activation, y: Columns): void
  /** x = gelu_tanh(max(0, x - mean - deviations * deviation)), with the row's mean and standard deviation: keeps only the largest values. */
  sparseGelu(x: Activation, deviations: number): void
  /** x *= rms(reference) / max(rms(x), sqrt(1e-5)), with the root mean squares of each row. */
  matchLength(x: Activation, reference: Activation): void
  /** With c = coefficients tanh(logits): stream i += the sum over j of c[i, j] stream j, for all i at once; then out = the active stream. */
  predictStreams(out: Activation, options: StreamOptions): void
  /** With c = coefficients tanh(logits): stream i += (1 + c[i]) (x - the active stream), for all i at once; then x = the active stream * scale. */
  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void
  /** out = norm(x); out may be x. */
  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void
  /** Chooses each row's experts from the router's logits, [rows, numExperts]. Ties go to the lowest index. */
  route(routing: Routing, logits: Activation, options: RouteOptions): void
  /**
   * out = the sum over a row's experts of weight * ((act(x Wg^T + bg) * (x Wu^T + bu)) Wd^T + bd), in descending order of score. out may be x.
   * Experts without a gate: act(x Wu^T + bu) Wd^T + bd.
   */
  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void
  /**
   * Normalises and rotates q and k of `qkv` [rows, (numHeads + 2 numKvHeads) headDim], then writes q to `q` [rows, numHeads headDim] and
   * k and v to the pool at the row's slot. With `isQueryOnly`, `qkv` holds q only and nothing is stored.
   */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void
  /** out[r, h, i] = the dot product of head h of x[r] with vector i of that head. out [rows, numHeads count] */
  headProducts(out: Columns, options: HeadProductsOptions): void
  /** Attention of every row over its sequence's blocks, which already include this step's rows. out [rows, numHeads headDim] */
  attention(out: Activation, q: Activation, options: AttentionOptions): void
  /**
   * Reduces the step to its output rows (`StepInput.outputRows`): moves them to the front of each activation, in order, and discards the other
   * rows. No op that writes K, V or states may follow, nor bidirectional attention. At most once per step.
   */
  keepOutputs(activations: readonly Activation[]): void
  /** Pools each sequence into one row of `StepOutput.pooled`. At most once per step. */
  pool(x: Activation, pooling: Pooling): void
  /** x *= sigmoid(gate). `gate` has x.cols columns, or one column for all of them. */
  sigmoidGate(x: Activation, gate: Activation): void
  /** Causal convolution of each channel over a sequence's tokens. Continues from the sequence's state and updates it. out [rows, channels] */
  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void
  /**
   * The gated delta rule, token by token; continues from the sequence's state S and updates it. x holds q, k [numKeyHeads, keyDim] and
   * v [heads, valueDim]; q and k are scaled to unit length, then q is divided by sqrt(keyDim). For each head: S *= exp(decayRate softplus(step + stepBias));
   * S += sigmoid(beta) (v - S k) k^T; out = norm(S q) silu(gate). out [rows, heads valueDim]. Source: arXiv 2412.06464.
   */
  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void
  /**
   * Mamba-2's selective state space, token by token; continues from the sequence's state S and updates it. x holds v [heads, valueDim], k and q
   * [numKeyHeads, keyDim] (x, B and C in the paper). For each head, with dt = softplus(step + stepBias): S = exp(decayRate dt) S + dt v k^T;
   * out = norm((S q + skip v) silu(gate)). out [rows, heads valueDim]. Source: arXiv 2405.21060.
   */
  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void
  /** Computes the logits of the sample rows in backend memory and draws a token from each. At most once per step. */
  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void
  /** Log-probabilities of given tokens, computed in chunks of rows. At most once per step. */
  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void
  /** Starts the ops of this step that were issued so far; more may follow. Absent where a step always starts as a whole. */
  flush?(): void
  /** Ends the step and runs its ops. Up to two steps may be in flight; they complete in order. Rejects with DeviceLostError when the device is lost. */
  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput>

  // -- between steps --------------------------------------------------------------------------------------------------
  /** Opaque bytes of the blocks, kvBlockBytes each, as they are after every step begun so far. */
  readBlocks(blocks: readonly number[]): Promise<Uint8Array>
  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}

export interface BackendOptions {
  readonly limits: BackendLimits
  /** Measures each kernel (slower). */
  readonly traceKernels: boolean
  /** Element format of the KV pool; absent: the backend's default. */
  readonly kvFormat?: KvFormat
}

/** The device was lost while steps were running. The runner fails those steps and loads the model again on a new device. */
export class DeviceLostError extends Error {
  override readonly name = 'DeviceLostError'
}
