/**
 * The seam to compute. A Runner owns a model's weights and the KV pool and turns step plans into tokens; it lives in a worker
 * thread (`worker.ts`) in the server and in-process (`local.ts`) in tests. Everything that crosses is plain structured-cloneable data.
 */
import type { MemoryUse } from '../../kernels/backend.ts'
import type { KvFormat } from '../../kernels/ops.ts'
import type { SampleSpec, TokenLogprobs } from '../../kernels/sample-spec.ts'

export type { SampleSpec, TokenLogprobs } from '../../kernels/sample-spec.ts'

/** Drafts a sequence may have verified in one step: the planner proposes no more, and the runner sizes its sample rows for as many. */
export const MAX_DRAFT_TOKENS = 8

/** Sequences of a step that may have all their drafts verified at once: where more run, a row for each is what pays. */
const MAX_DRAFTING = 8

/** Rows that a step may sample. */
export function maxSampleRows(maxNumSeqs: number, speculation: boolean): number {
  return maxNumSeqs + (speculation ? Math.min(maxNumSeqs, MAX_DRAFTING) * MAX_DRAFT_TOKENS : 0)
}

/** Bytes, or a share of what the device offers. */
export type KvCacheMemory = { readonly bytes: number } | { readonly share: number }

export interface ModelRequest {
  /** A folder in Hugging Face layout or a .gguf file, on disk. */
  readonly path: string
  /** Adapters to serve it with, told apart by their names; absent: none. */
  readonly adapters?: readonly AdapterRequest[]
  readonly device: 'auto' | 'webgpu' | 'cpu' | 'reference'
  /** Name of the adapter that the device has to be; absent: any. */
  readonly adapter?: string
  readonly quantization: 'none' | 'q8' | 'q4'
  /** Elements of the KV pool; auto or absent: the device's own. */
  readonly kvCacheDtype?: 'auto' | 'f16' | 'q8'
  /** null: the model's own. */
  readonly maxModelLen: number | null
  readonly maxNumSeqs: number
  /** null: the device's default (512 on cpu and reference, 2048 on webgpu). */
  readonly maxNumBatchedTokens: number | null
  readonly blockSize: number
  /** null: by kvCacheMemory. */
  readonly numKvBlocks: number | null
  /** Slots for states; absent: by kvCacheMemory, none where the model keeps none. */
  readonly numStateSlots?: number
  /** Absent or null: what the sequences need, as far as the device has it. */
  readonly kvCacheMemory?: KvCacheMemory | null
  /** Drafts will be verified; absent: they will. */
  readonly speculation?: boolean
  /** null: physical cores, at most 8. */
  readonly threads: number | null
  /** Bytes of weights, KV and states that one memory of the cpu backend takes, for tests; absent: as many as it has room for. */
  readonly cpuMemoryBytes?: number
  readonly traceKernels: boolean
  /** Folder for packed weights and tuning results; null: none is written. */
  readonly cacheDir: string | null
  /** Of the KV pool, in the results of its steps; 0 where it is left out. */
  readonly poolId?: number
}

/** An adapter by the name that requests choose it by. */
export interface AdapterRequest {
  readonly name: string
  /** A PEFT folder or a GGUF file, on disk. */
  readonly path: string
}

/** What is known of a loaded adapter. */
export interface AdapterInfo {
  readonly name: string
  /** Identifies what it computes: KV blocks of an adapter are found again under the same digest only. */
  readonly digest: string
  /** The largest rank of its updates. */
  readonly rank: number
}

export interface ModelInfo {
  readonly architecture: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numLayers: number
  readonly maxModelLen: number
  readonly eosTokenIds: readonly number[]
  readonly bosTokenId: number | null
  readonly blockSize: number
  readonly numKvBlocks: number
  readonly blockBytes: number
  /** Slots for what the layers keep of a sequence beside K and V; 0: they keep nothing. */
  readonly numStateSlots: number
  readonly stateSlotBytes: number
  readonly maxNumBatchedTokens: number
  readonly weightBytes: number
  /** What the backend holds on its device once it is ready. */
  readonly memory: MemoryUse
  readonly quantization: string
  readonly device: {
    readonly kind: 'reference' | 'webgpu' | 'cpu'
    readonly adapter: string
    readonly driver: string
    readonly isSoftware: boolean
    readonly kvFormat: KvFormat
    readonly hasTimestamps: boolean
  }
  /** Identifies weights + layout: KV blocks may be reused across processes only under the same fingerprint. */
  readonly fingerprint: string
  /** In the order of the request: sequences name them by their index. */
  readonly adapters: readonly AdapterInfo[]
  /** What the operator should know of the load: packed weights that were damaged or could not be written. */
  readonly notices: readonly string[]
}

/** Where a sequence's input tokens of this step come from. */
type TokenSource =
  | { readonly ids: Int32Array }
  /** One token: what sample row `fromPreviousStep` of the previous step drew, not yet known to the planner. */
  | { readonly fromPreviousStep: number }

/** What one step does for one sequence: `n` tokens at positions startPosition .. startPosition + n - 1. */
export interface SequencePlan {
  readonly tokenSource: TokenSource
  readonly startPosition: number
  /** Block ids of positions 0.. in order, covering at least startPosition + n positions. */
  readonly blockTable: Int32Array
  /** Index in ModelInfo.adapters; absent: the model by itself. */
  readonly adapter?: number
  /** Slots of the pool of states: read from (-1: the text begins here), and written to. Absent: the model keeps no states. */
  readonly state?: { readonly read: number; readonly write: number }
  /** Sample after the last `numSampleRows` input tokens (0: none; 1: usual; more: drafts to verify). One spec a row. */
  readonly sample: readonly SampleSpec[]
  /** Prompt scoring: log-probability of targets[i] after input token i. */
  readonly score: { readonly targets: Int32Array; readonly topN: number } | null
}

export interface StepPlan {
  readonly stepId: number
  /** The pool that it relies on the content of; absent: none. On another one it is not run. */
  readonly poolId?: number
  /** Copies made before the step, in order: the first numTokens tokens of a block. */
  readonly blockCopies: readonly { readonly source: number; readonly destination: number; readonly numTokens: number }[]
  readonly sequences: readonly SequencePlan[]
}

/**
 * Masks that were not known when their step was planned, by sample row of the step. A row that is not among them is drawn from without one: what it
 * draws is of no use.
 */
export type LateMasks = ReadonlyMap<number, Uint32Array>

export interface SequenceResult {
  /** One a sample row. */
  readonly tokens: readonly number[]
  readonly logprobs: readonly (TokenLogprobs | null)[]
  readonly scores: readonly TokenLogprobs[]
}

export interface StepResult {
  readonly stepId: number
  /** The KV pool it ran on. 0 where it is left out. */
  readonly poolId?: number
  readonly sequences: readonly SequenceResult[]
  readonly gpuMicros: number | null
  readonly kernels: readonly { readonly kernel: string; readonly micros: number; readonly count: number }[] | null
  /** Wall time of the step in the runner. */
  readonly computeMs: number
}

/** Load progress: bytes of weights read so far and in total. */
export type ProgressListener = (doneBytes: number, totalBytes: number) => void

export interface Runner {
  /** Throws ModelError for a checkpoint that cannot be served. Call once. */
  load(model: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo>
  /**
   * Steps execute in call order; up to two may be in flight. `masks`, which never rejects, is awaited between the layers and the sampling of the
   * step; later steps wait for it too. Rejects with RunnerError.
   */
  execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult>
  /** Reads and writes reject with `pool_replaced` where `poolId` is given and another pool has taken that one's place. */
  readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array>
  writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void>
  /** `listener` is told what keeps steps from running, and with null when they run again. One listener. */
  onProblem?(listener: (problem: RunnerProblem | null) => void): void
  /** Idempotent; in-flight calls reject. */
  close(): Promise<void>
}

/** Why no step can run. */
export interface RunnerProblem {
  readonly reason: string
  /** What usually mends it has failed; it is tried again, and calls are rejected meanwhile. */
  readonly isFatal: boolean
}

/** A checkpoint that cannot be served: what was expected, what was found, what to try. Exit code 1. */
export class ModelError extends Error {
  override readonly name = 'ModelError'
  /** What the model asks of the device, memory above all, is at fault, and not its files: with more room it may be served. */
  readonly isOfDevice: boolean

  constructor(message: string, options: ErrorOptions & { readonly isOfDevice?: boolean } = {}) {
    super(message, options)
    this.isOfDevice = options.isOfDevice ?? false
  }
}

type RunnerErrorCode = 'engine_error' | 'device_lost' | 'pool_replaced' | 'closed'

/**
 * A call failed. `device_lost`: the runner is coming back, or trying to, with an empty KV pool; `pool_replaced`: it has come back since, and the call
 * was meant for the pool before; `engine_error`: a bug or broken input.
 */
export class RunnerError extends Error {
  override readonly name = 'RunnerError'
  readonly code: RunnerErrorCode
  /** Index in the plan of the sequence whose plan was refused before anything of the step ran; null: not one sequence's fault. */
  readonly sequence: number | null
  constructor(
    code: RunnerErrorCode,
    message: string,
    options: ErrorOptions & { readonly sequence?: number | null } = {},
  ) {
    super(message, options)
    this.code = code
    this.sequence = options.sequence ?? null
  }
}
