/** Turns texts into the input of a pass: with a tokenizer, the model's special tokens and its longest text. */
import type { PairTokenizer } from '../../tokenizer/tokenizer.ts'
import type { TextPass } from './pass.ts'
import { SpecialTokens, type TokenRow } from './special-tokens.ts'

/**
 * A text is cut to this many UTF-16 units per token of the model's limit before it is tokenized. To tokenize megabytes for the first few thousand tokens
 * would block other requests. Prose has about five units per token; only long runs of white space or of letters have more than 32.
 */
export const MAX_CHARS_PER_TOKEN = 32

/** The tokenizer and the pass of a model that embeds or ranks texts. */
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

  /** The number of a text's tokens, without special tokens. */
  countTokens(text: string): number {
    return this.body(text).length
  }

  /** The text of token ids; null: an id is outside the vocabulary. */
  decode(ids: readonly number[]): string | null {
    if (ids.some((id) => this.#tokenizer.tokenText(id) === null)) return null
    return this.#tokenizer.decode(ids, { skipSpecialTokens: true })
  }

  /** Ids of a text, without special tokens around it. Special tokens that are written out in the text are recognised. */
  body(text: string): readonly number[] {
    return this.#tokenizer.encode(text, { addSpecialTokens: false })
  }

  #cut(text: string): string {
    return text.slice(0, this.pass.maxTokens * MAX_CHARS_PER_TOKEN)
  }
}
