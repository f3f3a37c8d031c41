/** Cuts the rows of a step into attention items, for all layers that tile rows alike (wgsl/attention-io.wgsl). */
import type { StepInput } from '../ops.ts'
import { ITEM_WORDS, SPLIT_ROW_WORDS, type StepRows, StepWriter } from './step-layout.ts'

/** Tokens per split: the length after which a row's partial sums are combined, on every path. It decides the bits of the results. */
export const SPLIT = 128

/** A growing array of words that every step reuses. */
class WordList {
  #words = new Int32Array(256)
  length = 0

  push(...values: readonly number[]): void {
    if (this.length + values.length > this.#words.length) {
      const grown = new Int32Array(2 * this.#words.length)
      grown.set(this.#words)
      this.#words = grown
    }
    for (const value of values) this.#words[this.length++] = value
  }

  view(): Int32Array {
    return this.#words.subarray(0, this.length)
  }
}

/** The attention items of a step. All layers of the plan share them, even with different windows: the kernels apply the window. */
export class AttentionPlan {
  /** Rows of one sequence that share a workgroup. */
  readonly tile: number
  /** Partial results that the buffer has room for. */
  readonly capacity: number
  readonly isBidirectional: boolean
  readonly rows: StepRows
  readonly #index: number
  readonly #singles = new WordList()
  readonly #tiles = new WordList()
  readonly #splitRows = new WordList()
  #input: StepInput | null = null
  /** Sums, over the rows of single-row items and over the rows in tiles, of the tokens that a row attends to. */
  singleTokens = 0
  tileTokens = 0

  constructor(index: number, tile: number, capacity: number, isBidirectional: boolean, rows: StepRows) {
    this.#index = index
    this.tile = tile
    this.capacity = capacity
    this.isBidirectional = isBidirectional
    this.rows = rows
  }

  /** Word of the step's header that describes the plan. */
  get word(): number {
    return StepWriter.planWord(this.#index)
  }

  get numSingles(): number {
    return this.#singles.length / ITEM_WORDS
  }

  get numTiles(): number {
    return this.#tiles.length / ITEM_WORDS
  }

  get numSplitRows(): number {
    return this.#splitRows.length / SPLIT_ROW_WORDS
  }

  /** Writes the step's items into the step buffer, once per step. */
  prepare(input: StepInput, step: StepWriter): void {
    if (this.#input === input) return
    this.#input = input
    const { tile, capacity } = this
    const { numSequences, positions, sequenceStarts } = input
    for (const list of [this.#singles, this.#tiles, this.#splitRows]) list.length = 0
    this.singleTokens = 0
    this.tileTokens = 0
    let numPartials = 0
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const endRow = sequenceStarts[sequence + 1]!
      const end = positions[endRow - 1]!
      for (let row = sequenceStarts[sequence]!; row < endRow;) {
        const isTile = tile > 1 && endRow - row > 1
        const count = isTile ? Math.min(tile, endRow - row) : 1
        const last = positions[this.isBidirectional ? endRow - 1 : row + count - 1]!
        const numSplits = Math.floor(last / SPLIT) + 1
        if (isTile) this.tileTokens += count * (last + 1)
        else this.singleTokens += last + 1
        if (isTile) {
          this.#tiles.push(row, count, sequence, 0, numSplits, -1, end)
        } else if (numSplits === 1 || numPartials + numSplits > capacity) {
          this.#singles.push(row, 1, sequence, 0, numSplits, -1, end)
        } else {
          this.#splitRows.push(row, numPartials, numSplits)
          for (let split = 0; split < numSplits; split++)
            this.#singles.push(row, 1, sequence, split, split + 1, numPartials++, end)
        }
        row += count
      }
    }
    const items = [this.#singles.view(), this.#tiles.view()]
    step.setPlan(this.#index, this.numSingles, items, this.#splitRows.view())
  }
}
