/** From a request to its sequences: token ids checked against the model and the queue's bounds, sampling compiled. */
import { randomInt } from 'node:crypto'
import { EngineError } from '../request.ts'
import type { GenerationRequest, PromptInput } from '../request.ts'
import { MAX_DRAFT_TOKENS } from '../runner/runner.ts'
import type { ModelInfo } from '../runner/runner.ts'
import { SamplingState } from './sampling.ts'
import { Sequence } from '../schedule/sequence.ts'
import { PromptLookup } from '../schedule/speculate.ts'

/** Tokens a request may generate, all its choices together: what is not streamed is held until the answer is complete. */
const MAX_REQUEST_TOKENS = 2_000_000
/** Log-probability entries (a token's own, and each of its top tokens) a request may yield: some 100 bytes each, held likewise. */
const MAX_REQUEST_LOGPROBS = 2 ** 20

export interface QueueBounds {
  /** Sequences (prompts times n) that may wait. */
  readonly maxQueuedRequests: number
  /** Prompt tokens that may wait; a request of one prompt may always, when nothing else waits. */
  readonly maxQueuedTokens: number
}

/** What waits, and what is about to. */
interface QueueLoad {
  readonly numSequences: number
  readonly numTokens: number
}

/** Fields that only the model, or another field, says the range of. Throws EngineError invalid_request naming the field. */
export function checkRequest(request: GenerationRequest, { vocabSize }: ModelInfo): void {
  const { minTokens, maxTokens, stopTokenIds } = request
  const unknown = stopTokenIds.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize)
  if (unknown !== undefined) {
    throw refused('stop_token_ids', `expected token ids 0..${vocabSize - 1}, found ${unknown}`)
  }
  if (minTokens > maxTokens) {
    throw refused('min_tokens', `expected at most max_tokens (${maxTokens}), found ${minTokens}`)
  }
}

/** Throws EngineError invalid_request for a request whose answer could be larger than the engine holds for one. */
export function checkSize(
  request: GenerationRequest,
  prompts: readonly (readonly number[])[],
  maxModelLen: number,
): void {
  const { n, maxTokens, logprobs, promptLogprobs } = request
  const numPromptTokens = prompts.reduce((sum, tokens) => sum + tokens.length, 0)
  const numTokens = n * prompts.reduce((sum, tokens) => sum + Math.min(maxTokens, maxModelLen - tokens.length), 0)
  if (numTokens > MAX_REQUEST_TOKENS) {
    throw refused(
      'n',
      `expected at most ${MAX_REQUEST_TOKENS} tokens (prompts times n times max_tokens), found ${numTokens}; lower n or max_tokens`,
    )
  }
  // -1 asks for none: no entry per token.
  // Each choice of the answer has its prompt's.
  const numEntries = numTokens * (1 + logprobs) + n * numPromptTokens * (1 + promptLogprobs)
  if (numEntries > MAX_REQUEST_LOGPROBS) {
    throw refused(
      'logprobs',
      `expected at most ${MAX_REQUEST_LOGPROBS} log-probabilities (of every token and its top ones), found up to ${numEntries}; lower logprobs, n or max_tokens`,
    )
  }
}

function refused(param: string, message: string): EngineError {
  return new EngineError('invalid_request', `${param}: ${message}`, param)
}

/** Token ids of a prompt that the model can take. Throws EngineError invalid_request or context_length_exceeded. */
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
  if (tokens.length === 0)
    throw new EngineError('invalid_request', `${param}: expected at least one token, found none`, param)
  const unknown = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize)
  if (unknown !== undefined) {
    throw new EngineError(
      'invalid_request',
      `${param}: expected token ids 0..${vocabSize - 1}, found ${unknown}`,
      param,
    )
  }
  if (tokens.length > maxModelLen - Math.min(1, request.maxTokens)) {
    const message = `${param}: this model's maximum context length is ${maxModelLen} tokens; the prompt has ${tokens.length}, which leaves no room for an answer`
    throw new EngineError('context_length_exceeded', message, param)
  }
  return tokens
}

/**
 * Throws EngineError queue_full when `prompts`, `n` times each, would wait beyond the bounds now, and invalid_request when they would
 * in an empty queue as well.
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
    throw refused(
      prompts.length > maxQueuedRequests ? 'prompt' : 'n',
      `expected at most ${maxQueuedRequests} sequences (prompts times n) in one request, found ${numSequences}`,
    )
  }
  if (numTokens > maxQueuedTokens && !isOnePrompt) {
    throw refused(
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
  /** The output is held to a grammar. */
  readonly hasGrammar: boolean
  /** null: the prefix cache is off. */
  readonly cacheRoot: string | null
  /** Of the first sequence; the others follow. */
  readonly arrival: number
  /** Index of the request's adapter; absent: none. */
  readonly adapter?: number | undefined
}

/** The index of a request's adapter. Throws EngineError invalid_request for a name that the model does not have. */
export function adapterOf({ adapter }: GenerationRequest, { adapters }: ModelInfo): number | undefined {
  if (adapter === undefined) return undefined
  const index = adapters.findIndex(({ name }) => name === adapter)
  if (index >= 0) return index
  throw refused('model', `expected one of the model's ${adapters.length} adapters`)
}

/** One sequence a choice, in the order of choices. Throws EngineError invalid_request for sampling the model cannot do. */
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
        // A grammar says itself when it may end, and may leave nothing else.
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
