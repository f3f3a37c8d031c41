/** A matcher that leaves a thought free, ends it where its budget is spent, and holds the answer behind it to a grammar. */
import type { GrammarMatcher } from '../structured/grammar.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ReasoningFormat } from './reasoning-format.ts'

interface ThoughtMatcherOptions {
  readonly format: ReasoningFormat
  /** The prompt ends in the thought. */
  readonly isOpen: boolean
  /** Tokens of the thought at most; null: no bound. */
  readonly budget: number | null
  /** Of the answer behind a thought; null: it is free. */
  readonly answer: GrammarMatcher | null
  /** Of an answer without a thought; null: the thought has begun, or the answer is free. */
  readonly direct: GrammarMatcher | null
  readonly tokenizer: Tokenizer
  /** Rows of the logits. */
  readonly vocabSize: number
}

/** `before`: a thought or an answer may begin. `closing`: the marks between them. `direct`: an answer without a thought. */
type Phase = 'before' | 'thought' | 'closing' | 'answer' | 'direct'

/** Masks of a choice whose thought is free and whose answer follows a grammar. */
export class ThoughtMatcher implements GrammarMatcher {
  readonly #options: ThoughtMatcherOptions
  readonly #begin: readonly number[]
  readonly #end: readonly number[]
  readonly #next: readonly number[]
  #phase: Phase
  /** Tokens of the marks at the beginning that were taken already. */
  #numTaken = 0
  /** Tokens that have to come. */
  #forced: readonly number[] = []
  #numThoughtTokens = 0
  #tail = ''
  /** What an answer without a thought may go on with; null: what was taken begins none. */
  #directMask: Uint32Array | null = null

  constructor(options: ThoughtMatcherOptions) {
    const { format, isOpen, answer, tokenizer } = options
    const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false })
    this.#options = options
    this.#begin = encode(format.begin.trimEnd())
    this.#end = encode(format.end)
    // A free answer begins as the model likes.
    this.#next = answer === null ? [] : encode(format.next)
    this.#phase = isOpen ? 'thought' : 'before'
    if (isOpen) this.#endIfSpent()
  }

  accept(token: number): void {
    const { answer, direct } = this.#options
    switch (this.#phase) {
      case 'before':
        return this.#acceptBefore(token)
      case 'thought':
        return this.#acceptThought(token)
      case 'closing':
        this.#force(this.#forced.slice(1))
        return
      case 'answer':
        answer?.accept(token)
        return
      case 'direct':
        direct?.accept(token)
    }
  }

  async mask(): Promise<Uint32Array> {
    const { answer, direct } = this.#options
    switch (this.#phase) {
      case 'before':
        return this.#maskBefore()
      case 'thought':
        return this.#all()
      case 'closing':
        return this.#only(this.#forced[0])
      case 'answer':
        return answer === null ? this.#all() : answer.mask()
      case 'direct':
        return direct === null ? this.#all() : direct.mask()
    }
  }

  close(): void {
    this.#options.answer?.close()
    this.#options.direct?.close()
  }

  #acceptBefore(token: number): void {
    const { direct } = this.#options
    const isDirect = this.#directMask !== null && has(this.#directMask, token)
    if (isDirect) direct?.accept(token)
    this.#directMask = null
    if (token !== this.#begin[this.#numTaken]) {
      this.#phase = 'direct'
      // Not allowed by its mask: the matcher says so.
      if (!isDirect) direct?.accept(token)
    } else if (++this.#numTaken === this.#begin.length) {
      this.#phase = 'thought'
      this.#endIfSpent()
    } else this.#isDirectPossible &&= isDirect
  }
  #isDirectPossible = true

  async #maskBefore(): Promise<Uint32Array> {
    const { direct, answer } = this.#options
    if (answer === null) return this.#numTaken === 0 ? this.#all() : this.#only(this.#begin[this.#numTaken])
    const own = this.#only(this.#begin[this.#numTaken])
    if (direct === null || !this.#isDirectPossible) return own
    this.#directMask = await direct.mask()
    return this.#directMask.map((word, i) => word | (own[i] ?? 0))
  }

  #acceptThought(token: number): void {
    const { tokenizer, format } = this.#options
    this.#numThoughtTokens++
    // Long enough for the mark and the token that completes it.
    this.#tail = (this.#tail + Buffer.from(tokenizer.tokenBytes(token)).toString()).slice(-format.end.length - 64)
    if (this.#tail.includes(format.end)) this.#force(this.#next)
    else this.#endIfSpent()
  }

  #endIfSpent(): void {
    const { budget } = this.#options
    if (budget !== null && this.#numThoughtTokens >= budget) this.#force([...this.#end, ...this.#next])
  }

  #force(tokens: readonly number[]): void {
    this.#forced = tokens
    this.#phase = tokens.length === 0 ? 'answer' : 'closing'
  }

  get #numWords(): number {
    return Math.ceil(this.#options.vocabSize / 32)
  }

  #all(): Uint32Array {
    return new Uint32Array(this.#numWords).fill(0xffffffff)
  }

  #only(token = 0): Uint32Array {
    const mask = new Uint32Array(this.#numWords)
    mask[token >> 5] = 1 << (token & 31)
    return mask
  }
}

function has(mask: Uint32Array, token: number): boolean {
  return (((mask[token >> 5] ?? 0) >>> (token & 31)) & 1) === 1
}
