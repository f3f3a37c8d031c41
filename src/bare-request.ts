/** A request of the commands that measure a model: ids in, nothing but greedy tokens and scores out. */
import type { GenerationRequest } from './engine/request.ts'

/** `maxTokens` 0 scores the prompt only. No cache of another request serves it unless `cacheSalt` is the same. */
export const bareRequest = (
  ids: readonly number[],
  own: Pick<GenerationRequest, 'requestId' | 'maxTokens' | 'promptLogprobs' | 'cacheSalt'>,
): GenerationRequest => ({
  ...own,
  prompts: [{ ids }],
  n: 1,
  minTokens: 0,
  sampling: {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    seed: 0,
    presencePenalty: 0,
    frequencyPenalty: 0,
    repetitionPenalty: 1,
    logitBias: null,
  },
  stop: [],
  stopTokenIds: [],
  includeStopString: false,
  ignoreEos: true,
  logprobs: -1,
  structured: null,
  priority: 0,
  deadlineMs: null,
})
