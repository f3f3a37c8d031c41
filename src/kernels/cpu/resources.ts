/** The contents of one memory of the cpu backend, by handle: vectors, rotary tables, step buffers, and the sizes of its matrices. */
import { Handles } from '../handles.ts'
import type { Activation, ExpertMatrix, Matrix, RopeTable, Routing, RoutingShape, Vector } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { HostTable } from './host-table.ts'
import type { KvCache } from './kv-cache.ts'
import { PANEL, roundUp, type MatrixSize, type PanelMatrix } from './matrices.ts'
import type { Residence } from './residence.ts'
import { placeRouting, routingBytes, routingParts, type HostRouting } from './routing.ts'
import type { StatePool } from './state-pool.ts'
import type { Weights } from './weights.ts'

interface HostVector extends Vector {
  readonly address: number // f32[length], zeros up to a whole panel
}

export interface HostActivation extends Activation {
  readonly address: number // f32 [maxRows, stride]
  readonly stride: number
}

export interface HostRope extends RopeTable {
  readonly inverseFrequencies: Float64Array
  readonly attentionFactor: number
  readonly address: number // f32 [maxRows][cosines, sines][rotaryDim / 2]
  /** The step that the table's positions belong to. */
  step: number
}

/** State that all memories of a backend share. */
export interface Common {
  /** The resources of each memory, by index. */
  readonly resources: Resources[]
  readonly weights: Weights
  readonly residence: Residence
  /** Capacity of step buffers and rotary tables, in rows. */
  readonly maxRows: number
  /** Rows of the step under way. */
  numRows: number
  kv: KvCache | null
  states: StatePool | null
}

/**
 * Look-ups throw for a handle of another backend. A resource that was created in another memory gets a place in this one at its first look-up: a
 * vector with its values, a step buffer without; `source` and `changed` copy its rows when needed.
 */
export class Resources {
  readonly #arena: Arena
  /** Index in the backend's list of memories. */
  readonly #index: number
  readonly #common: Common
  readonly #routings = new Handles<Routing, HostRouting>('routing')
  readonly #vectors = new Handles<Vector, HostVector>('vector')
  readonly #ropes = new Handles<RopeTable, HostRope>('rope table')
  readonly #activations = new Handles<Activation, HostActivation>('activation')
  /** Addresses of the biases of gated matrices and experts, reordered to match their panels. */
  readonly #panelBiases = new Map<Vector, number>()
  #largestInner = 0
  #largestOuter = 0
  #largestExpertInner = 0

  constructor(arena: Arena, index: number, common: Common) {
    this.#arena = arena
    this.#index = index
    this.#common = common
  }

  /** Padded columns of the widest matrix. */
  get largestInner(): number {
    return this.#largestInner
  }

  /** Padded rows of the tallest matrix. */
  get largestOuter(): number {
    return this.#largestOuter
  }

  /** Bytes of the prepared rows of the largest product of experts, counting a future one with `inner` columns. */
  routedBytes(inner = 0): number {
    const mostPositions = Math.max(0, ...this.#allRoutings.map(({ numPositions }) => numPositions))
    return Math.max(inner, this.#largestExpertInner) * 4 * mostPositions
  }

  /** The most experts in a layer. */
  get mostExperts(): number {
    return Math.max(0, ...this.#allRoutings.map(({ numExperts }) => numExperts))
  }

  /** Bytes that the routings created in other memories will take here. */
  get absentRoutingBytes(): number {
    const { resources, maxRows } = this.#common
    const absent = new Set(resources.flatMap((peer) => peer.#routings.handles()))
    for (const handle of this.#routings.handles()) absent.delete(handle)
    return [...absent].reduce((sum, handle) => sum + routingBytes(this.#knownRouting(handle), maxRows), 0)
  }

  /** The routings of all memories. One created elsewhere is placed here by the first op that needs it, after the weights are loaded. */
  get #allRoutings(): readonly HostRouting[] {
    return this.#common.resources.flatMap((peer) => peer.#routings.values())
  }

  /** The largest head dimension of a layer. */
  get largestHead(): number {
    return Math.max(0, ...(this.#common.kv?.layout.layers ?? []).map(({ headDim }) => headDim))
  }

  /** Bytes of the vectors created here. */
  get vectorBytes(): number {
    return this.#vectors.values().reduce((sum, { length }) => sum + roundUp(length, PANEL) * 4, 0)
  }

  /** Records the size of a matrix that is placed here. */
  hold({ inner, outer, numExperts }: MatrixSize): void {
    this.#largestInner = Math.max(this.#largestInner, inner)
    if (numExperts > 1) this.#largestExpertInner = Math.max(this.#largestExpertInner, inner)
    else this.#largestOuter = Math.max(this.#largestOuter, outer)
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.#routings.add(placeRouting(this.#arena, label, shape, this.#common.maxRows))
  }

  loadVector(label: string, values: Float32Array): Vector {
    return this.#vectors.add(this.#placeVector(label, values))
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.#ropes.add(this.#placeRope(label, inverseFrequencies, attentionFactor))
  }

  createActivation(label: string, cols: number): Activation {
    return this.#activations.add(this.#placeActivation(label, cols))
  }

  #placeVector(label: string, values: Float32Array): HostVector {
    const address = this.#arena.allocate(roundUp(values.length, PANEL) * 4, label)
    this.#arena.f32(address, values.length).set(values)
    return { label, length: values.length, address }
  }

  #placeRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): HostRope {
    const rotaryDim = inverseFrequencies.length * 2
    const address = this.#arena.allocate(this.#common.maxRows * rotaryDim * 4, label)
    return { label, rotaryDim, inverseFrequencies, attentionFactor, address, step: -1 }
  }

  #placeActivation(label: string, cols: number): HostActivation {
    const stride = roundUp(cols, PANEL) * 4
    const address = this.#arena.allocate(this.#common.maxRows * stride, label)
    return { label, cols, address, stride }
  }

  /** The other memory that knows a handle; else this one, whose look-up then throws. */
  #peer(find: (resources: Resources) => unknown): Resources {
    return this.#common.resources.find((peer) => find(peer) !== undefined) ?? this
  }

  kvCache(): KvCache {
    const { kv } = this.#common
    if (kv === null) throw new Error('createKvCache has not been called')
    return kv
  }

  /** The state pool. @throws when there is none */
  statePool(): StatePool {
    const { states } = this.#common
    if (states === null) throw new Error('createStatePool has not been called')
    return states
  }

  matrix(matrix: Matrix): PanelMatrix {
    return this.#common.weights.matrix(matrix)
  }

  table(matrix: Matrix): PanelMatrix | HostTable {
    return this.#common.weights.table(matrix)
  }

  experts(matrix: ExpertMatrix): PanelMatrix {
    return this.#common.weights.experts(matrix)
  }

  routing(routing: Routing): HostRouting {
    return this.#routings.find(routing) ?? this.#adoptRouting(routing)
  }

  vector(vector: Vector): HostVector {
    return this.#vectors.find(vector) ?? this.#adoptVector(vector)
  }

  rope(rope: RopeTable): HostRope {
    return this.#ropes.find(rope) ?? this.#adoptRope(rope)
  }

  #activation(activation: Activation): HostActivation {
    return this.#activations.find(activation) ?? this.#adoptActivation(activation)
  }

  #knownRouting(routing: Routing): HostRouting {
    return this.#peer((peer) => peer.#routings.find(routing)).#routings.get(routing)
  }

  #adoptRouting(routing: Routing): HostRouting {
    const { label, ...shape } = this.#knownRouting(routing)
    return this.#routings.adopt(routing, placeRouting(this.#arena, label, shape, this.#common.maxRows))
  }

  #adoptVector(vector: Vector): HostVector {
    const peer = this.#peer((other) => other.#vectors.find(vector))
    const { label, length, address } = peer.#vectors.get(vector)
    return this.#vectors.adopt(vector, this.#placeVector(label, peer.#arena.f32(address, length)))
  }

  #adoptRope(rope: RopeTable): HostRope {
    const { label, inverseFrequencies, attentionFactor } = this.#peer((peer) => peer.#ropes.find(rope)).#ropes.get(rope)
    return this.#ropes.adopt(rope, this.#placeRope(label, inverseFrequencies, attentionFactor))
  }

  #adoptActivation(activation: Activation): HostActivation {
    const { label, cols } = this.#peer((peer) => peer.#activations.find(activation)).#activations.get(activation)
    return this.#activations.adopt(activation, this.#placeActivation(label, cols))
  }

  /** A step buffer that an op reads. */
  source(activation: Activation): HostActivation {
    const own = this.#activation(activation)
    const { resources, residence, numRows } = this.#common
    if (resources.length > 1)
      residence.bring(activation, this.#index, (from) => this.#copyRows(activation, from, numRows))
    return own
  }

  /** A step buffer that an op overwrites. */
  target(activation: Activation): HostActivation {
    const own = this.#activation(activation)
    const { resources, residence } = this.#common
    if (resources.length > 1) residence.claim(activation, this.#index)
    return own
  }

  /** A step buffer that an op reads and overwrites. */
  changed(activation: Activation): HostActivation {
    this.source(activation)
    return this.target(activation)
  }

  #copyRows(activation: Activation, from: number, numRows: number): void {
    const peer = this.#common.resources[from]!
    const source = peer.#activation(activation)
    const bytes = numRows * source.stride
    this.#arena.bytes(this.#activation(activation).address, bytes).set(peer.#arena.bytes(source.address, bytes))
  }

  /** A routing that an op overwrites. */
  routed(routing: Routing): HostRouting {
    const own = this.routing(routing)
    const { resources, residence } = this.#common
    if (resources.length > 1) residence.claim(routing, this.#index)
    return own
  }

  /** A routing that an op reads, with the experts' results so far. */
  routedSource(routing: Routing): HostRouting {
    const own = this.routing(routing)
    const { resources, residence, maxRows } = this.#common
    const copy = (from: number): void => {
      const peer = resources[from]!
      const source = peer.routing(routing)
      for (const [part, bytes] of routingParts(source, maxRows))
        this.#arena.bytes(own[part], bytes).set(peer.#arena.bytes(source[part], bytes))
    }
    if (resources.length > 1) residence.bring(routing, this.#index, copy)
    return own
  }

  /** Writes the first rows of a step buffer. @throws when the values are not whole rows, or too many */
  writeRows(activation: Activation, values: Float32Array): void {
    const { address, stride, cols, label } = this.target(activation)
    const numRows = values.length / cols
    const { maxRows } = this.#common
    if (!Number.isInteger(numRows) || numRows > maxRows)
      throw new Error(`${label}: ${values.length} values are no whole number of at most ${maxRows} rows of ${cols}`)
    for (let row = 0; row < numRows; row++)
      this.#arena.f32(address + row * stride, cols).set(values.subarray(row * cols, (row + 1) * cols))
  }

  /** Moves the given rows of a step buffer to its front. `rows` must be ascending. */
  moveRows(activation: Activation, rows: Int32Array): void {
    const { address, stride } = this.changed(activation)
    for (const [i, row] of rows.entries())
      if (i !== row)
        this.#arena.bytes(address + i * stride, stride).set(this.#arena.bytes(address + row * stride, stride))
  }

  /** All rows of a step buffer. */
  readRows(activation: Activation): Float32Array {
    const { address, stride, cols } = this.#activation(activation)
    const { maxRows } = this.#common
    const values = new Float32Array(maxRows * cols)
    for (let row = 0; row < maxRows; row++) values.set(this.#arena.f32(address + row * stride, cols), row * cols)
    return values
  }

  /** Address of the bias in the order of the panels: for a gated matrix, 16 values of the gate and 16 of the up projection alternate. */
  bias(bias: Vector, { rows, gated, numExperts, numPanels }: PanelMatrix): number {
    const { address, length } = this.vector(bias)
    if (length !== numExperts * rows)
      throw new Error(`bias ${bias.label} has ${length} entries, expected ${numExperts * rows}`)
    if (!gated && numExperts === 1) return address
    const known = this.#panelBiases.get(bias)
    if (known !== undefined) return known
    const inPanels = this.#arena.allocate(numExperts * numPanels * PANEL * 4, bias.label)
    const target = this.#arena.f32(inPanels, numExperts * numPanels * PANEL)
    const values = this.#arena.f32(address, length)
    const half = rows / 2
    for (let i = 0; i < length; i++) {
      const row = i % rows
      const output = gated ? row % half : row
      const place = gated ? (output >> 4) * 32 + (row < half ? 0 : 16) + (output & 15) : output
      target[Math.floor(i / rows) * numPanels * PANEL + place] = values[i]!
    }
    this.#panelBiases.set(bias, inPanels)
    return inPanels
  }
}
