/** A step's inputs in shared memory, in the layout that its commands read. */
import type { BackendOptions } from '../backend.ts'
import type { StepInput } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { HostRope } from './resources.ts'
import { ATTENTION_ROWS, SCORE_ROWS } from './working-memory.ts'

/** The most rows of one sequence per work unit of attention, with `group` query heads per KV head. */
export function rowsPerItem(group: number): number {
  return Math.max(1, Math.floor(ATTENTION_ROWS / group))
}

/** A step of one token at position 0, for recording ops that are not run. */
export function rehearsedStep(): StepInput {
  const one = Int32Array.of(0)
  return {
    numRows: 1,
    numSequences: 1,
    tokens: one,
    positions: one,
    slots: one,
    sequenceStarts: Int32Array.of(0, 1),
    blockTables: one,
    maxBlocksPerSequence: 1,
    places: one,
    adapters: Int32Array.of(-1),
    stateSlots: Int32Array.of(-1, 0),
  }
}

/** Runs of rows of one sequence: i32 [maxRows][first row, rows, address of the block table, the sequence's last position]. */
interface AttentionItems {
  readonly address: number
  count: number
  /** The step that the items were built for. */
  step: number
}

/** Writes the tokens, positions, slots and block tables of a step. Number fields are addresses. */
export class StepInputs {
  readonly tokens: number // i32 [maxRows]
  readonly positions: number // i32 [maxRows]
  readonly slots: number // i32 [maxRows]
  readonly places: number // i32 [maxRows]
  readonly #adapters: number // i32 [maxRows]
  readonly rowIndex: number // i32 [rows of logits]
  readonly #runs: number // i32 [maxSequences][first row, end row, slot read, slot written]
  readonly #blockTables: number // i32 [maxSequences, maxBlocksPerSequence]
  readonly #limits: BackendOptions['limits']
  readonly #arena: Arena
  #input: StepInput | null = null
  #step = 0
  readonly #items = new Map<number, AttentionItems>()
  #longest = 0

  constructor(limits: BackendOptions['limits'], arena: Arena) {
    this.#limits = limits
    this.#arena = arena
    const { maxRows, maxSequences, maxSampleRows, maxBlocksPerSequence } = limits
    const words = (count: number): number => arena.allocate(count * 4, 'step inputs')
    this.tokens = words(maxRows)
    this.positions = words(maxRows)
    this.slots = words(maxRows)
    this.#blockTables = words(maxSequences * maxBlocksPerSequence)
    this.places = words(maxRows)
    this.#adapters = words(maxRows)
    this.#runs = words(4 * maxSequences)
    this.rowIndex = words(Math.max(maxSampleRows, SCORE_ROWS))
  }

  /** The input of the current step. @throws between steps */
  get input(): StepInput {
    if (this.#input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#input
  }

  /** Tokens of the longest context in the step. */
  get longest(): number {
    return this.#longest
  }

  /** @throws when the input exceeds the backend's limits */
  check({ numRows, numSequences, maxBlocksPerSequence }: StepInput): void {
    const limits = this.#limits
    if (
      numRows > limits.maxRows ||
      numSequences > limits.maxSequences ||
      maxBlocksPerSequence > limits.maxBlocksPerSequence
    ) {
      throw new Error(
        `step of ${numRows} rows, ${numSequences} sequences, ${maxBlocksPerSequence} blocks per sequence ` +
          `exceeds the limits ${limits.maxRows}, ${limits.maxSequences}, ${limits.maxBlocksPerSequence}`,
      )
    }
  }

  /** Copies the inputs. `previous`: the tokens that the last step drew, which negative tokens refer to. `blockSize`: tokens per block of the KV pool. */
  begin(input: StepInput, previous: Int32Array, blockSize: number): void {
    const { numRows, positions } = input
    this.#step++
    this.#input = input
    const tokens = this.#arena.i32(this.tokens, numRows)
    for (let row = 0; row < numRows; row++) {
      const token = input.tokens[row]!
      const known = token >= 0 ? token : previous[-token - 1]
      if (known === undefined)
        throw new Error(`row ${row} takes sample row ${-token - 1} of a step that drew ${previous.length}`)
      tokens[row] = known
    }
    this.#arena.i32(this.positions, numRows).set(positions.subarray(0, numRows))
    this.#arena.i32(this.slots, numRows).set(input.slots.subarray(0, numRows))
    if (input.places !== undefined) this.#arena.i32(this.places, numRows).set(input.places.subarray(0, numRows))
    if (input.adapters !== undefined) this.#arena.i32(this.#adapters, numRows).set(input.adapters.subarray(0, numRows))
    this.#setRuns(input)
    this.#longest = 0
    for (let row = 0; row < numRows; row++) this.#longest = Math.max(this.#longest, positions[row]! + 1)
    this.#copyBlockTables(input, blockSize)
  }

  /** Address of the sequences' rows and state slots. @throws when the step has no state slots */
  runs(): number {
    if (this.input.stateSlots === undefined) throw new Error('the step names no slots of states')
    return this.#runs
  }

  /** Address of the rows' adapters. @throws when the step has none */
  adapters(): number {
    if (this.input.adapters === undefined) throw new Error('the step names no adapters')
    return this.#adapters
  }

  #setRuns({ numSequences, sequenceStarts, stateSlots }: StepInput): void {
    if (stateSlots === undefined) return
    const runs = this.#arena.i32(this.#runs, 4 * numSequences)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      runs[4 * sequence] = sequenceStarts[sequence]!
      runs[4 * sequence + 1] = sequenceStarts[sequence + 1]!
      runs[4 * sequence + 2] = stateSlots[2 * sequence]!
      runs[4 * sequence + 3] = stateSlots[2 * sequence + 1]!
    }
  }

  end(): void {
    this.#input = null
  }

  /** Token ids of the step's rows. */
  tokenIds(): Int32Array {
    return this.#arena.i32(this.tokens, this.input.numRows)
  }

  /** Places of the step's rows. @throws when the step has none */
  placeIds(): Int32Array {
    if (this.input.places === undefined) throw new Error('the step has no places')
    return this.#arena.i32(this.places, this.input.numRows)
  }

  /** Sets the rows that the next logits are computed for. */
  setRowIndex(rows: readonly { readonly row: number }[]): void {
    const index = this.#arena.i32(this.rowIndex, rows.length)
    for (let i = 0; i < rows.length; i++) index[i] = rows[i]!.row
  }

  /** The step's work units of attention, for layers with `group` query heads per KV head. */
  itemsOf(group: number): { readonly address: number; readonly count: number } {
    let own = this.#items.get(group)
    if (own === undefined) {
      const address = this.#arena.allocate(16 * this.#limits.maxRows, 'attention items')
      this.#items.set(group, (own = { address, count: 0, step: -1 }))
    }
    if (own.step !== this.#step) this.#buildItems(group, own)
    return own
  }

  #buildItems(group: number, own: AttentionItems): void {
    own.step = this.#step
    own.count = 0
    const { numSequences, sequenceStarts, maxBlocksPerSequence, positions } = this.input
    const most = rowsPerItem(group)
    const items = this.#arena.i32(own.address, 4 * this.#limits.maxRows)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const end = sequenceStarts[sequence + 1]!
      for (let row = sequenceStarts[sequence]!; row < end; row += most) {
        const at = 4 * own.count++
        items[at] = row
        items[at + 1] = Math.min(most, end - row)
        items[at + 2] = this.#blockTables + sequence * maxBlocksPerSequence * 4
        items[at + 3] = positions[end - 1]!
      }
    }
  }

  /** Address of the table, with the cosines and sines of this step's positions. */
  rope(table: HostRope): number {
    if (table.step === this.#step) return table.address
    const { numRows, positions } = this.input
    const { inverseFrequencies, attentionFactor, rotaryDim } = table
    const half = rotaryDim / 2
    const values = this.#arena.f32(table.address, numRows * rotaryDim)
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < half; i++) {
        const angle = positions[row]! * inverseFrequencies[i]!
        values[row * rotaryDim + i] = Math.cos(angle) * attentionFactor
        values[row * rotaryDim + half + i] = Math.sin(angle) * attentionFactor
      }
    }
    table.step = this.#step
    return table.address
  }

  /** Copies only the used entries of each sequence's table, which has room for the longest possible context. */
  #copyBlockTables(input: StepInput, blockSize: number): void {
    const { numSequences, sequenceStarts, positions, blockTables, maxBlocksPerSequence } = input
    const tables = this.#arena.i32(this.#blockTables, numSequences * maxBlocksPerSequence)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const last = positions[sequenceStarts[sequence + 1]! - 1] ?? 0
      const from = sequence * maxBlocksPerSequence
      tables.set(blockTables.subarray(from, from + Math.floor(last / blockSize) + 1), from)
    }
  }
}
