/**
 * Draft tokens by prompt lookup: where the last few tokens occurred before, in the prompt or the output, what followed then is guessed to
 * follow now. Costs no model; pays where answers quote their context. Pure data, one per sequence, adaptive on its own tokens only.
 */

/** Tokens that must agree. Fewer would match by chance. */
const NGRAM = 3
/** Tokens without a draft after a guess was wrong from its first token on; doubled while that goes on. */
const MIN_PAUSE = 4
const MAX_PAUSE = 256
/** What a guess is taken to hold before any was verified, and the weight of each that was. */
const INITIAL_ACCEPTANCE = 0.7
const ACCEPTANCE_WEIGHT = 0.1

/** Drafts tokens by looking up the last n-gram earlier in the same sequence. */
export class PromptLookup {
  readonly #maxDrafts: number
  /** Hash of an n-gram -> position after its last occurrence. Collisions are found by comparing. */
  readonly #positions = new Map<number, number>()
  /** n-grams that end before this position are known. */
  #numIndexed = NGRAM
  #numDrafts: number
  #pause = MIN_PAUSE
  #acceptance = INITIAL_ACCEPTANCE
  /** The last guess, until it was verified: by drafts, or by the token that came. */
  #guess: { readonly position: number; readonly token: number } | null = null
  #resumeAt = 0

  constructor(maxDrafts: number) {
    this.#maxDrafts = maxDrafts
    this.#numDrafts = Math.min(2, maxDrafts)
  }

  /** How often, lately, a guess held where those before it did: 0 to 1. */
  get acceptance(): number {
    return this.#acceptance
  }

  /** Guesses for what follows `tokens` (prompt and output so far); empty when there is nothing to go by. */
  propose(tokens: Int32Array): number[] {
    this.#index(tokens)
    this.#learn(tokens)
    if (tokens.length < this.#resumeAt || tokens.length <= NGRAM) return []
    const start = this.#positions.get(hashNgram(tokens, tokens.length))
    if (start === undefined || !endsAlike(tokens, start)) return []
    this.#guess = { position: tokens.length, token: tokens[start] ?? -1 }
    return [...tokens.subarray(start, start + this.#numDrafts)]
  }

  /** How the last guess went: more drafts after one that held, fewer and then none for a while after one that did not. */
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

  /** A guess that was not worth verifying shows by the token that came whether it would have held: more of them may be worth it then. */
  #learn(tokens: Int32Array): void {
    const guess = this.#guess
    if (guess === null || tokens.length <= guess.position) return
    this.#guess = null
    const hasHeld = tokens[guess.position] === guess.token
    this.#acceptance += ((hasHeld ? 1 : 0) - this.#acceptance) * ACCEPTANCE_WEIGHT
    if (hasHeld) this.#numDrafts = Math.min(this.#maxDrafts, this.#numDrafts + 1)
  }

  /** Learns the n-grams that have a successor by now. */
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
