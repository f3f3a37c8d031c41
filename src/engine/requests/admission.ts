/** Turns a request into sequences: checks token ids against the model and the limits of the queue, and compiles sampling. */
import { randomInt } from 'node:crypto'
import { EngineError, invalidField } from '../request.ts'
import type { GenerationRequest, PromptInput } from '../request.ts'
import { MAX_DRAFT_TOKENS } from '../runner/runner.ts'
import type { ModelInfo } from '../runner/runner.ts'
import { SamplingState } from './sampling.ts'
import { Sequence } from '../schedule/sequence.ts'
import { PromptLookup } from '../schedule/speculate.ts'

/** Limit on the tokens that a request may generate in all choices. An answer that is not streamed is kept until it is complete. */
const MAX_REQUEST_TOKENS = 2_000_000
/** Limit on the log-probability entries of a request (one per token and per top token). They take some 100 bytes each and are kept as well. */
const MAX_REQUEST_LOGPROBS = 2 ** 20

export interface QueueBounds {
  /** Limit on waiting sequences (prompts times n). */
  readonly maxQueuedRequests: number
  /** Limit on waiting prompt tokens. A request with one prompt is admitted anyway if nothing else waits. */
  readonly maxQueuedTokens: number
}

/** What waits in the queue, or has reserved a place in it. */
interface QueueLoad {
  readonly numSequences: number
  readonly numTokens: number
}

/** Checks fields whose range depends on the model or on another field. @throws EngineError invalid_request naming the field */
export function checkRequest(request: GenerationRequest, { vocabSize }: ModelInfo): void {
  const { minTokens, maxTokens, stopTokenIds } = request
  const unknown = stopTokenIds.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize)
  if (unknown !== undefined) {
    throw invalidField('stop_token_ids', `expected token ids 0..${vocabSize - 1}, found ${unknown}`)
  }
  if (minTokens > maxTokens) {
    throw invalidField('min_tokens', `expected at most max_tokens (${maxTokens}), found ${minTokens}`)
  }
}

/** @throws EngineError invalid_request if the request's answer could exceed the limits on tokens or log-probabilities */
export function checkSize(
  request: GenerationRequest,
  prompts: readonly (readonly number[])[],
  maxModelLen: number,
): void {
  const { n, maxTokens, logprobs, promptLogprobs } = request
  const numPromptTokens = prompts.reduce((sum, tokens) => sum + tokens.length, 0)
  const numTokens = n * prompts.reduce((sum, tokens) => sum + Math.min(maxTokens, maxModelLen - tokens.length), 0)
  if (numTokens > MAX_REQUEST_TOKENS) {
    throw invalidField(
      'n',
      `expected at most ${MAX_REQUEST_TOKENS} tokens (prompts times n times max_tokens), found ${numTokens}; lower n or max_tokens`,
    )
  }
  // A value of -1 asks for none, which makes no entry per token. Each choice repeats the entries of its prompt.
  const numEntries = numTokens * (1 + logprobs) + n * numPromptTokens * (1 + promptLogprobs)
  if (numEntries > MAX_REQUEST_LOGPROBS) {
    throw invalidField(
      'logprobs',
      `expected at most ${MAX_REQUEST_LOGPROBS} log-probabilities (of every token and its top ones), found up to ${numEntries}; lower logprobs, n or max_tokens`,
    )
  }
}

/** Checks the token ids of a prompt. An empty prompt becomes the BOS token. @throws EngineError invalid_request or context_length_exceeded */
export function checkPrompt(
  encoded: readonly number[],
  prompt: PromptInput,
  request: GenerationRequest,
  modelInfo: ModelInfo,
  maxModelLen: number,
): readonly number[] {
  const { bosTokenId, vocabSize } = modelInfo
  const tokens = encoded.length === 0 && bosTokenId !== null ? [bosTokenId] : encoded
  const param = 'messages' in prompt ? 'messages' : 'ids' in prompt ? (prompt.param ?? 'prompt') : 'prompt'
  if (tokens.length === 0) throw invalidField(param, 'expected at least one token, found none')
  const unknown = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize)
  if (unknown !== undefined) throw invalidField(param, `expected token ids 0..${vocabSize - 1}, found ${unknown}`)
  if (tokens.length > maxModelLen - Math.min(1, request.maxTokens)) {
    const message = `${param}: this model's maximum context length is ${maxModelLen} tokens; the prompt has ${tokens.length}, which leaves no room for an answer`
    throw new EngineError('context_length_exceeded', message, param)
  }
  return tokens
}

/**
 * @throws EngineError queue_full if `prompts`, `n` times each, would exceed the limits of the queue now, and invalid_request if they would exceed
 * them even in an empty queue
 */
export function checkQueue(
  prompts: readonly (readonly number[])[],
  n: number,
  load: QueueLoad,
  { maxQueuedRequests, maxQueuedTokens }: QueueBounds,
): void {
  const numSequences = prompts.length * n
  const numTokens = prompts.reduce((sum, tokens) => sum + tokens.length, 0) * n
  const isOnePrompt = prompts.length === 1
  if (numSequences > maxQueuedRequests) {
    throw invalidField(
      prompts.length > maxQueuedRequests ? 'prompt' : 'n',
      `expected at most ${maxQueuedRequests} sequences (prompts times n) in one request, found ${numSequences}`,
    )
  }
  if (numTokens > maxQueuedTokens && !isOnePrompt) {
    throw invalidField(
      'prompt',
      `expected at most ${maxQueuedTokens} prompt tokens (prompts times n) in one request of several prompts, found ${numTokens}`,
    )
  }
  if (load.numSequences + numSequences > maxQueuedRequests) {
    throw new EngineError(
      'queue_full',
      `${load.numSequences} of at most ${maxQueuedRequests} sequences are waiting; try again later`,
    )
  }
  if (load.numTokens + numTokens > maxQueuedTokens && !(isOnePrompt && load.numTokens === 0)) {
    throw new EngineError(
      'queue_full',
      `${load.numTokens} of at most ${maxQueuedTokens} prompt tokens are waiting; try again later`,
    )
  }
}

interface SequenceFactory {
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly speculation: boolean
  /** The output is constrained by a grammar. */
  readonly hasGrammar: boolean
  /** null: the prefix cache is off. */
  readonly cacheRoot: string | null
  /** Order of arrival of the first sequence; the others follow it. */
  readonly arrival: number
  /** Index of the request's adapter; absent: none. */
  readonly adapter?: number | undefined
}

/** The index of a request's adapter. @throws EngineError invalid_request for a name that the model does not have */
export function adapterOf({ adapter }: GenerationRequest, { adapters }: ModelInfo): number | undefined {
  if (adapter === undefined) return undefined
  const index = adapters.findIndex(({ name }) => name === adapter)
  if (index >= 0) return index
  throw invalidField('model', `expected one of the model's ${adapters.length} adapters`)
}

/** One sequence per choice, in the order of choices. @throws EngineError invalid_request for sampling parameters that do not fit the model */
export function createSequences(
  request: GenerationRequest,
  prompts: readonly (readonly number[])[],
  factory: SequenceFactory,
): Sequence[] {
  const { modelInfo, maxModelLen, hasGrammar } = factory
  const endTokenIds = [...(request.ignoreEos ? [] : modelInfo.eosTokenIds), ...request.stopTokenIds]
  const seed = (request.sampling.seed ?? randomInt(2 ** 32)) >>> 0
  return prompts.flatMap((promptTokens, promptIndex) => {
    const promptHashes: string[] = []
    return Array.from({ length: request.n }, (_, choice) => {
      const options = {
        params: request.sampling,
        seed,
        choice,
        // The grammar decides when the answer may end, and may allow nothing but the end.
        minTokens: hasGrammar ? 0 : request.minTokens,
        endTokenIds,
        logprobs: request.logprobs,
        vocabSize: modelInfo.vocabSize,
      }
      const index = promptIndex * request.n + choice
      return new Sequence({
        requestId: request.requestId,
        choice: index,
        arrival: factory.arrival + index,
        priority: request.priority,
        tenant: request.tenant ?? request.cacheSalt,
        promptTokens,
        adapter: factory.adapter,
        maxOutputTokens: Math.min(request.maxTokens, maxModelLen - promptTokens.length),
        sampling: new SamplingState(options, promptTokens),
        promptLogprobs: choice === 0 ? request.promptLogprobs : -1,
        cacheRoot: factory.cacheRoot,
        promptHashes,
        hasGrammar,
        lookup: factory.speculation && !hasGrammar ? new PromptLookup(MAX_DRAFT_TOKENS) : null,
        arrivedMs: performance.now(),
      })
    })
  })
}
