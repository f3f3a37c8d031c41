/** The layout of the step buffer, which wgsl/step.wgsl reads and one writeBuffer per step writes. */
import type { BackendLimits, StepInput } from '../ops.ts'

/** Word indices of the header; wgsl/step.wgsl has the same constants. */
const HEADER = {
  numRows: 0,
  tokens: 1,
  positions: 2,
  slots: 3,
  blockTables: 4,
  tableStride: 5,
  numSampleRows: 6,
  sampleRows: 7,
  numScoreRows: 8,
  scoreRows: 9,
  scoreTargets: 10,
  sampleSpecs: 11,
  currentTokens: 12,
  previousTokens: 13,
  scoreResults: 17,
  places: 18,
  sequenceStarts: 19,
  stateRuns: 20,
  adapters: 21,
  numOutputRows: 22,
  outputRows: 23,
  outputPositions: 24,
  outputAdapters: 25,
} as const
/** The rows that ops work on: all rows of a step, or those that `keepOutputs` has kept. */
export type StepRows = 'all' | 'output'
/** The words of the header that describe these rows. */
export const ROW_WORDS = {
  all: { numRows: HEADER.numRows, positions: HEADER.positions, adapters: HEADER.adapters },
  output: { numRows: HEADER.numOutputRows, positions: HEADER.outputPositions, adapters: HEADER.outputAdapters },
} as const
/** The attention plans follow, each with the number of single-row items, the offset of its items and the offset of its split rows. */
const FIRST_PLAN = 32
const PLAN_WORDS = 3
/** Most kinds of attention layers in a model. Kinds differ in which rows they take and how they tile them. */
export const MAX_ATTENTION_PLANS = 8
const HEADER_WORDS = FIRST_PLAN + MAX_ATTENTION_PLANS * PLAN_WORDS

/** Words per attention item, per split row and per sample spec. */
export const ITEM_WORDS = 7
export const SPLIT_ROW_WORDS = 3
export const SPEC_WORDS = 16

/** Bytes of the longest step. @param numPartials most partial results of split attention rows */
export function maxStepBytes(
  { maxRows, maxSequences, maxSampleRows, maxBlocksPerSequence }: BackendLimits,
  numPartials: number,
): number {
  const items = MAX_ATTENTION_PLANS * ((maxRows + numPartials) * ITEM_WORDS + maxRows * SPLIT_ROW_WORDS)
  const rows = 8 * maxRows + 3 * maxRows + maxSampleRows * (1 + SPEC_WORDS)
  return 4 * (HEADER_WORDS + rows + items + maxSequences * (maxBlocksPerSequence + 5) + 1)
}

type StepSection = Exclude<
  keyof typeof HEADER,
  'numRows' | 'tableStride' | `num${string}` | `${string}Tokens` | 'scoreResults'
>

/** Writes the header and the sections of a step into a growing array of words, which every step reuses. */
export class StepWriter {
  #words = new Int32Array(4096)
  #floats = new Float32Array(this.#words.buffer)
  #length = HEADER_WORDS

  /** Begins a step: writes the sections that any op may read. `outputs`: the rows that `keepOutputs` keeps, as a step; `input` itself if all. */
  begin(input: StepInput, outputs: StepInput, blockSize: number): void {
    this.#words.fill(0, 0, HEADER_WORDS)
    this.#length = HEADER_WORDS
    this.set('numRows', input.numRows)
    this.append('tokens', input.tokens.subarray(0, input.numRows))
    this.append('positions', input.positions.subarray(0, input.numRows))
    this.append('slots', input.slots.subarray(0, input.numRows))
    this.append('sequenceStarts', input.sequenceStarts.subarray(0, input.numSequences + 1))
    if (input.places !== undefined) this.append('places', input.places.subarray(0, input.numRows))
    if (input.adapters !== undefined) this.append('adapters', input.adapters.subarray(0, input.numRows))
    this.#appendOutputs(input, outputs)
    this.#appendTables(input, blockSize)
  }

  #appendOutputs(input: StepInput, outputs: StepInput): void {
    this.set('numOutputRows', outputs.numRows)
    if (outputs === input) {
      this.set('outputPositions', this.get('positions'))
      this.set('outputAdapters', this.get('adapters'))
      return
    }
    this.append('outputRows', input.outputRows ?? [])
    this.append('outputPositions', outputs.positions)
    if (outputs.adapters !== undefined) this.append('outputAdapters', outputs.adapters)
  }

  /** Appends block tables as wide as the longest context of the step, not of the model. */
  #appendTables(
    { blockTables, maxBlocksPerSequence, numSequences, positions, sequenceStarts }: StepInput,
    blockSize: number,
  ) {
    let stride = 0
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const last = positions[sequenceStarts[sequence + 1]! - 1]!
      stride = Math.max(stride, Math.floor(last / blockSize) + 1)
    }
    stride = Math.min(stride, maxBlocksPerSequence)
    this.set('tableStride', stride)
    const { words } = this.reserve('blockTables', numSequences * stride)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const start = sequence * maxBlocksPerSequence
      for (let i = 0; i < stride; i++) words[sequence * stride + i] = blockTables[start + i]!
    }
  }

  set(name: keyof typeof HEADER, value: number): void {
    this.#words[HEADER[name]] = value
  }

  get(name: keyof typeof HEADER): number {
    return this.#words[HEADER[name]]!
  }

  append(section: StepSection, values: ArrayLike<number>): void {
    this.reserve(section, values.length).words.set(values)
  }

  /** The first word of the header that describes attention plan `plan`. */
  static planWord(plan: number): number {
    return FIRST_PLAN + plan * PLAN_WORDS
  }

  /** Writes an attention plan: its items, of which the first `numSingles` have a single row, and the rows whose splits are combined. */
  setPlan(plan: number, numSingles: number, items: readonly Int32Array[], splitRows: Int32Array): void {
    const word = StepWriter.planWord(plan)
    this.#words[word] = numSingles
    this.#words[word + 1] = this.#length
    for (const part of items) this.#reserve(part.length).words.set(part)
    this.#words[word + 2] = this.#length
    this.#reserve(splitRows.length).words.set(splitRows)
  }

  /** Reserves a section. Returns it as words and as floats over the same memory, valid until the next call. */
  reserve(section: StepSection, length: number): { words: Int32Array; floats: Float32Array } {
    this.set(section, this.#length)
    return this.#reserve(length)
  }

  #reserve(length: number): { words: Int32Array; floats: Float32Array } {
    const start = this.#length
    const end = start + length
    if (end > this.#words.length) {
      const grown = new Int32Array(Math.max(end, this.#words.length * 2))
      grown.set(this.#words.subarray(0, start))
      this.#words = grown
      this.#floats = new Float32Array(grown.buffer)
    }
    this.#length = end
    return { words: this.#words.subarray(start, end), floats: this.#floats.subarray(start, end) }
  }

  /** The step's words so far. */
  words(): Int32Array<ArrayBuffer> {
    return this.#words.subarray(0, this.#length)
  }
}
