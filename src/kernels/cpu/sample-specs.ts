/** The SampleSpecs of a step's rows in shared memory, as assembly/sample.ts reads them. */
import type { SampleRow, SampleSpec } from '../ops.ts'
import { BANNED_LOGIT, GREEDY_TEMPERATURE, noiseKey } from '../sampling.ts'
import type { Arena } from './arena.ts'

const WORDS = 8
const GREEDY = 1
const DRAW = 2
/** More than any vocabulary: larger ones mean the same and would not fit a word. */
const MAX_TOP_K = 2 ** 31 - 1

/** Whether the kernel draws a spec's token. Those with lists or a mask are the calling thread's: what decides is the spec alone, never the rows beside it. */
export function isDrawnByKernel({ repetition, adjustments, mask }: SampleSpec): boolean {
  return repetition === null && adjustments === null && mask === null
}

export class SampleSpecs {
  readonly address: number
  readonly #words: Int32Array
  readonly #floats: Float32Array
  readonly #key = new Uint32Array(2)

  constructor(arena: Arena, maxRows: number) {
    const numWords = Math.max(1, maxRows) * WORDS
    this.address = arena.allocate(numWords * 4, 'sampling parameters')
    this.#words = arena.i32(this.address, numWords)
    this.#floats = arena.f32(this.address, numWords)
  }

  /** Writes the specs of rows whose tokens follow `positions`; how many of them the kernel draws. */
  write(rows: readonly SampleRow[], positions: ArrayLike<number>): number {
    let drawn = 0
    for (const [i, { row, spec }] of rows.entries()) {
      const at = i * WORDS
      this.#words[at] = 0
      if (!isDrawnByKernel(spec)) continue
      drawn++
      const { temperature, topK, topP, minP, seed, choice } = spec
      this.#words[at] = temperature < GREEDY_TEMPERATURE ? GREEDY : DRAW
      if (temperature < GREEDY_TEMPERATURE) continue
      noiseKey(seed, choice, positions[row]! + 1, this.#key)
      this.#words[at + 1] = Math.min(topK, MAX_TOP_K)
      this.#floats[at + 2] = topP
      this.#floats[at + 3] = 1 / temperature
      this.#floats[at + 4] = Math.max(minP > 0 ? Math.log(minP) : -Infinity, BANNED_LOGIT)
      this.#words[at + 5] = this.#key[0]!
      this.#words[at + 6] = this.#key[1]!
    }
    return drawn
  }
}
