/** The scored rows in shared memory, in the layout of assembly/score.ts. */
import type { TokenLogprobs } from '../sample-spec.ts'
import type { Arena } from './arena.ts'

const BYTES = 128
const WORDS = BYTES / 4
const TOP = 6
/** The most top tokens per row. */
const MAX_TOP = WORDS - TOP

/** Targets of the scored rows, and their resulting log-probabilities. */
export class ScoreRows {
  readonly address: number
  readonly #arena: Arena
  readonly #words: Int32Array
  readonly #floats: Float32Array
  readonly #sums: Float64Array

  constructor(arena: Arena, maxRows: number) {
    const bytes = Math.max(1, maxRows) * BYTES
    this.#arena = arena
    this.address = arena.allocate(bytes, 'scores')
    this.#words = arena.i32(this.address, bytes / 4)
    this.#floats = arena.f32(this.address, bytes / 4)
    this.#sums = new Float64Array(this.#words.buffer, this.#words.byteOffset, bytes / 8)
  }

  /** Requests the log-probability of `target` in row `row`, and of the `topN` (at most MAX_TOP) most likely tokens. `topN` -1: requests nothing. */
  write(row: number, target: number, topN: number, vocab: number): void {
    if (topN > MAX_TOP) throw new RangeError(`log-probabilities of ${topN} tokens, at most ${MAX_TOP}`)
    this.#words[row * WORDS + 3] = target
    this.#words[row * WORDS + 5] = Math.min(topN, vocab)
  }

  /** The kernel's results for a row. `logits`: the address of the row's logits. */
  read(row: number, logits: number, vocab: number): TokenLogprobs {
    const at = row * WORDS
    const values = this.#arena.f32(logits, vocab)
    const normalizer = this.#floats[at + 2]! + Math.log(this.#sums[at / 2]!)
    const topTokens = [...this.#words.subarray(at + TOP, at + TOP + this.#words[at + 5]!)]
    return {
      logprob: values[this.#words[at + 3]!]! - normalizer,
      rank: this.#words[at + 4]!,
      topTokens,
      topLogprobs: topTokens.map((token) => values[token]! - normalizer),
    }
  }
}
