/** A matcher that leaves reasoning free, ends it when its budget is spent, and constrains the answer after it to a grammar. */
import type { GrammarMatcher } from '../structured/grammar-protocol.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ReasoningFormat } from './reasoning-format.ts'

interface ReasoningMatcherOptions {
  readonly format: ReasoningFormat
  /** The prompt ends inside the reasoning. */
  readonly isOpen: boolean
  /** Limit on reasoning tokens; null: no limit. */
  readonly budget: number | null
  /** Constrains the answer after reasoning; null: the answer is free. */
  readonly answer: GrammarMatcher | null
  /** Constrains an answer without reasoning; null: reasoning has begun, or the answer is free. */
  readonly direct: GrammarMatcher | null
  readonly tokenizer: Tokenizer
  /** Width of the logits. */
  readonly vocabSize: number
}

/** `before`: reasoning or an answer may begin. `closing`: in the markers between them. `direct`: in an answer without reasoning. */
type Phase = 'before' | 'reasoning' | 'closing' | 'answer' | 'direct'

/** Masks for a choice with free reasoning and an answer that follows a grammar. */
export class ReasoningMatcher implements GrammarMatcher {
  readonly #options: ReasoningMatcherOptions
  readonly #begin: readonly number[]
  readonly #end: readonly number[]
  readonly #next: readonly number[]
  #phase: Phase
  /** Tokens of the opening marker that have been accepted. */
  #numTaken = 0
  /** Tokens that must come next. */
  #forced: readonly number[] = []
  #numReasoningTokens = 0
  /** The end marker, and the end of the reasoning so far, a character per byte: tokens may end inside a character. */
  readonly #endBytes: string
  #tail = ''
  /** The accepted tokens may also begin an answer without reasoning. */
  #isDirectPossible = true
  /** The mask of an answer without reasoning; null: it was not computed for the next token. */
  #directMask: Uint32Array | null = null

  constructor(options: ReasoningMatcherOptions) {
    const { format, isOpen, answer, tokenizer } = options
    const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false })
    this.#options = options
    this.#begin = encode(format.begin.trimEnd())
    this.#end = encode(format.end)
    this.#endBytes = Buffer.from(format.end).toString('latin1')
    // A free answer may begin in any way.
    this.#next = answer === null ? [] : encode(format.next)
    this.#phase = isOpen ? 'reasoning' : 'before'
    if (isOpen) this.#endIfSpent()
  }

  accept(token: number): void {
    const { answer, direct } = this.#options
    switch (this.#phase) {
      case 'before':
        return this.#acceptBefore(token)
      case 'reasoning':
        return this.#acceptReasoning(token)
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
      case 'reasoning':
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
      // The mask did not allow the token: the matcher reports it.
      if (!isDirect) direct?.accept(token)
    } else if (++this.#numTaken === this.#begin.length) {
      this.#phase = 'reasoning'
      this.#endIfSpent()
    } else this.#isDirectPossible &&= isDirect
  }

  async #maskBefore(): Promise<Uint32Array> {
    const { direct, answer } = this.#options
    if (answer === null) return this.#numTaken === 0 ? this.#all() : this.#only(this.#begin[this.#numTaken])
    const own = this.#only(this.#begin[this.#numTaken])
    if (direct === null || !this.#isDirectPossible) return own
    this.#directMask = await direct.mask()
    return this.#directMask.map((word, i) => word | (own[i] ?? 0))
  }

  #acceptReasoning(token: number): void {
    this.#numReasoningTokens++
    this.#tail += Buffer.from(this.#options.tokenizer.tokenBytes(token)).toString('latin1')
    if (this.#tail.includes(this.#endBytes)) this.#force(this.#next)
    else this.#endIfSpent()
    this.#tail = this.#tail.slice(-this.#endBytes.length)
  }

  #endIfSpent(): void {
    const { budget } = this.#options
    if (budget !== null && this.#numReasoningTokens >= budget) this.#force([...this.#end, ...this.#next])
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
