/**
 * Types of the engine's lifecycle events. Events are published synchronously and in order, and none is dropped. There is no event per token: a
 * sequence keeps counters, which its `finished` event carries. Tracing, metrics and logs subscribe. docs/events.md is generated from this file.
 * Times are milliseconds of performance.now() in the engine's thread.
 */

/** Why not all tokens of a prompt were served from the prefix cache. It reveals nothing about other tenants. */
export type CacheMissReason = 'none' | 'cold' | 'evicted' | 'diverged' | 'disabled'

/** Only remote engines report content_filter. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'error' | 'content_filter'

/**
 * What made a sequence with the reason `stop` stop: an end token of the model, a stop string or stop token of the request, or the completion of
 * its function calls.
 */
export type StopKind = 'eos' | 'stop_string' | 'stop_token' | 'tool_calls'

/** Counters of a sequence over its life. Values of phases that it never reached (scheduling, decoding) are null. */
export interface SequenceCounters {
  readonly numPromptTokens: number
  /** Tokens served from the prefix cache at the first admission. Together with the misses they make numPromptTokens. */
  readonly numCachedTokens: number
  readonly numMissTokens: number
  readonly missReason: CacheMissReason
  /** Prompt and output tokens computed again after preemptions. */
  readonly numRecomputedTokens: number
  readonly numPreemptions: number
  /** Generated tokens without the EOS or stop token that ended them. */
  readonly numGeneratedTokens: number
  /** Generated tokens that belong to the reasoning before the answer. */
  readonly numReasoningTokens: number
  readonly arrivedMs: number
  /** Time from arrival until the grammar was compiled or found; 0 without a grammar. Not part of the wait in the queue. */
  readonly grammarMs: number
  readonly firstScheduledMs: number | null
  readonly firstTokenMs: number | null
  readonly lastTokenMs: number | null
  /** When the prompt was computed, for a sequence that only scores it (max_tokens 0); null if tokens are generated. */
  readonly scoredMs: number | null
  readonly prefillChunks: number
  /** Forward passes after the first token that drew tokens of the answer. The pass that drew the end token is not included. */
  readonly decodeSteps: number
  /** Durations of the decode steps in microseconds, in order. */
  readonly decodeStepMicros: readonly number[]
  /** Sum of the rows of its decode steps, for llm.batch.mean_rows. */
  readonly decodeRowSum: number
  /** Device time of its steps, and its share by rows; null if the device has no timestamps. */
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
  /** Trace id, 32 hexadecimal digits. */
  readonly traceId: string
  readonly method: string
  /** The route pattern; * if no route matches the path. */
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
  /** The ending: a row of the table of endings in docs/span-contract.md. */
  readonly ending: string
  /** HTTP status; null if none was sent. */
  readonly status: number | null
  /** From the request's arrival to the end of its response. */
  readonly durationMs: number
  /** Tokens of the final prompt; null if the engine did not accept the request. */
  readonly tokensIn: number | null
  /** Generated tokens so far; null in the same case. */
  readonly tokensOut: number | null
  /** Finish reasons of the choices that have ended. */
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

/** The grammar of the answer is compiled (`ok`), or cannot be compiled. Precedes `queued`. */
interface GrammarEvent extends RequestEvent {
  readonly type: 'grammar'
  readonly durationUs: number
  /** Whether it was compiled for an earlier request. */
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
  /** Number of the step that drew it. */
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
  /** What made it stop; null for reasons other than stop, and if a remote engine does not report it. */
  readonly stop: StopKind | null
  readonly counters: SequenceCounters
  /** Stable code if the reason is error (engine_error, device_lost, upstream_*), or an abort not caused by the client (deadline, shutdown); else null. */
  readonly errorCode: string | null
  /** The error behind that code, with its cause; absent if there is none. */
  readonly error?: Error
}

/** An operation on a KV tier was submitted for a request. Published before it starts. */
export interface KvSubmittedEvent extends RequestEvent {
  readonly type: 'kvSubmitted'
  readonly operationId: number
  readonly operation: 'lookup' | 'retrieve' | 'disk_read' | 'store'
  readonly numBlocks: number
}

/** The operation ended, successfully or not. A store ends when its blocks are on disk, if there is a disk tier. */
export interface KvDoneEvent extends RequestEvent {
  readonly type: 'kvDone'
  readonly operationId: number
  readonly operation: 'lookup' | 'retrieve' | 'disk_read' | 'store'
  /** Blocks that were actually found, moved or stored, and their bytes. */
  readonly numBlocks: number
  readonly bytes: number
  /** False if less was done than submitted. The rest is computed, or not stored. */
  readonly ok: boolean
  /** Short code of the first failure (a system error code, device_lost, incomplete, too_many_writes); absent if ok. */
  readonly errorType?: string
}

/** Total of finished operations on KV tiers with one kind and outcome. */
export interface KvOperationCount {
  readonly operation: KvDoneEvent['operation']
  readonly outcome: 'ok' | 'error'
  readonly count: number
  readonly bytes: number
}

/** A step has run. Published for every step, with the requests that it served. */
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

/** Work of the engine for one request. */
export interface EngineWork {
  readonly requestId: string
  /** A step of the model, or an operation on a KV tier. */
  readonly part: 'step' | KvDoneEvent['operation']
}

/**
 * A subscriber to the engine's events. `onEvent` must be cheap: the engine waits for its synchronous part, but never for a promise that it
 * returns. Errors and rejections are counted and logged, and affect nothing else.
 */
export interface EngineSubscriber {
  readonly name: string
  onEvent(event: EngineEvent): unknown
  /** Runs work in the subscriber's context, so that spans of libraries nest there. Only the first subscriber with this method is used. */
  run?<T>(work: EngineWork, fn: () => T): T
}
