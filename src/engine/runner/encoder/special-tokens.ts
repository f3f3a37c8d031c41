/** The special tokens that a tokenizer puts around a text or a pair of texts, and the cutting of texts that are too long. */

/** A tokenized text, or pair of texts. */
export interface TokenRow {
  readonly ids: readonly number[]
  /** Each token's segment: 0 for the first text, 1 for the second where the model distinguishes them. */
  readonly segments: readonly number[]
}

/** Encodes a text or a pair of texts with special tokens. */
type EncodeWhole = (text: string, pair?: string) => TokenRow

const PROBES = ['a', 'b'] as const

/** The first index from `from` on at which `part` occurs in `ids`; -1: it does not. */
function findPart(ids: readonly number[], part: readonly number[], from: number): number {
  for (let at = from; at + part.length <= ids.length; at++) if (part.every((id, i) => ids[at + i] === id)) return at
  return -1
}

const slice = ({ ids, segments }: TokenRow, from: number, to?: number): TokenRow => ({
  ids: ids.slice(from, to),
  segments: segments.slice(from, to),
})

/** The special tokens, found by encoding short texts with and without them. This works for every kind of post-processor. */
export class SpecialTokens {
  readonly #single: readonly [TokenRow, TokenRow]
  readonly #pair: readonly [TokenRow, TokenRow, TokenRow]
  readonly #segments: readonly [number, number]

  /** @param encodeBody encodes a text without special tokens */
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

  /** The number of special tokens around one text. */
  get numSingle(): number {
    return this.#single[0].ids.length + this.#single[1].ids.length
  }

  /** Puts special tokens around a text, and cuts the text at its end to fit. */
  single(body: readonly number[], maxTokens: number): TokenRow {
    const [prefix, suffix] = this.#single
    const kept = body.slice(0, Math.max(0, maxTokens - this.numSingle))
    return {
      ids: [...prefix.ids, ...kept, ...suffix.ids],
      segments: [...prefix.segments, ...kept.map(() => 0), ...suffix.segments],
    }
  }

  /** Puts special tokens around a pair of texts, and cuts the longer text at its end until both fit. */
  pair(first: readonly number[], second: readonly number[], maxTokens: number): TokenRow {
    const [prefix, middle, suffix] = this.#pair
    const room = Math.max(0, maxTokens - prefix.ids.length - middle.ids.length - suffix.ids.length)
    const excess = Math.max(0, first.length + second.length - room)
    // The difference in length is cut from the longer text first, then both are cut alike.
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
