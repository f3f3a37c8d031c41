/** The reference backend's state pool: f64, so that splitting a prompt into chunks does not round the state. */
import { type StateLayout, type StateShape, stateValues, type StepInput } from '../ops.ts'

/** One sequence's rows in a step, and its state in one layer. */
export interface StateRun {
  readonly firstRow: number
  readonly endRow: number
  /** The convolution's inputs before the first row. [channels, kernel - 1] */
  readonly inputs: Float64Array
  /** [heads, valueDim, keyDim] */
  readonly recurrent: Float64Array
}

/** Bytes per slot: the states of all layers. */
export function stateSlotBytes({ layers }: StateLayout): number {
  return layers.reduce((sum, shape) => sum + stateValues(shape), 0) * Float64Array.BYTES_PER_ELEMENT
}

/** The states of sequences, by layer and slot. */
export class StatePool {
  readonly layout: StateLayout
  readonly #layers: readonly Float64Array[] // [slots, values]

  constructor(layout: StateLayout) {
    this.layout = layout
    this.#layers = layout.layers.map((shape) => new Float64Array(layout.numSlots * stateValues(shape)))
  }

  get bytes(): number {
    return this.layout.numSlots * stateSlotBytes(this.layout)
  }

  shape(layer: number): StateShape {
    const shape = this.layout.layers[layer]
    if (shape === undefined)
      throw new Error(`layer ${layer} is outside the pool of states of ${this.layout.layers.length} layers`)
    return shape
  }

  /** Calls `visit` with each sequence's state, already copied to the slot that it is written to. `part`: the part of the state that the op updates. */
  forEach(
    layer: number,
    { numSequences, sequenceStarts, stateSlots }: StepInput,
    part: 'inputs' | 'recurrent',
    visit: (run: StateRun) => void,
  ): void {
    if (stateSlots === undefined) throw new Error('the step names no slots of states')
    const shape = this.shape(layer)
    const values = this.#layers[layer]!
    const size = stateValues(shape)
    const split = shape.channels * (shape.kernel - 1)
    const [from, to] = part === 'inputs' ? [0, split] : [split, size]
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const read = stateSlots[2 * sequence]!
      const at = stateSlots[2 * sequence + 1]! * size
      if (read < 0) values.fill(0, at + from, at + to)
      else if (read * size !== at) values.copyWithin(at + from, read * size + from, read * size + to)
      visit({
        firstRow: sequenceStarts[sequence]!,
        endRow: sequenceStarts[sequence + 1]!,
        inputs: values.subarray(at, at + split),
        recurrent: values.subarray(at + split, at + size),
      })
    }
  }
}
