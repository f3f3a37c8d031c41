/** From a request to its sequences: token ids checked against the model and the queue's bounds, sampling compiled. */
import { randomInt } from 'node:crypto'
import { EngineError } from './request.ts'
import type { GenerationRequest, PromptInput } from './request.ts'
import type { ModelInfo } from './runner/runner.ts'
import { SamplingState } from './sampling.ts'
import type { Scheduler } from './scheduler.ts'
import { Sequence } from './sequence.ts'
import { PromptLookup } from './speculate.ts'

/** Drafts of a sequence in one step; the runner sizes its sample rows for as many. */
export const MAX_DRAFT_TOKENS = 8

export interface AdmissionLimits {
  readonly maxModelLen: number
  /** Sequences (prompts times n) that may wait. */
  readonly maxQueuedRequests: number
  /** Prompt tokens that may wait; one prompt may always. */
  readonly maxQueuedTokens: number
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
  const param = 'messages' in prompt ? 'messages' : 'prompt'
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

/** Throws EngineError queue_full when `prompts`, `n` times each, would wait beyond the bounds. */
export function checkQueue(
  prompts: readonly (readonly number[])[],
  n: number,
  scheduler: Scheduler,
  limits: AdmissionLimits,
): void {
  const { maxQueuedRequests, maxQueuedTokens } = limits
  const { waiting, numWaitingTokens } = scheduler
  const numTokens = prompts.reduce((sum, tokens) => sum + tokens.length, 0) * n
  if (waiting.length + prompts.length * n > maxQueuedRequests) {
    throw new EngineError(
      'queue_full',
      `${waiting.length} of at most ${maxQueuedRequests} sequences wait already; try again later`,
    )
  }
  if (numWaitingTokens > 0 && numWaitingTokens + numTokens > maxQueuedTokens) {
    throw new EngineError(
      'queue_full',
      `${numWaitingTokens} of at most ${maxQueuedTokens} prompt tokens wait already; try again later`,
    )
  }
}

export interface SequenceFactory {
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly speculation: boolean
  /** null: the prefix cache is off. */
  readonly cacheRoot: string | null
  /** Of the first sequence; the others follow. */
  readonly arrival: number
}

/** One sequence a choice, in the order of choices. Throws EngineError invalid_request for sampling the model cannot do. */
export function createSequences(
  request: GenerationRequest,
  prompts: readonly (readonly number[])[],
  factory: SequenceFactory,
): Sequence[] {
  const { modelInfo, maxModelLen } = factory
  const isFree = request.structured === null
  const endTokenIds = [...(request.ignoreEos ? [] : modelInfo.eosTokenIds), ...request.stopTokenIds]
  const seed = (request.sampling.seed ?? randomInt(2 ** 32)) >>> 0
  return prompts.flatMap((promptTokens, promptIndex) =>
    Array.from({ length: request.n }, (_, choice) => {
      const options = {
        params: request.sampling,
        seed,
        choice,
        // A grammar says itself when it may end, and may leave nothing else.
        minTokens: isFree ? request.minTokens : 0,
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
        promptTokens,
        maxOutputTokens: Math.min(request.maxTokens, maxModelLen - promptTokens.length),
        sampling: new SamplingState(options, promptTokens),
        promptLogprobs: choice === 0 ? request.promptLogprobs : -1,
        cacheRoot: factory.cacheRoot,
        hasGrammar: !isFree,
        lookup: factory.speculation && isFree ? new PromptLookup(MAX_DRAFT_TOKENS) : null,
        arrivedMs: performance.now(),
      })
    }),
  )
}
