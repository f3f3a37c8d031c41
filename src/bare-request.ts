/** The request of commands that measure a model: token ids, with greedy decoding or scores only. */
import type { GenerationRequest } from './engine/request.ts'

/** Builds such a request. `maxTokens` 0 only scores the prompt. Requests share cached blocks only if their `cacheSalt` is equal. */
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
