/** The layout of a step's results buffer, which is read back as a whole: timestamps, sampled tokens, log-probabilities. */
import type { TokenLogprobs } from '../sample-spec.ts'

/** Word of the first sampled token, after the timestamps. wgsl/sample-io.wgsl has the same constants. */
export const RESULT_TOKENS = 64
/** Log-probabilities that one row can return. */
const MAX_TOP = 20
/** Words of one row's log-probabilities: logprob, rank, MAX_TOP tokens, their MAX_TOP log-probabilities. */
export const RESULT_WORDS = 2 + 2 * MAX_TOP

export interface LogprobSlot {
  readonly word: number
  readonly topN: number
}

/** The results that a step asked for, and where they are. */
export interface ResultLayout {
  readonly numSamples: number
  readonly logprobs: readonly (LogprobSlot | null)[]
  readonly scores: readonly LogprobSlot[]
  /** Words used. */
  readonly words: number
}

function readLogprobs(bytes: ArrayBuffer, { word, topN }: LogprobSlot): TokenLogprobs {
  const words = new Uint32Array(bytes, word * 4, RESULT_WORDS)
  const floats = new Float32Array(bytes, word * 4, RESULT_WORDS)
  return {
    logprob: floats[0]!,
    rank: words[1]!,
    topTokens: [...words.subarray(2, 2 + topN)],
    topLogprobs: [...floats.subarray(2 + MAX_TOP, 2 + MAX_TOP + topN)],
  }
}

/** Reads the tokens, log-probabilities and scores of a step from its results buffer. */
export function readResults(bytes: ArrayBuffer, layout: ResultLayout) {
  return {
    sampled:
      layout.numSamples === 0 ? new Int32Array(0) : new Int32Array(bytes, RESULT_TOKENS * 4, layout.numSamples).slice(),
    sampledLogprobs: layout.logprobs.map((slot) => (slot === null ? null : readLogprobs(bytes, slot))),
    scores: layout.scores.map((slot) => readLogprobs(bytes, slot)),
  }
}
