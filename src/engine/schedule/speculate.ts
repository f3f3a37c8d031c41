/**
 * Draft tokens by prompt lookup: if the last few tokens occurred earlier in the prompt or the output, the tokens that followed there are proposed
 * again. This needs no draft model and pays off when answers quote their context. One instance per sequence, which adapts to that sequence only.
 */

/** Tokens that must match. Fewer would match by chance. */
const NGRAM = 3
/** Tokens without drafts after a guess whose first token was wrong. Doubled for each further such guess. */
const MIN_PAUSE = 4
const MAX_PAUSE = 256
/** Assumed acceptance rate before the first verification, and the weight of each verification. */
const INITIAL_ACCEPTANCE = 0.7
const ACCEPTANCE_WEIGHT = 0.1

/** Drafts tokens by looking up the last n-gram earlier in the same sequence. */
export class PromptLookup {
  readonly #maxDrafts: number
  /** Hash of an n-gram -> position after its last occurrence. Comparing tokens detects collisions. */
  readonly #positions = new Map<number, number>()
  /** n-grams that end before this position are indexed. */
  #numIndexed = NGRAM
  #numDrafts: number
  #pause = MIN_PAUSE
  #acceptance = INITIAL_ACCEPTANCE
  /** The last guess, until drafts or the next token verify it. */
  #guess: { readonly position: number; readonly token: number } | null = null
  #resumeAt = 0

  constructor(maxDrafts: number) {
    this.#maxDrafts = maxDrafts
    this.#numDrafts = Math.min(2, maxDrafts)
  }

  /** Recent rate, from 0 to 1, at which a draft was right when the drafts before it were. */
  get acceptance(): number {
    return this.#acceptance
  }

  /** Proposed continuation of `tokens` (prompt and output so far); empty if there is no earlier occurrence. */
  propose(tokens: Int32Array): number[] {
    this.#index(tokens)
    this.#learn(tokens)
    if (tokens.length < this.#resumeAt || tokens.length <= NGRAM) return []
    const start = this.#positions.get(hashNgram(tokens, tokens.length))
    if (start === undefined || !endsAlike(tokens, start)) return []
    this.#guess = { position: tokens.length, token: tokens[start] ?? -1 }
    return [...tokens.subarray(start, start + this.#numDrafts)]
  }

  /** Records a verification: more drafts after a right guess, fewer, and then none for a while, after a wrong one. */
  record(numDrafts: number, numAccepted: number, numTokens: number): void {
    if (numDrafts === 0) return
    this.#guess = null
    for (let i = 0; i < numAccepted; i++) this.#acceptance += (1 - this.#acceptance) * ACCEPTANCE_WEIGHT
    if (numAccepted < numDrafts) this.#acceptance -= this.#acceptance * ACCEPTANCE_WEIGHT
    if (numAccepted === numDrafts) this.#numDrafts = Math.min(this.#maxDrafts, this.#numDrafts * 2)
    else this.#numDrafts = Math.max(1, Math.min(this.#numDrafts, numAccepted + 1))
    if (numAccepted > 0) {
      this.#pause = MIN_PAUSE
      return
    }
    this.#resumeAt = numTokens + this.#pause
    this.#pause = Math.min(MAX_PAUSE, this.#pause * 2)
  }

  /** Learns from a guess that was not verified: the token that came shows whether it would have been right. */
  #learn(tokens: Int32Array): void {
    const guess = this.#guess
    if (guess === null || tokens.length <= guess.position) return
    this.#guess = null
    const hasHeld = tokens[guess.position] === guess.token
    this.#acceptance += ((hasHeld ? 1 : 0) - this.#acceptance) * ACCEPTANCE_WEIGHT
    if (hasHeld) this.#numDrafts = Math.min(this.#maxDrafts, this.#numDrafts + 1)
  }

  /** Indexes the n-grams that now have a successor. */
  #index(tokens: Int32Array): void {
    for (; this.#numIndexed < tokens.length; this.#numIndexed++) {
      this.#positions.set(hashNgram(tokens, this.#numIndexed), this.#numIndexed)
    }
  }
}

/** Hash of the n-gram before position `end`. */
function hashNgram(tokens: Int32Array, end: number): number {
  let hash = 0
  for (let i = end - NGRAM; i < end; i++) hash = (Math.imul(hash, 0x01000193) ^ (tokens[i] ?? 0)) | 0
  return hash
}

function endsAlike(tokens: Int32Array, start: number): boolean {
  for (let i = 1; i <= NGRAM; i++) if (tokens[start - i] !== tokens[tokens.length - i]) return false
  return true
}
