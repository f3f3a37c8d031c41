/** A matcher that leaves a thought free, ends it where its budget is spent, and holds the answer behind it to a grammar. */
import type { GrammarMatcher } from '../structured/grammar.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ReasoningFormat } from './reasoning-format.ts'

export interface ThoughtMatcherOptions {
  readonly format: ReasoningFormat
  /** The prompt ends in the thought. */
  readonly isOpen: boolean
  /** Tokens of the thought at most; null: no bound. */
  readonly budget: number | null
  /** Of the answer; null: it is free. */
  readonly answer: GrammarMatcher | null
  readonly tokenizer: Tokenizer
  /** Rows of the logits. */
  readonly vocabSize: number
}

export class ThoughtMatcher implements GrammarMatcher {
  readonly #options: ThoughtMatcherOptions
  readonly #begin: readonly number[]
  readonly #end: readonly number[]
  #phase: 'before' | 'thought' | 'closing' | 'answer'
  /** Tokens of the mark that were taken already. */
  #numTaken = 0
  #numThoughtTokens = 0
  #tail = ''

  constructor(options: ThoughtMatcherOptions) {
    const { format, isOpen, tokenizer } = options
    this.#options = options
    this.#begin = tokenizer.encode(format.begin, { addSpecialTokens: false })
    this.#end = tokenizer.encode(format.end, { addSpecialTokens: false })
    this.#phase = isOpen ? 'thought' : 'before'
    if (isOpen) this.#endIfSpent()
  }

  accept(token: number): void {
    const { answer, tokenizer, format } = this.#options
    switch (this.#phase) {
      case 'before':
        if (token !== this.#begin[this.#numTaken]) {
          this.#phase = 'answer'
          answer?.accept(token)
        } else if (++this.#numTaken === this.#begin.length) {
          this.#phase = 'thought'
          this.#endIfSpent()
        }
        return
      case 'thought':
        this.#numThoughtTokens++
        // Long enough for the mark and the token that completes it.
        this.#tail = (this.#tail + Buffer.from(tokenizer.tokenBytes(token)).toString()).slice(-format.end.length - 64)
        if (this.#tail.includes(format.end)) this.#phase = 'answer'
        else this.#endIfSpent()
        return
      case 'closing':
        if (++this.#numTaken === this.#end.length) this.#phase = 'answer'
        return
      case 'answer':
        answer?.accept(token)
    }
  }

  async mask(): Promise<Uint32Array> {
    const { answer } = this.#options
    if (this.#phase === 'closing') return this.#only(this.#end[this.#numTaken])
    if (this.#phase === 'before' && this.#numTaken > 0) return this.#only(this.#begin[this.#numTaken])
    if (this.#phase === 'thought' || answer === null) return new Uint32Array(this.#numWords).fill(0xffffffff)
    if (this.#phase === 'answer') return answer.mask()
    const mask = Uint32Array.from(await answer.mask())
    const [token = 0] = this.#begin
    mask[token >> 5] = (mask[token >> 5] ?? 0) | (1 << (token & 31))
    return mask
  }

  close(): void {
    this.#options.answer?.close()
  }

  #endIfSpent(): void {
    const { budget } = this.#options
    if (budget === null || this.#numThoughtTokens < budget) return
    this.#phase = 'closing'
    this.#numTaken = 0
  }

  get #numWords(): number {
    return Math.ceil(this.#options.vocabSize / 32)
  }

  #only(token = 0): Uint32Array {
    const mask = new Uint32Array(this.#numWords)
    mask[token >> 5] = 1 << (token & 31)
    return mask
  }
}
