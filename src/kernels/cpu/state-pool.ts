/** The state pool of the cpu backend: f32, one region per layer. */
import type { StateLayout, StateShape } from '../ops.ts'
import type { Arena } from './arena.ts'
import { roundUp } from './matrices.ts'

/** Bytes of a convolution's past inputs, [kernel - 1, channels], with channels padded to whole vectors. */
export const inputBytes = ({ channels, kernel }: StateShape): number => (kernel - 1) * roundUp(channels, 4) * 4

const slotBytes = (shape: StateShape): number =>
  roundUp(inputBytes(shape) + shape.heads * shape.valueDim * shape.keyDim * 4, 64)

/** Bytes per slot: the states of all layers. */
export function stateSlotBytes({ layers }: StateLayout): number {
  return layers.reduce((sum, shape) => sum + slotBytes(shape), 0)
}

/** Bytes per slot of the layer that needs the most. */
export function largestStateBytes({ layers }: StateLayout): number {
  return Math.max(0, ...layers.map(slotBytes))
}

/** Where a layer's states are. */
interface StatePlace {
  readonly shape: StateShape
  readonly memory: number
  readonly states: number
  readonly slotBytes: number
}

/** The states of all layers. A layer lies in one memory. */
export class StatePool {
  readonly #layout: StateLayout
  readonly #places: (StatePlace | undefined)[] = []

  constructor(layout: StateLayout) {
    this.#layout = layout
  }

  get numLayers(): number {
    return this.#layout.layers.length
  }

  get bytes(): number {
    return this.#layout.numSlots * stateSlotBytes(this.#layout)
  }

  /** Bytes of a layer's states. @throws for an unknown layer */
  layerBytes(index: number): number {
    return this.#layout.numSlots * slotBytes(this.#shape(index))
  }

  /** Index of the memory that a layer lies in; null before it is placed. */
  memoryOf(index: number): number | null {
    return this.#places[index]?.memory ?? null
  }

  place(index: number, arena: Arena, memory: number): void {
    const shape = this.#shape(index)
    const states = arena.allocate(this.layerBytes(index), 'states of sequences')
    this.#places[index] = { shape, memory, states, slotBytes: slotBytes(shape) }
  }

  /** @throws for a layer that is unknown or not placed yet */
  layer(index: number): StatePlace {
    this.#shape(index)
    const place = this.#places[index]
    if (place === undefined) throw new Error(`layer ${index} of the pool of states has no place yet`)
    return place
  }

  #shape(index: number): StateShape {
    const shape = this.#layout.layers[index]
    if (shape === undefined) throw new Error(`layer ${index} is outside the pool of states of ${this.numLayers} layers`)
    return shape
  }
}
