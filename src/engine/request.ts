/** The interface of an engine, local (engine.ts) or remote (../remote): its requests, events, errors and statistics. */
import type { EngineSubscriber, KvOperationCount, FinishReason, SequenceCounters } from './events.ts'
import type { ModelInfo, TokenLogprobs } from './runner/runner.ts'

/** A function call that an earlier turn of the assistant made. */
interface ToolCall {
  readonly id: string
  readonly name: string
  /** JSON, as the model wrote it. */
  readonly arguments: string
}

export interface ChatMessage {
  readonly role: string
  readonly content: string
  /** Reasoning of an earlier assistant turn. */
  readonly reasoning?: string
  readonly name?: string
  readonly toolCalls?: readonly ToolCall[]
  /** The id of the call that a message with the role tool answers. */
  readonly toolCallId?: string
}

/** A piece of a function call. The first piece of each index has the id and the name, later ones only more arguments. */
export interface ToolCallDelta {
  /** Number of the call within its choice, from 0. */
  readonly index: number
  readonly id: string | null
  readonly name: string | null
  readonly arguments: string
}

/** A function that the model may call, as OpenAI's API describes it and chat templates expect it: `{type: 'function', function: {...}}`. */
export type ToolDefinition = Readonly<Record<string, unknown>>

/** The function calls that a request allows or requires. The prompt describes the functions; this says how to read the answer. */
export interface ToolUse {
  readonly tools: readonly ToolDefinition[]
  /** `auto`: the model decides. `required`: at least one call. A name: exactly one call of that function. */
  readonly choice: 'auto' | 'required' | { readonly name: string }
  /** One answer may contain several calls. */
  readonly parallel: boolean
  /** The field of a tool with the schema of its arguments, for messages. Default: function.parameters. */
  readonly parametersField?: string
}

export type PromptInput =
  /** `param`: the request field with the ids. Default: prompt. */
  | { readonly ids: readonly number[]; readonly param?: string }
  | { readonly text: string }
  | {
      readonly messages: readonly ChatMessage[]
      readonly tools?: readonly ToolDefinition[]
      readonly continueFinalMessage?: boolean
      /** The prompt ends where the assistant's turn begins. Default: true, unless the final message is continued. */
      readonly addGenerationPrompt?: boolean
      /** Further variables for the chat template, such as `enable_thinking`. */
      readonly templateArguments?: Readonly<Record<string, unknown>>
    }

export interface SamplingParams {
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
  /** null: drawn at random for the request. */
  readonly seed: number | null
  readonly presencePenalty: number
  readonly frequencyPenalty: number
  readonly repetitionPenalty: number
  readonly logitBias: Readonly<Record<number, number>> | null
}

/** A constraint on the output, compiled in structured/. */
export type StructuredOutput = (
  | { readonly kind: 'json_object' }
  /** `isStrict`: a schema that cannot be enforced completely is refused. */
  | { readonly kind: 'json_schema'; readonly schema: unknown; readonly isStrict?: boolean }
  | { readonly kind: 'regex'; readonly pattern: string }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  | { readonly kind: 'grammar'; readonly ebnf: string }
) & {
  /** The request field with the constraint. Default: response_format for JSON, else structured_outputs. */
  readonly param?: string
}

/** One call to another engine, for tracing. */
interface UpstreamCall {
  /** W3C trace context. */
  readonly headers: Readonly<Record<string, string>>
  /** Sends the request, so that spans of an HTTP library nest below this call. */
  run<T>(send: () => T): T
  /** `status`: null if there was no answer. `responseId`: the answer's id at the other engine. `error`: a stable code, null for success. */
  end(outcome: {
    readonly status: number | null
    readonly responseId: string | null
    readonly error: string | null
  }): void
}

export interface GenerationRequest {
  /** The cmpl-... or chatcmpl-... id. */
  readonly requestId: string
  readonly prompts: readonly PromptInput[]
  /** Name of one of the model's adapters; absent: the model without an adapter. */
  readonly adapter?: string
  /** Choices per prompt; choice index = prompt index * n + i. */
  readonly n: number
  /** Limit on new tokens; 0: only score the prompt. */
  readonly maxTokens: number
  readonly minTokens: number
  readonly sampling: SamplingParams
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly includeStopString: boolean
  readonly ignoreEos: boolean
  /** -1: none; N from 0 to 20: log-probabilities of the sampled token and of the N most likely ones. */
  readonly logprobs: number
  /** -1: none; N from 0 to 20: the same for the prompt's tokens, in the first event of a choice. */
  readonly promptLogprobs: number
  readonly structured: StructuredOutput | null
  /** Absent: function calls are not looked for. */
  readonly toolUse?: ToolUse
  /** Reasoning is reported separately from the answer. */
  readonly separatesReasoning?: boolean
  /** Limit on reasoning tokens; absent: no limit. */
  readonly thinkingBudget?: number
  /** Separates tenants in the prefix cache. Derived from the API key, or the caller's cache_salt. */
  readonly cacheSalt: string
  /** The tenant. Tenants take turns in every queue, and priorities apply within a tenant. Default: cacheSalt. */
  readonly tenant?: string
  /** Lower runs first. Equal priorities run in the order of arrival. */
  readonly priority: number
  /** Time of performance.now() after which the request ends with the error code `deadline`; null: none. */
  readonly deadlineMs: number | null
  /** Called before each call of a remote engine. The returned headers are sent, and `end` is called when the call is over. */
  readonly onUpstreamCall?: (url: string) => UpstreamCall
}

export interface ChoiceLogprob {
  readonly tokenId: number
  readonly token: string
  readonly bytes: readonly number[]
  readonly detail: TokenLogprobs
  readonly top: readonly {
    readonly tokenId: number
    readonly token: string
    readonly bytes: readonly number[]
    readonly logprob: number
  }[]
}

/** The prompt was accepted: the first event of a prompt. A remote engine repeats it once its number of tokens is known (0 until then). */
export interface PromptEvent {
  readonly type: 'prompt'
  readonly promptIndex: number
  /** null if a remote engine tokenizes. */
  readonly tokenIds: readonly number[] | null
  readonly numTokens: number
  /** Constraints of the request that are not enforced, as sentences for the caller. */
  readonly warnings?: readonly string[]
}

/** Log-probabilities of a prompt (echo with logprobs). Entry i belongs to token i; the first is null. */
export interface PromptLogprobsEvent {
  readonly type: 'promptLogprobs'
  readonly promptIndex: number
  readonly entries: readonly (ChoiceLogprob | null)[]
}

/** New tokens of a choice. `text` may be empty while an incomplete character or a possible stop string is held back. */
export interface TokenEvent {
  readonly type: 'token'
  readonly choice: number
  readonly text: string
  /** New reasoning. */
  readonly reasoning?: string
  /** New pieces of function calls. */
  readonly toolCalls?: readonly ToolCallDelta[]
  readonly tokenIds: readonly number[]
  /** One for each of tokenIds, and one for an end token. */
  readonly logprobs: readonly ChoiceLogprob[] | null
}

/** A choice ended. */
export interface ChoiceFinishedEvent {
  readonly type: 'finished'
  readonly choice: number
  readonly reason: FinishReason
  /** The stop string or stop token id that ended it, if any. */
  readonly stopReason: string | number | null
  readonly counters: SequenceCounters
}

export type GenerationEvent = PromptEvent | PromptLogprobsEvent | TokenEvent | ChoiceFinishedEvent

/** A request's events as an async iterator. `poll` and `onReadable` avoid a promise per event, which is most of the cost of a stream. */
export interface GenerationStream extends AsyncIterableIterator<GenerationEvent, undefined> {
  /** The result of next() if it is available, else null. Must not be called before the first next(). @throws what next() would reject with */
  poll(): IteratorResult<GenerationEvent, undefined> | null
  /**
   * Calls `listener` whenever poll() has a new result, from inside the engine's step and in the engine's async context. The listener must be
   * cheap and must not throw.
   */
  onReadable(listener: () => void): void
}

/** Why a request failed. The server maps codes to HTTP statuses by its table of failures. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
  readonly code: EngineErrorCode
  /** The request field at fault, for invalid_request and context_length_exceeded. */
  readonly param: string | null
  /** Seconds until a retry may succeed, as another engine reports them. */
  readonly retryAfterSeconds: number | null
  constructor(
    code: EngineErrorCode,
    message: string,
    param: string | null = null,
    options: ErrorOptions & { readonly retryAfterSeconds?: number } = {},
  ) {
    super(message, options)
    this.code = code
    this.param = param
    this.retryAfterSeconds = options.retryAfterSeconds ?? null
  }
}

/** The error of a request that is invalid. @param param the field at fault; the message begins with it */
export function invalidField(param: string, problem: string, cause?: unknown): EngineError {
  return new EngineError('invalid_request', `${param}: ${problem}`, param, { cause })
}

/** The error of a request that an internal fault ended. The message does not repeat the cause. */
export function engineFailure(cause: unknown): EngineError {
  return new EngineError('engine_error', 'the engine failed while the request ran', null, { cause })
}

/** The error of requests that a shutdown ends. */
export const shutdownError = (): EngineError => new EngineError('shutdown', 'the server is shutting down')

/** The error of requests that arrive during a shutdown. */
export const drainingError = (): EngineError =>
  new EngineError('draining', 'the server is shutting down and takes no new requests')

export type EngineErrorCode =
  | 'invalid_request'
  | 'context_length_exceeded'
  | 'queue_full'
  | 'draining'
  | 'deadline'
  | 'engine_error'
  | 'device_lost'
  | 'upstream_error'
  | 'upstream_timeout'
  | 'shutdown'

/** Totals since the start. */
export interface EngineCounts {
  prefixCacheQueries: number
  prefixCacheHits: number
  numPreemptions: number
  promptTokens: number
  generationTokens: number
  numDraftTokens: number
  numAcceptedTokens: number
}

/** Totals, all zero. */
export const newEngineCounts = (): EngineCounts => ({
  prefixCacheQueries: 0,
  prefixCacheHits: 0,
  numPreemptions: 0,
  promptTokens: 0,
  generationTokens: 0,
  numDraftTokens: 0,
  numAcceptedTokens: 0,
})

export interface EngineStats extends Readonly<EngineCounts> {
  /** Running sequences; for a remote engine, requests that have received a first token. */
  readonly numRunning: number
  /** Sequences that wait to start or resume; for a remote engine, requests without a first token. Admission counts them. */
  readonly numWaiting: number
  readonly numWaitingTokens: number
  readonly numBlocks: number
  readonly numFreeBlocks: number
  /** State slots in use by running sequences; absent: the model keeps no state. */
  readonly numHeldStateSlots?: number
  /** Names of the adapters of running and of waiting sequences; absent: the model has no adapters. */
  readonly adapters?: {
    readonly numServed: number
    readonly running: readonly string[]
    readonly waiting: readonly string[]
  }
  /** The remote engines; absent for a local engine. */
  readonly upstreams?: readonly {
    /** Its address, without credentials. */
    readonly base: string
    /** Whether it receives requests: its last health check succeeded, and its circuit is closed. */
    readonly isTaking: boolean
    readonly numRunning: number
  }[]
  /** Finished operations on KV tiers by kind and outcome; absent: there are no tiers. */
  readonly kvOperations?: readonly KvOperationCount[]
}

/** What clients that tokenize must know. */
export interface TokenizerDescription {
  readonly bosToken: string | null
  readonly eosToken: string | null
  /** Jinja source of the chat template. */
  readonly chatTemplate: string | null
}

export interface TextOptions {
  /** For `encode`: add the special tokens that the tokenizer puts around a text. Default true. */
  readonly addSpecialTokens?: boolean
  /** For `encode`: texts may exceed the model's context, and are encoded in the caller's thread. For tools, not for requests. */
  readonly isAnyLength?: boolean
  /** For `decode`. Default false. */
  readonly skipSpecialTokens?: boolean
  /** The tenant. Texts of one tenant are processed in order, and tenants take turns. */
  readonly tenant?: string | undefined
  /** Aborted when the result is no longer needed. */
  readonly signal?: AbortSignal | undefined
}

/** An engine: local (weights in this process) or remote (an OpenAI-compatible server elsewhere). */
export interface Engine {
  readonly modelName: string
  /** null for a remote engine. */
  readonly modelInfo: ModelInfo | null
  readonly maxModelLen: number
  /** Value of the span attribute tokenizer.name: the tokenizer's own name, or `remote`. */
  readonly tokenizerName: string
  /** Why no request can be served at the moment; null if requests can be served. */
  readonly problem: string | null
  /** null for a remote engine. */
  readonly tokenizer: TokenizerDescription | null
  /**
   * Token ids of prompts as `submit` would compute them; null if a remote engine tokenizes. Long texts are encoded in another thread.
   * @throws EngineError and the signal's reason
   */
  encode(prompts: readonly PromptInput[], options?: TextOptions): Promise<readonly (readonly number[])[] | null>
  /** Text of token ids; null if a remote engine tokenizes. @throws as `encode` */
  decode(ids: readonly number[], options?: TextOptions): Promise<string | null>
  /**
   * Queues the request and yields its events until every choice has finished. Aborting the signal frees the request's blocks within one step and
   * finishes each open choice as `abort`; `return()` does the same.
   * @throws EngineError: before the first event if the request is refused, later if it fails
   */
  submit(request: GenerationRequest, signal: AbortSignal): GenerationStream
  subscribe(subscriber: EngineSubscriber): () => void
  stats(): EngineStats
  /** Refuses new requests (`draining`). Resolves when the running ones have ended, or after the timeout, which ends them as `shutdown`. */
  drain(timeoutMs: number): Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}
