/**
 * Lifecycle events of the engine, typed. They are published synchronously, in order; each subscriber runs in try/catch and none is
 * dropped. There is no event per token: a sequence keeps counters and hands them over with `finished`. Tracing, metrics and logs
 * subscribe; docs/events.md is generated from this file. Times are milliseconds of performance.now() in the engine's thread.
 */

/** Why the prompt's tokens were not all served from the prefix cache. Never tells of another tenant. */
export type CacheMissReason = 'none' | 'cold' | 'evicted' | 'diverged' | 'disabled'

/** content_filter comes from remote engines alone. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'error' | 'content_filter'

/**
 * What made a sequence stop where its reason is stop: an end token of the model's, a stop string or stop token of the request's, or its calls
 * of functions, which were complete.
 */
export type StopKind = 'eos' | 'stop_string' | 'stop_token' | 'tool_calls'

/** What a sequence counted over its life. Absent phases (never scheduled, never decoded) are null. */
export interface SequenceCounters {
  readonly numPromptTokens: number
  /** Tokens served from the prefix cache at first admission; with misses they add up to numPromptTokens. */
  readonly numCachedTokens: number
  readonly numMissTokens: number
  readonly missReason: CacheMissReason
  /** Prompt and output tokens computed again after preemptions. */
  readonly numRecomputedTokens: number
  readonly numPreemptions: number
  /** Generated tokens without the EOS or stop token that ended them. */
  readonly numGeneratedTokens: number
  /** Of the generated ones, those of the thought before the answer. */
  readonly numReasoningTokens: number
  readonly arrivedMs: number
  /** From its arrival to its grammar, compiled or found; 0 without one. Not part of its wait in the queue. */
  readonly grammarMs: number
  readonly firstScheduledMs: number | null
  readonly firstTokenMs: number | null
  readonly lastTokenMs: number | null
  /** When the prompt was computed, of a sequence that only scores it (max_tokens 0); null where tokens are generated. */
  readonly scoredMs: number | null
  readonly prefillChunks: number
  /** Forward passes after the first token that drew a token that counts: the one that drew the end token is not among them. */
  readonly decodeSteps: number
  /** Durations of the decode steps in microseconds, in order. */
  readonly decodeStepMicros: readonly number[]
  /** Sum over its steps of the rows in the step, and the number of steps: llm.batch.mean_rows. */
  readonly decodeRowSum: number
  /** Device time of the steps it took part in, and its share by rows; null without timestamps. */
  readonly prefillGpuMicros: number | null
  readonly prefillGpuShareMicros: number | null
  readonly decodeGpuMicros: number | null
  readonly decodeGpuShareMicros: number | null
  readonly numDraftTokens: number
  readonly numAcceptedTokens: number
}

interface RequestEvent {
  /** The server's id of the request, which its response carries (cmpl-…, chatcmpl-…); not the caller's X-Request-Id, nor a remote engine's id. */
  readonly requestId: string
  /** When it happened: milliseconds of performance.now(). */
  readonly atMs: number
}

/** A request arrived, before its body is read; refused ones too. Published by the server, for every route. */
interface RequestStartedEvent extends RequestEvent {
  readonly type: 'requestStarted'
  /** Its trace's id, 32 hexadecimal digits. */
  readonly traceId: string
  readonly method: string
  /** The route pattern; * where no route is at the path. */
  readonly route: string
  /** Whether it is a request for a generation, for retrieval, or neither. */
  readonly kind: 'generation' | 'retrieval' | 'other'
}

/** The body of a generation or retrieval request is valid: what it asks for, all its choices at once. Published by the server. */
interface RequestAcceptedEvent extends RequestEvent {
  readonly type: 'requestAccepted'
  readonly operation: 'text_completion' | 'chat' | 'embeddings' | 'retrieval'
  readonly model: string
  /** Sequences to come: prompts times n. */
  readonly numChoices: number
  /** Choices per prompt. */
  readonly n: number
  readonly stream: boolean
}

/** The response is over, however it ended: the last event of every `requestStarted`. Published by the server. */
interface RequestFinishedEvent extends RequestEvent {
  readonly type: 'requestFinished'
  /** Name of the row of the table of endings (docs/span-contract.md). */
  readonly ending: string
  /** HTTP status; null where none was sent. */
  readonly status: number | null
  /** From the request's arrival to the end of its response. */
  readonly durationMs: number
  /** Tokens of the final prompt; null where the engine never took the request. */
  readonly tokensIn: number | null
  /** Generated tokens so far; null likewise. */
  readonly tokensOut: number | null
  /** One per choice, as far as they have ended. */
  readonly finishReasons: readonly string[]
}

interface ChoiceEvent extends RequestEvent {
  /** Index of the sequence within the request: prompt index * n + choice. */
  readonly choice: number
}

/** The sequence entered the waiting queue. */
export interface QueuedEvent extends ChoiceEvent {
  readonly type: 'queued'
  /** Tokens of the sequence's final prompt. */
  readonly numPromptTokens: number
}

/** The grammar that holds the answer to its schema is there (`ok`), or cannot be had. Comes before `queued`. */
interface GrammarEvent extends RequestEvent {
  readonly type: 'grammar'
  readonly durationUs: number
  /** It was compiled for an earlier request. */
  readonly isCached: boolean
  readonly ok: boolean
}

/** The sequence got its first step (`first`), or its first after a preemption (`resume`). */
export interface ScheduledEvent extends ChoiceEvent {
  readonly type: 'scheduled'
  readonly kind: 'first' | 'resume'
  /** Microseconds in the queue. */
  readonly waitUs: number
  /** Prompt tokens found in the prefix cache, and not found. */
  readonly numCachedTokens: number
  readonly numMissTokens: number
  /** Why not all were found. */
  readonly missReason: CacheMissReason
}

/** A prefill chunk of the sequence was computed. */
interface PrefillChunkEvent extends ChoiceEvent {
  readonly type: 'prefillChunk'
  /** Number of the step since start. */
  readonly stepId: number
  /** Prompt tokens of the chunk. */
  readonly numTokens: number
}

/** The first token of the sequence reached the host. Exactly once, preemptions included. */
export interface FirstTokenEvent extends ChoiceEvent {
  readonly type: 'firstToken'
  /** Number of the step that made it. */
  readonly stepId: number
}

/** The sequence lost its blocks and went back to the queue; its tokens will be recomputed. */
interface PreemptedEvent extends ChoiceEvent {
  readonly type: 'preempted'
  readonly numComputedTokens: number
}

/** The sequence ended. Exactly once for every `queued`. */
export interface FinishedEvent extends ChoiceEvent {
  readonly type: 'finished'
  readonly reason: FinishReason
  /** What made it stop; null for another reason than stop, and where a remote engine does not say. */
  readonly stop: StopKind | null
  readonly counters: SequenceCounters
  /** Stable code when reason is error (engine_error, device_lost, upstream_*) or abort for another reason than the client (deadline, shutdown); else null. */
  readonly errorCode: string | null
  /** The error behind that code, with its cause; absent where there is none. */
  readonly error?: Error
}

/** Work of a KV tier was submitted for a request: counted before it starts. */
export interface KvSubmittedEvent extends RequestEvent {
  readonly type: 'kvSubmitted'
  readonly operationId: number
  readonly operation: 'lookup' | 'retrieve' | 'disk_read' | 'store'
  readonly numBlocks: number
}

/** The work ended, however it ended (published in a `finally`); a store when its blocks are on disk, where there is a disk tier. */
export interface KvDoneEvent extends RequestEvent {
  readonly type: 'kvDone'
  readonly operationId: number
  readonly operation: 'lookup' | 'retrieve' | 'disk_read' | 'store'
  /** Blocks really found, moved or kept; `bytes` are theirs. */
  readonly numBlocks: number
  readonly bytes: number
  /** False when less was done than was submitted: the rest is computed, or not kept. */
  readonly ok: boolean
  /** A short code of the first thing that failed (a system error's, device_lost, incomplete, too_many_writes); absent when ok. */
  readonly errorType?: string
}

/** Operations on KV tiers that ended, of one kind and outcome. */
export interface KvOperationCount {
  readonly operation: KvDoneEvent['operation']
  readonly outcome: 'ok' | 'error'
  readonly count: number
  readonly bytes: number
}

/** A step ran. Published for every step, with the requests it served. */
export interface StepEvent {
  readonly type: 'step'
  readonly stepId: number
  readonly startMs: number
  readonly atMs: number
  readonly numRows: number
  readonly numPrefillTokens: number
  readonly numDecodeTokens: number
  readonly numRunning: number
  readonly numWaiting: number
  readonly numFreeBlocks: number
  readonly numBlocks: number
  readonly gpuMicros: number | null
  readonly kernels: readonly { readonly kernel: string; readonly micros: number; readonly count: number }[] | null
  readonly requestIds: readonly string[]
}

export type EngineEvent =
  | RequestStartedEvent
  | RequestAcceptedEvent
  | RequestFinishedEvent
  | GrammarEvent
  | QueuedEvent
  | ScheduledEvent
  | PrefillChunkEvent
  | FirstTokenEvent
  | PreemptedEvent
  | FinishedEvent
  | KvSubmittedEvent
  | KvDoneEvent
  | StepEvent

/** Work that the engine does for one request. */
export interface EngineWork {
  readonly requestId: string
  /** A step of the model, or an operation on a KV tier. */
  readonly part: 'step' | KvDoneEvent['operation']
}

/**
 * A subscriber to the engine's events. `onEvent` must be cheap: the engine waits for what it does synchronously, never for a promise it
 * returns. What it throws or rejects with is counted and logged, never passed on.
 */
export interface EngineSubscriber {
  readonly name: string
  onEvent(event: EngineEvent): unknown
  /** Runs work in the subscriber's own context of it, so that what a library traces there nests. The first subscriber that has this is asked. */
  run?<T>(work: EngineWork, fn: () => T): T
}
