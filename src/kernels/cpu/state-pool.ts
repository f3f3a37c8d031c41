/** The pool of states of the cpu backend: f32, a region per layer. */
import type { StateLayout, StateShape } from '../ops.ts'
import type { Arena } from './arena.ts'
import { roundUp } from './matrices.ts'

/** Bytes of the inputs that a convolution looks back on: [kernel - 1, channels], channels in whole vectors. */
export const inputBytes = ({ channels, kernel }: StateShape): number => (kernel - 1) * roundUp(channels, 4) * 4

const slotBytes = (shape: StateShape): number =>
  roundUp(inputBytes(shape) + shape.heads * shape.valueDim * shape.keyDim * 4, 64)

/** Bytes of a slot over all layers. */
export function stateSlotBytes({ layers }: StateLayout): number {
  return layers.reduce((sum, shape) => sum + slotBytes(shape), 0)
}

/** Bytes of a slot of the layer that has the most. */
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

/** The states of all layers, each layer's in one memory. */
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

  /** Bytes of a layer's states. Throws for a layer that is not there. */
  layerBytes(index: number): number {
    return this.#layout.numSlots * slotBytes(this.#shape(index))
  }

  /** Index of the memory that a layer is in; null: it has no place yet. */
  memoryOf(index: number): number | null {
    return this.#places[index]?.memory ?? null
  }

  place(index: number, arena: Arena, memory: number): void {
    const shape = this.#shape(index)
    const states = arena.allocate(this.layerBytes(index), 'states of sequences')
    this.#places[index] = { shape, memory, states, slotBytes: slotBytes(shape) }
  }

  /** Throws for a layer that is not there or has no place yet. */
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
