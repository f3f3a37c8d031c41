/**
 * WordPiece, the tokenizer of BERT and of sentence encoders based on it: normalises a text, splits it at white space and punctuation, and divides each
 * word from its start into the longest pieces in the vocabulary (Devlin et al., BERT, 2019). Several times as fast as @huggingface/tokenizers.
 */
import { z } from 'zod'

/** The parts of tokenizer.json that differ between WordPiece tokenizers. */
const tokenizerFile = z.object({
  normalizer: z.object({
    type: z.literal('BertNormalizer'),
    lowercase: z.boolean(),
    /** null: accents are stripped if letters are lower-cased. */
    strip_accents: z.boolean().nullable(),
  }),
  pre_tokenizer: z.object({ type: z.literal('BertPreTokenizer') }),
  model: z.object({
    type: z.literal('WordPiece'),
    unk_token: z.string(),
    continuing_subword_prefix: z.string(),
    max_input_chars_per_word: z.int().positive(),
    vocab: z.record(z.string(), z.int().nonnegative()),
  }),
})

const CJK = /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu
/** Characters that the normaliser deletes: control and format characters except white space, and the replacement character. */
const DELETED = /[\uFFFD]|(?![\t\n\r])[\p{Cc}\p{Cf}]/gu
const ACCENTS = /\p{Mn}/gu
/** A word or a punctuation mark. All ASCII characters except letters, digits and white space are punctuation. */
const WORD = /[!-/:-@[-`{-~\p{P}]|[^\s!-/:-@[-`{-~\p{P}]+/gu
/** Words whose pieces are cached, because text repeats most of its words. */
const MAX_REMEMBERED = 50_000

/** BERT's WordPiece tokenizer, read from a `tokenizer.json`. */
export class WordPiece {
  readonly #vocab: Map<string, number>
  readonly #texts: readonly string[]
  readonly #prefix: string
  readonly #unknown: number
  readonly #maxChars: number
  readonly #isLowerCased: boolean
  readonly #isStripped: boolean
  /** The ids of words seen before. */
  readonly #known = new Map<string, readonly number[]>()

  /**
   * @param json the parsed tokenizer.json
   * @throws ZodError if it is not WordPiece with BERT's normaliser; Error if its vocabulary lacks the unknown token
   */
  constructor(json: unknown) {
    const { normalizer, model } = tokenizerFile.parse(json)
    this.#vocab = new Map(Object.entries(model.vocab))
    const texts: string[] = []
    for (const [text, id] of this.#vocab) texts[id] = text
    this.#texts = texts
    this.#prefix = model.continuing_subword_prefix
    this.#maxChars = model.max_input_chars_per_word
    this.#isLowerCased = normalizer.lowercase
    this.#isStripped = normalizer.strip_accents ?? normalizer.lowercase
    const unknown = this.#vocab.get(model.unk_token)
    if (unknown === undefined) throw new Error(`vocab: expected the unknown token ${model.unk_token}, found none`)
    this.#unknown = unknown
  }

  /** One more than the highest id. */
  get size(): number {
    return this.#texts.length
  }

  /** The ids of a text, without special tokens; at most `limit` of them. */
  encode(text: string, limit = Infinity): number[] {
    const ids: number[] = []
    for (const [word] of this.#normalize(text).matchAll(WORD)) {
      for (const id of this.#piecesOf(word)) {
        if (ids.length >= limit) return ids
        ids.push(id)
      }
    }
    return ids
  }

  /** The text of token ids, with single spaces between words; null if an id is outside the vocabulary. */
  decode(ids: readonly number[]): string | null {
    let decoded = ''
    for (const id of ids) {
      const text = this.#texts[id]
      if (text === undefined) return null
      decoded += text.startsWith(this.#prefix) ? text.slice(this.#prefix.length) : ` ${text}`
    }
    return decoded.trimStart()
  }

  #normalize(text: string): string {
    let normal = text.replaceAll(DELETED, '').replaceAll(CJK, ' $& ')
    if (this.#isStripped) normal = normal.normalize('NFD').replaceAll(ACCENTS, '')
    return this.#isLowerCased ? normal.toLowerCase() : normal
  }

  #piecesOf(word: string): readonly number[] {
    const known = this.#known.get(word)
    if (known) return known
    const pieces = this.#split(word)
    if (this.#known.size >= MAX_REMEMBERED) this.#known.clear()
    this.#known.set(word, pieces)
    return pieces
  }

  /** The ids of a word; the unknown token if a part of it is not in the vocabulary. */
  #split(word: string): number[] {
    if (word.length > this.#maxChars && [...word].length > this.#maxChars) return [this.#unknown]
    const ids: number[] = []
    let from = 0
    while (from < word.length) {
      let to = word.length
      let id: number | undefined
      for (; to > from; to--) {
        id = this.#vocab.get((from > 0 ? this.#prefix : '') + word.slice(from, to))
        if (id !== undefined) break
      }
      if (id === undefined) return [this.#unknown]
      ids.push(id)
      from = to
    }
    return ids
  }
}
