/** The special tokens that a tokenizer puts around a text and around a pair of texts, and how long texts are cut to fit between them. */

/** A tokenized text, or pair of texts. */
export interface TokenRow {
  readonly ids: readonly number[]
  /** Of each token: 0 for the first text, 1 for the second where the model tells them apart. */
  readonly segments: readonly number[]
}

/** What a tokenizer gives for a text with its special tokens, or for a pair. */
type EncodeWhole = (text: string, pair?: string) => TokenRow

const PROBES = ['a', 'b'] as const

/** Place of `part` in `ids` from `from` on. */
function findPart(ids: readonly number[], part: readonly number[], from: number): number {
  for (let at = from; at + part.length <= ids.length; at++) if (part.every((id, i) => ids[at + i] === id)) return at
  return -1
}

const slice = ({ ids, segments }: TokenRow, from: number, to?: number): TokenRow => ({
  ids: ids.slice(from, to),
  segments: segments.slice(from, to),
})

/** Found by asking the tokenizer for short texts with and without special tokens, so that every kind of post-processor is served. */
export class SpecialTokens {
  readonly #single: readonly [TokenRow, TokenRow]
  readonly #pair: readonly [TokenRow, TokenRow, TokenRow]
  readonly #segments: readonly [number, number]

  /** @param encodeBody ids of a text without special tokens */
  constructor(encodeBody: (text: string) => readonly number[], encodeWhole: EncodeWhole) {
    const [a, b] = [encodeBody(PROBES[0]), encodeBody(PROBES[1])]
    const single = encodeWhole(PROBES[0])
    const start = Math.max(0, findPart(single.ids, a, 0))
    this.#single = [slice(single, 0, start), slice(single, start + a.length)]
    const pair = encodeWhole(...PROBES)
    const first = Math.max(0, findPart(pair.ids, a, 0))
    const second = Math.max(first + a.length, findPart(pair.ids, b, first + a.length))
    this.#pair = [slice(pair, 0, first), slice(pair, first + a.length, second), slice(pair, second + b.length)]
    this.#segments = [pair.segments[first] ?? 0, pair.segments[second] ?? 0]
  }

  /** Special tokens around one text. */
  get numSingle(): number {
    return this.#single[0].ids.length + this.#single[1].ids.length
  }

  /** A text's tokens between the special ones, cut at its end to fit. */
  single(body: readonly number[], maxTokens: number): TokenRow {
    const [prefix, suffix] = this.#single
    const kept = body.slice(0, Math.max(0, maxTokens - this.numSingle))
    return {
      ids: [...prefix.ids, ...kept, ...suffix.ids],
      segments: [...prefix.segments, ...kept.map(() => 0), ...suffix.segments],
    }
  }

  /** Both texts' tokens between the special ones; of the longer one tokens are left off until they fit. */
  pair(first: readonly number[], second: readonly number[], maxTokens: number): TokenRow {
    const [prefix, middle, suffix] = this.#pair
    const room = Math.max(0, maxTokens - prefix.ids.length - middle.ids.length - suffix.ids.length)
    const excess = Math.max(0, first.length + second.length - room)
    // Longest first: the difference comes off the longer one, then from both in turn.
    const difference = Math.min(excess, Math.abs(first.length - second.length))
    const rest = excess - difference
    const isFirstLonger = first.length > second.length
    const cutFirst = (isFirstLonger ? difference : 0) + Math.floor(rest / 2)
    const cutSecond = (isFirstLonger ? 0 : difference) + Math.ceil(rest / 2)
    const a = first.slice(0, Math.max(0, first.length - cutFirst))
    const b = second.slice(0, Math.max(0, second.length - cutSecond))
    const [ofFirst, ofSecond] = this.#segments
    return {
      ids: [...prefix.ids, ...a, ...middle.ids, ...b, ...suffix.ids],
      segments: [
        ...prefix.segments,
        ...a.map(() => ofFirst),
        ...middle.segments,
        ...b.map(() => ofSecond),
        ...suffix.segments,
      ],
    }
  }
}
