/** What goes into an engine and what comes out of it: shared by the local Engine (engine.ts) and the remote one (remote.ts). */
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
  /** What an earlier turn of the assistant thought. */
  readonly reasoning?: string
  readonly name?: string
  readonly toolCalls?: readonly ToolCall[]
  /** The call that a message of role tool answers. */
  readonly toolCallId?: string
}

/** A piece of a function call that the model writes. The first piece of each index has id and name, the others only more arguments. */
export interface ToolCallDelta {
  /** Of the call within its choice, from 0. */
  readonly index: number
  readonly id: string | null
  readonly name: string | null
  readonly arguments: string
}

/** A function that the model may call, as OpenAI's API describes it and chat templates expect it: `{type: 'function', function: {...}}`. */
export type ToolDefinition = Readonly<Record<string, unknown>>

/** Calls that a request asks for. The prompt shows the functions by itself; this says what is made of the answer. */
export interface ToolUse {
  readonly tools: readonly ToolDefinition[]
  /** `auto`: the model decides. `required`: at least one call. A name: one call of that function. */
  readonly choice: 'auto' | 'required' | { readonly name: string }
  /** One answer may hold several calls. */
  readonly parallel: boolean
  /** What the request calls the schema of a tool's arguments, below the tool; left out: function.parameters. */
  readonly parametersField?: string
}

export type PromptInput =
  /** `param`: the request's field that they came from; prompt where it is left out. */
  | { readonly ids: readonly number[]; readonly param?: string }
  | { readonly text: string }
  | {
      readonly messages: readonly ChatMessage[]
      readonly tools?: readonly ToolDefinition[]
      readonly continueFinalMessage?: boolean
      /** The prompt ends where the assistant's turn begins; left out: unless the final message is continued. */
      readonly addGenerationPrompt?: boolean
      /** What the chat template is told besides, such as `enable_thinking`. */
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

/** Constrains the output; compiled in structured/. */
export type StructuredOutput = (
  | { readonly kind: 'json_object' }
  /** `isStrict`: what cannot be enforced is refused. */
  | { readonly kind: 'json_schema'; readonly schema: unknown; readonly isStrict?: boolean }
  | { readonly kind: 'regex'; readonly pattern: string }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  | { readonly kind: 'grammar'; readonly ebnf: string }
) & {
  /** The request's field that it came from; response_format for JSON and structured_outputs for the others where it is left out. */
  readonly param?: string
}

/** One call to another engine, as whoever traces the request sees it. */
interface UpstreamCall {
  /** W3C trace context. */
  readonly headers: Readonly<Record<string, string>>
  /** Sends it, so that what an HTTP library traces nests below it. */
  run<T>(send: () => T): T
  /** `status`: null where no answer came. `responseId`: the answer's id at the other engine. `error`: a stable code, null for success. */
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
  /** The name of one of the model's adapters; absent: the model by itself. */
  readonly adapter?: string
  /** Choices per prompt; choice index = prompt index * n + i. */
  readonly n: number
  /** New tokens at most; 0: score the prompt only. */
  readonly maxTokens: number
  readonly minTokens: number
  readonly sampling: SamplingParams
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly includeStopString: boolean
  readonly ignoreEos: boolean
  /** -1: none; 0..20: of the sampled token and the top N. */
  readonly logprobs: number
  /** -1: none; 0..20: of the prompt's own tokens (first event of a choice). */
  readonly promptLogprobs: number
  readonly structured: StructuredOutput | null
  /** Absent: what the model writes is text. */
  readonly toolUse?: ToolUse
  /** What the model thinks before it answers is told apart from the answer. */
  readonly separatesReasoning?: boolean
  /** Tokens of a thought at most; absent: no bound. */
  readonly thinkingBudget?: number
  /** Distinguishes tenants in the prefix cache: derived from the API key, or the caller's cache_salt. */
  readonly cacheSalt: string
  /**
   * Whose request it is: places, memory and shares of queues go by it, priorities count within it. cacheSalt where it is left out.
   */
  readonly tenant?: string
  /** Lower runs first; equal: first come, first served. */
  readonly priority: number
  /** performance.now() after which the request is ended with error code `deadline`; null: none. */
  readonly deadlineMs: number | null
  /** Told of each call that a remote engine makes, before it is made: its headers go along, and it is told the call's end. */
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

/** The prompt was accepted; first event of a prompt. A remote engine sends it again when it has told its number of tokens (0 until then). */
export interface PromptEvent {
  readonly type: 'prompt'
  readonly promptIndex: number
  /** null when a remote engine tokenizes. */
  readonly tokenIds: readonly number[] | null
  readonly numTokens: number
  /** What of the request's constraints is not enforced, in sentences for the caller. */
  readonly warnings?: readonly string[]
}

/** Prompt log-probabilities of one prompt (echo with logprobs): entry i belongs to token i, null for the first. */
export interface PromptLogprobsEvent {
  readonly type: 'promptLogprobs'
  readonly promptIndex: number
  readonly entries: readonly (ChoiceLogprob | null)[]
}

/** New text of a choice. `text` may be empty while bytes or a possible stop string are held back. */
export interface TokenEvent {
  readonly type: 'token'
  readonly choice: number
  readonly text: string
  /** More of what the model thinks before it answers. */
  readonly reasoning?: string
  /** Pieces of function calls that came with these tokens. */
  readonly toolCalls?: readonly ToolCallDelta[]
  readonly tokenIds: readonly number[]
  /** One for each of tokenIds, and one more for an end token. */
  readonly logprobs: readonly ChoiceLogprob[] | null
}

/** A choice ended. */
export interface ChoiceFinishedEvent {
  readonly type: 'finished'
  readonly choice: number
  readonly reason: FinishReason
  /** The stop string or token id that ended it, if one did. */
  readonly stopReason: string | number | null
  readonly counters: SequenceCounters
}

export type GenerationEvent = PromptEvent | PromptLogprobsEvent | TokenEvent | ChoiceFinishedEvent

/** A request's events: an async iterator, and beside it a way without a promise an event, which is most of what a stream costs. */
export interface GenerationStream extends AsyncIterableIterator<GenerationEvent, undefined> {
  /** What next() would give, if it is there already, else null. Throws what next() would reject with. Not before the first next(). */
  poll(): IteratorResult<GenerationEvent, undefined> | null
  /**
   * From now on `listener` is called whenever poll() has something again: by the engine, in the middle of its step and in its async
   * context. It must be cheap and must not throw.
   */
  onReadable(listener: () => void): void
}

/** Why a request could not be served; the server maps codes to statuses by the table of endings. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
  readonly code: EngineErrorCode
  /** The request field at fault, for invalid_request and context_length_exceeded. */
  readonly param: string | null
  /** When another engine says that it is worth trying again, in seconds. */
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

export interface EngineStats {
  /** Sequences; of an engine elsewhere, requests that have had a first token. */
  readonly numRunning: number
  /** Sequences that wait to start or resume; of an engine elsewhere, requests without a first token. Admission counts them. */
  readonly numWaiting: number
  readonly numWaitingTokens: number
  readonly numBlocks: number
  readonly numFreeBlocks: number
  /** Slots that hold a running sequence's state; absent: the engine has none. */
  readonly numHeldStateSlots?: number
  readonly prefixCacheQueries: number
  readonly prefixCacheHits: number
  readonly numPreemptions: number
  readonly promptTokens: number
  readonly generationTokens: number
  readonly numDraftTokens: number
  readonly numAcceptedTokens: number
  /** Names of the adapters that sequences run with, and wait for; absent where the model has none. */
  readonly adapters?: {
    readonly numServed: number
    readonly running: readonly string[]
    readonly waiting: readonly string[]
  }
  /** Engines elsewhere that requests go to; absent for one of this process. */
  readonly upstreams?: readonly {
    /** Its address, without credentials. */
    readonly base: string
    /** Whether it gets requests: its last check was good, and its circuit is closed. */
    readonly isTaking: boolean
    readonly numRunning: number
  }[]
  /** Operations on KV tiers that ended, by kind and outcome; absent where there are none. */
  readonly kvOperations?: readonly KvOperationCount[]
}

/** What clients that tokenize themselves have to know. */
export interface TokenizerDescription {
  readonly bosToken: string | null
  readonly eosToken: string | null
  /** Jinja source of the chat template. */
  readonly chatTemplate: string | null
}

export interface TextOptions {
  /** Of `encode`: those that the tokenizer puts around a text. Default true. */
  readonly addSpecialTokens?: boolean
  /** Of `encode`: texts may be longer than the model's context, and hold up the caller's thread: for tools, not for requests. */
  readonly isAnyLength?: boolean
  /** Of `decode`. Default false. */
  readonly skipSpecialTokens?: boolean
  /** Whose text it is: those of one tenant wait behind each other, and tenants take turns. */
  readonly tenant?: string | undefined
  /** Aborted when nobody waits for it any more. */
  readonly signal?: AbortSignal | undefined
}

/** An engine: local (weights in this process) or remote (an OpenAI-compatible server elsewhere). */
export interface Engine {
  readonly modelName: string
  /** null for a remote engine. */
  readonly modelInfo: ModelInfo | null
  readonly maxModelLen: number
  /** Name for tokenizer.name on spans: the tokenizer's own, or `remote`. */
  readonly tokenizerName: string
  /** Why no request can be served at the moment; null: they can. */
  readonly problem: string | null
  /** null for a remote engine. */
  readonly tokenizer: TokenizerDescription | null
  /**
   * Token ids of prompts as submit would compute them; null when a remote engine tokenizes. Long texts leave this thread. Throws EngineError,
   * and the signal's reason.
   */
  encode(prompts: readonly PromptInput[], options?: TextOptions): Promise<readonly (readonly number[])[] | null>
  /** Text of token ids; null when a remote engine tokenizes. Throws likewise. */
  decode(ids: readonly number[], options?: TextOptions): Promise<string | null>
  /**
   * Queues the request and yields its events; ends after every choice finished. Throws EngineError: before the first event for a
   * request that is refused, later for one that fails. Aborting the signal frees its blocks within one step and ends the iteration
   * with each open choice finished as `abort`. `return()` does the same.
   */
  submit(request: GenerationRequest, signal: AbortSignal): GenerationStream
  subscribe(subscriber: EngineSubscriber): () => void
  stats(): EngineStats
  /** New submissions are refused (`draining`); resolves when the running ones have ended or the bound has passed (they are then ended as `shutdown`). */
  drain(timeoutMs: number): Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}
