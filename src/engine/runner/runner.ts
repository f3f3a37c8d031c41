/**
 * The interface between the engine and compute. A Runner owns a model's weights and its KV pool, and turns step plans into tokens. In the server it runs
 * in a worker thread (`worker.ts`), in tests in the calling thread (`local.ts`). Everything that crosses the interface can be cloned to another thread.
 */
import type { MemoryUse } from '../../kernels/backend.ts'
import type { KvFormat } from '../../kernels/ops.ts'
import type { SampleSpec, TokenLogprobs } from '../../kernels/sample-spec.ts'

export type { SampleSpec, TokenLogprobs } from '../../kernels/sample-spec.ts'

/** The most drafts of a sequence that one step verifies. The planner proposes no more, and the runner sizes its sample rows for as many. */
export const MAX_DRAFT_TOKENS = 8

/** How many sequences of a step may have MAX_DRAFT_TOKENS drafts. With more sequences than that, drafts do not pay. */
const MAX_DRAFTING = 8

/** The most rows that a step may sample. */
export function maxSampleRows(maxNumSeqs: number, speculation: boolean): number {
  return maxNumSeqs + (speculation ? Math.min(maxNumSeqs, MAX_DRAFTING) * MAX_DRAFT_TOKENS : 0)
}

/** Memory for the pools: in bytes, or as a share of what the device offers. */
export type KvCacheMemory = { readonly bytes: number } | { readonly share: number }

export interface ModelRequest {
  /** A folder in Hugging Face layout or a .gguf file, on disk. */
  readonly path: string
  /** Adapters to serve with the model. Their names differ. Absent: none. */
  readonly adapters?: readonly AdapterRequest[]
  readonly device: 'auto' | 'webgpu' | 'cpu' | 'reference'
  /** Name that the device has to have; absent: any. */
  readonly adapter?: string
  readonly quantization: 'none' | 'q8' | 'q4'
  /** Format of the KV pool's elements; auto or absent: the device's default. */
  readonly kvCacheDtype?: 'auto' | 'f16' | 'q8'
  /** null: the model's own limit. */
  readonly maxModelLen: number | null
  readonly maxNumSeqs: number
  /** null: the device's default (512 on cpu and reference, 2048 on webgpu). */
  readonly maxNumBatchedTokens: number | null
  readonly blockSize: number
  /** null: as many as kvCacheMemory has room for. */
  readonly numKvBlocks: number | null
  /** Slots for states; absent: as many as kvCacheMemory has room for, or none where the model keeps no states. */
  readonly numStateSlots?: number
  /** Absent or null: what the sequences need, if the device has as much. */
  readonly kvCacheMemory?: KvCacheMemory | null
  /** Whether steps may verify drafts; absent: they may. */
  readonly speculation?: boolean
  /** null: physical cores, at most 8. */
  readonly threads: number | null
  /** For tests: bytes of weights, KV and states per WebAssembly memory of the cpu backend; absent: as many as it has room for. */
  readonly cpuMemoryBytes?: number
  readonly traceKernels: boolean
  /** Folder for packed weights and tuning results; null: none are written. */
  readonly cacheDir: string | null
  /** Number of the KV pool, which the results of its steps carry; absent: 0. */
  readonly poolId?: number
}

/** An adapter to load, and the name by which requests choose it. */
export interface AdapterRequest {
  readonly name: string
  /** A PEFT folder or a GGUF file, on disk. */
  readonly path: string
}

/** A loaded adapter. */
export interface AdapterInfo {
  readonly name: string
  /** Identifies what the adapter computes. Its KV blocks are found again only under the same digest. */
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
  /** Slots for states, which some layers keep of a sequence instead of K and V; 0: the model keeps none. */
  readonly numStateSlots: number
  readonly stateSlotBytes: number
  readonly maxNumBatchedTokens: number
  readonly weightBytes: number
  /** Memory that the backend holds on its device after loading. */
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
  /** Identifies weights and KV layout. Another process may reuse KV blocks only under the same fingerprint. */
  readonly fingerprint: string
  /** In the order of the request. Sequences name an adapter by its index. */
  readonly adapters: readonly AdapterInfo[]
  /** Messages for the operator, such as packed weights that were damaged or could not be written. */
  readonly notices: readonly string[]
}

/** Where a sequence's input tokens of this step come from. */
type TokenSource =
  | { readonly ids: Int32Array }
  /** One token, which the planner does not know yet: the one that sample row `fromPreviousStep` of the previous step draws. */
  | { readonly fromPreviousStep: number }

/** What one step does for one sequence: `n` tokens at positions startPosition .. startPosition + n - 1. */
export interface SequencePlan {
  readonly tokenSource: TokenSource
  readonly startPosition: number
  /** Ids of the blocks from position 0 on, in order, covering at least startPosition + n positions. */
  readonly blockTable: Int32Array
  /** Index in ModelInfo.adapters; absent: no adapter. */
  readonly adapter?: number
  /** Slots of the pool of states to read from (-1: the text begins here) and to write to; absent: the model keeps no states. */
  readonly state?: { readonly read: number; readonly write: number }
  /** How to sample after each of the last `sample.length` input tokens: usually one; more where drafts are verified; none within a prompt. */
  readonly sample: readonly SampleSpec[]
  /** Prompt scoring: the log-probability of targets[i] after input token i; null: none. */
  readonly score: { readonly targets: Int32Array; readonly topN: number } | null
}

export interface StepPlan {
  readonly stepId: number
  /** The KV pool whose content the plan relies on: it is not run on another one. Absent: any pool. */
  readonly poolId?: number
  /** Copies of the first `numTokens` tokens of a block, made in this order before the step. */
  readonly blockCopies: readonly { readonly source: number; readonly destination: number; readonly numTokens: number }[]
  readonly sequences: readonly SequencePlan[]
}

/**
 * Masks that were not known when their step was planned, by sample row of the step. A row without one is sampled without a mask, and its token is not
 * used.
 */
export type LateMasks = ReadonlyMap<number, Uint32Array>

export interface SequenceResult {
  /** One token per sample row. */
  readonly tokens: readonly number[]
  readonly logprobs: readonly (TokenLogprobs | null)[]
  readonly scores: readonly TokenLogprobs[]
}

export interface StepResult {
  readonly stepId: number
  /** The KV pool that the step ran on; absent: 0. */
  readonly poolId?: number
  readonly sequences: readonly SequenceResult[]
  readonly gpuMicros: number | null
  readonly kernels: readonly { readonly kernel: string; readonly micros: number; readonly count: number }[] | null
  /** Wall time of the step in the runner, in milliseconds. */
  readonly computeMs: number
}

/** Load progress: bytes of weights read so far and in total. */
export type ProgressListener = (doneBytes: number, totalBytes: number) => void

export interface Runner {
  /** Call once. @throws ModelError for a checkpoint that cannot be served */
  load(model: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo>
  /**
   * Runs a step. Steps run in call order; up to two may be in flight. Rejects with RunnerError.
   * @param masks awaited between the step's layers and its sampling, and later steps wait for it too; never rejects
   */
  execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult>
  /** Reads and writes of blocks reject with `pool_replaced` if `poolId` is given and that pool has been replaced. */
  readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array>
  writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void>
  /** Calls `listener` with what keeps steps from running, and with null when they run again. There is one listener. */
  onProblem?(listener: (problem: RunnerProblem | null) => void): void
  /** Idempotent; in-flight calls reject. */
  close(): Promise<void>
}

/** Why no step can run. */
export interface RunnerProblem {
  readonly reason: string
  /** Recovery has failed at least once. It is tried again, and calls are rejected meanwhile. */
  readonly isFatal: boolean
}

/** Messages quote values and names of files that may be damaged or hostile: as long as the file, with control sequences for a terminal. */
const MAX_MESSAGE_CHARACTERS = 4000

function printable(message: string): string {
  const isLong = message.length > MAX_MESSAGE_CHARACTERS
  return (isLong ? `${message.slice(0, MAX_MESSAGE_CHARACTERS)}…` : message).replace(/[^\P{Cc}\n\t]/gu, '�')
}

/** A checkpoint that cannot be served. The message says what was expected, what was found and what to try. The process exits with code 1. */
export class ModelError extends Error {
  override readonly name = 'ModelError'
  /** The device is at fault, mostly for lack of memory, and not the model's files: another device may serve it. */
  readonly isOfDevice: boolean

  constructor(message: string, options: ErrorOptions & { readonly isOfDevice?: boolean } = {}) {
    super(printable(message), options)
    this.isOfDevice = options.isOfDevice ?? false
  }
}

type RunnerErrorCode = 'engine_error' | 'device_lost' | 'pool_replaced' | 'closed'

/**
 * A failed call. `device_lost`: the runner is recovering, and will have an empty KV pool. `pool_replaced`: it has recovered, and the call was meant for
 * the earlier pool. `engine_error`: a bug or invalid input. `closed`: the runner was closed.
 */
export class RunnerError extends Error {
  override readonly name = 'RunnerError'
  readonly code: RunnerErrorCode
  /** Index of the sequence with an invalid plan, found before any of the step ran; null: no single sequence is at fault. */
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
