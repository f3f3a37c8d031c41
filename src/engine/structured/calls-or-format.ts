/** A matcher of an answer that is either calls of functions, which a token of their own begins, or of another form. */
import type { GrammarMatcher } from './grammar.ts'

export class CallsOrFormat implements GrammarMatcher {
  readonly #calls: GrammarMatcher
  readonly #format: GrammarMatcher
  readonly #beginToken: number
  #chosen: GrammarMatcher | null = null

  constructor(calls: GrammarMatcher, format: GrammarMatcher, beginToken: number) {
    this.#calls = calls
    this.#format = format
    this.#beginToken = beginToken
  }

  accept(token: number): void {
    this.#chosen ??= token === this.#beginToken ? this.#calls : this.#format
    this.#chosen.accept(token)
  }

  async mask(): Promise<Uint32Array> {
    if (this.#chosen !== null) return this.#chosen.mask()
    const mask = Uint32Array.from(await this.#format.mask())
    mask[this.#beginToken >> 5] = (mask[this.#beginToken >> 5] ?? 0) | (1 << (this.#beginToken & 31))
    return mask
  }

  close(): void {
    this.#calls.close()
    this.#format.close()
  }
}
