/** A matcher that first allows given tokens alone, one after the other, and then what its grammar does. */
import type { GrammarMatcher } from './grammar.ts'

/**
 * How special tokens come before a grammar, which is made of text and has no place for them: the model reads the token it was trained on
 * instead of its spelling.
 */
export class ForcedTokens implements GrammarMatcher {
  readonly #tokens: readonly number[]
  readonly #matcher: GrammarMatcher
  readonly #numWords: number
  #numAccepted = 0

  /** `vocabSize`: rows of the logits. */
  constructor(tokens: readonly number[], matcher: GrammarMatcher, vocabSize: number) {
    this.#tokens = tokens
    this.#matcher = matcher
    this.#numWords = Math.ceil(vocabSize / 32)
  }

  accept(token: number): void {
    if (this.#numAccepted < this.#tokens.length) this.#numAccepted++
    else this.#matcher.accept(token)
  }

  async mask(): Promise<Uint32Array> {
    const token = this.#tokens[this.#numAccepted]
    if (token === undefined) return this.#matcher.mask()
    const mask = new Uint32Array(this.#numWords)
    mask[token >> 5] = 1 << (token & 31)
    return mask
  }

  close(): void {
    this.#matcher.close()
  }
}
