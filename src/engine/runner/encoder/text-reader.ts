/** Texts to the rows of a pass: a tokenizer, the special tokens of a model and its longest text. */
import type { PairTokenizer } from '../../tokenizer.ts'
import type { TextPass } from './pass.ts'
import { SpecialTokens, type TokenRow } from './special-tokens.ts'

/**
 * UTF-16 units for each token that a model reads, at most, of what its tokenizer is given: tokenizing a text of megabytes for the tokens at its
 * beginning would keep everybody waiting. Prose has about five; only runs of white space and words without end have more.
 */
export const MAX_CHARS_PER_TOKEN = 32

/** Tokenizer and pass, which both kinds of model have. */
export class TextReader {
  readonly pass: TextPass
  readonly #tokenizer: PairTokenizer
  readonly #special: SpecialTokens

  constructor(pass: TextPass, tokenizer: PairTokenizer, hasSegments: boolean) {
    this.pass = pass
    this.#tokenizer = tokenizer
    this.#special = new SpecialTokens(
      (text) => this.body(text),
      (text, pair) => {
        const { ids, segments } = tokenizer.encodePair(text, pair ?? null)
        return { ids, segments: hasSegments ? segments : ids.map(() => 0) }
      },
    )
  }

  single(text: string): TokenRow {
    return this.#special.single(this.body(this.#cut(text)), this.pass.maxTokens)
  }

  pair(first: string, second: string): TokenRow {
    return this.#special.pair(this.body(this.#cut(first)), this.body(this.#cut(second)), this.pass.maxTokens)
  }

  /** Tokens of a text, special ones left out. */
  countTokens(text: string): number {
    return this.body(text).length
  }

  /** Null where an id is outside the vocabulary. */
  decode(ids: readonly number[]): string | null {
    if (ids.some((id) => this.#tokenizer.tokenText(id) === null)) return null
    return this.#tokenizer.decode(ids, { skipSpecialTokens: true })
  }

  /** Ids of a text, none added around it. Special tokens that are written out in the text are recognised. */
  body(text: string): readonly number[] {
    return this.#tokenizer.encode(text, { addSpecialTokens: false })
  }

  #cut(text: string): string {
    return text.slice(0, this.pass.maxTokens * MAX_CHARS_PER_TOKEN)
  }
}
