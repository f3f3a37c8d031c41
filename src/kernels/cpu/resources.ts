/** What a model has put into the cpu backend: matrices, vectors, rope tables, step buffers and the KV pool, by the handles given out. */
import { asRows } from '../dequantize.ts'
import { Handles } from '../handles.ts'
import type { ExpertsUse, MatrixUse, StoredMatrix } from '../backend.ts'
import type {
  Activation,
  ExpertMatrix,
  KvFormat,
  KvLayout,
  Matrix,
  MatrixData,
  MatrixRows,
  RopeTable,
  Routing,
  RoutingShape,
  Vector,
} from '../ops.ts'
import type { Arena } from './arena.ts'
import { KvCache, kvBlockBytes } from './kv-cache.ts'
import { PANEL, roundUp, storedForm, type MatrixPacker, type PanelMatrix } from './matrices.ts'
import { placeRouting, type HostRouting } from './routing.ts'

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
  /** Step whose positions the table holds. */
  step: number
}

/** Look-ups throw for a handle of another backend. */
export class Resources {
  readonly kvFormat: KvFormat
  readonly #arena: Arena
  readonly #packer: MatrixPacker
  readonly #maxRows: number
  readonly #matrices = new Handles<Matrix, PanelMatrix>('matrix')
  readonly #experts = new Handles<ExpertMatrix, PanelMatrix>('experts')
  readonly #routings = new Handles<Routing, HostRouting>('routing')
  readonly #vectors = new Handles<Vector, HostVector>('vector')
  readonly #ropes = new Handles<RopeTable, HostRope>('rope table')
  readonly #activations = new Handles<Activation, HostActivation>('activation')
  /** Biases of gated matrices and of experts, in the order of their panels. */
  readonly #panelBiases = new Map<Vector, number>()
  #kv: KvCache | null = null
  #largestInner = 0
  #largestOuter = 0
  #largestExpertInner = 0

  /** `maxRows`: rows that step buffers and rope tables have room for. */
  constructor(arena: Arena, packer: MatrixPacker, maxRows: number, kvFormat: KvFormat) {
    this.#arena = arena
    this.#packer = packer
    this.#maxRows = maxRows
    this.kvFormat = kvFormat
  }

  /** Padded columns of the widest matrix. */
  get largestInner(): number {
    return this.#largestInner
  }

  /** Padded rows of the tallest matrix. */
  get largestOuter(): number {
    return this.#largestOuter
  }

  /** Bytes that the prepared rows of the largest product of experts take. */
  get routedBytes(): number {
    return (
      this.#largestExpertInner * 4 * Math.max(0, ...this.#routings.values().map(({ numPositions }) => numPositions))
    )
  }

  /** Experts of the layer with the most. */
  get mostExperts(): number {
    return Math.max(0, ...this.#routings.values().map(({ numExperts }) => numExperts))
  }

  /** Layout of the KV pool once there is one. */
  get kvLayout(): KvLayout | null {
    return this.#kv?.layout ?? null
  }

  /** Packed matrices, their factors and vectors. */
  get weightBytes(): number {
    const matrices = [...this.#matrices.values(), ...this.#experts.values()].map(
      ({ numExperts, numPanels, panelBytes }) => numExperts * numPanels * (panelBytes + 4) + 4,
    )
    const vectors = this.#vectors.values().map(({ length }) => roundUp(length, PANEL) * 4)
    return [...matrices, ...vectors].reduce((sum, bytes) => sum + bytes, 0)
  }

  get kvCacheBytes(): number {
    return this.#kv === null ? 0 : this.#kv.layout.numBlocks * this.#kv.bytesPerBlock
  }

  /** Packs a matrix. Throws for sizes that do not fit the data and for infinities or NaN. */
  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData | MatrixRows,
    use: MatrixUse,
  ): Promise<Matrix> {
    const matrix = this.#keep(
      await this.#packer.pack(label, rows, cols, asRows(label, rows, cols, data), use.glu === true),
    )
    await use.onPacked?.(this.#packer.planes(matrix))
    return matrix
  }

  /** Reads a matrix that was packed before. */
  async importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix, use: MatrixUse): Promise<Matrix> {
    const matrix = this.#packer.place(label, rows, cols, storedForm(stored), use.glu === true)
    await this.#packer.restore(matrix, stored)
    return this.#keep(matrix)
  }

  /** Packs experts' matrices, one after the other. Throws as loadMatrix does. */
  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use: ExpertsUse,
  ): Promise<ExpertMatrix> {
    let matrix: PanelMatrix | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const data = await load(expert)
      const source = asRows(`${label} ${expert}`, rows, cols, data)
      const gated = use.glu === true
      matrix = await this.#packer.packExpert(matrix, label, rows, cols, source, gated, numExperts, expert)
      await use.onPacked?.(this.#packer.planes(matrix, expert), expert)
    }
    return this.#keepExperts(label, matrix)
  }

  /** Reads experts' matrices that were packed before. */
  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse,
  ): Promise<ExpertMatrix> {
    let matrix: PanelMatrix | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const one = stored(expert)
      matrix ??= this.#packer.place(label, rows, cols, storedForm(one), use.glu === true, numExperts)
      await this.#packer.restore(matrix, one, expert)
    }
    return this.#keepExperts(label, matrix)
  }

  #keepExperts(label: string, matrix: PanelMatrix | null): PanelMatrix {
    if (matrix === null) throw new Error(`${label}: no experts`)
    this.#largestInner = Math.max(this.#largestInner, matrix.padded)
    this.#largestExpertInner = Math.max(this.#largestExpertInner, matrix.padded)
    return this.#experts.add(matrix)
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.#routings.add(placeRouting(this.#arena, label, shape, this.#maxRows))
  }

  #keep(matrix: PanelMatrix): PanelMatrix {
    this.#largestInner = Math.max(this.#largestInner, matrix.padded)
    this.#largestOuter = Math.max(this.#largestOuter, matrix.numPanels * PANEL)
    return this.#matrices.add(matrix)
  }

  loadVector(label: string, values: Float32Array): Vector {
    const address = this.#arena.allocate(roundUp(values.length, PANEL) * 4, label)
    this.#arena.f32(address, values.length).set(values)
    return this.#vectors.add({ label, length: values.length, address })
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    const rotaryDim = inverseFrequencies.length * 2
    const address = this.#arena.allocate(this.#maxRows * rotaryDim * 4, label)
    return this.#ropes.add({ label, rotaryDim, inverseFrequencies, attentionFactor, address, step: -1 })
  }

  createActivation(label: string, cols: number): Activation {
    const stride = roundUp(cols, PANEL) * 4
    const address = this.#arena.allocate(this.#maxRows * stride, label)
    return this.#activations.add({ label, cols, address, stride })
  }

  createKvCache(layout: KvLayout): void {
    if (this.#kv !== null) throw new Error('createKvCache was called twice')
    this.#kv = new KvCache(this.#arena, layout, this.kvFormat)
  }

  /** Bytes of all layers of one block of a pool of this layout. */
  kvBlockBytes(layout: KvLayout): number {
    return kvBlockBytes(layout, this.kvFormat)
  }

  kvCache(): KvCache {
    if (this.#kv === null) throw new Error('createKvCache has not been called')
    return this.#kv
  }

  matrix(matrix: Matrix): PanelMatrix {
    return this.#matrices.get(matrix)
  }

  experts(matrix: ExpertMatrix): PanelMatrix {
    return this.#experts.get(matrix)
  }

  routing(routing: Routing): HostRouting {
    return this.#routings.get(routing)
  }

  vector(vector: Vector): HostVector {
    return this.#vectors.get(vector)
  }

  activation(activation: Activation): HostActivation {
    return this.#activations.get(activation)
  }

  /** Writes the leading rows of a step buffer. Throws where they are no whole rows, or too many. */
  writeRows(activation: Activation, values: Float32Array): void {
    const { address, stride, cols, label } = this.activation(activation)
    const numRows = values.length / cols
    if (!Number.isInteger(numRows) || numRows > this.#maxRows)
      throw new Error(
        `${label}: ${values.length} values are no whole number of at most ${this.#maxRows} rows of ${cols}`,
      )
    for (let row = 0; row < numRows; row++)
      this.#arena.f32(address + row * stride, cols).set(values.subarray(row * cols, (row + 1) * cols))
  }

  /** All rows of a step buffer. */
  readRows(activation: Activation): Float32Array {
    const { address, stride, cols } = this.activation(activation)
    const values = new Float32Array(this.#maxRows * cols)
    for (let row = 0; row < this.#maxRows; row++) values.set(this.#arena.f32(address + row * stride, cols), row * cols)
    return values
  }

  rope(rope: RopeTable): HostRope {
    return this.#ropes.get(rope)
  }

  /** Address of the bias as the epilogue reads it: whole panels; of a gated matrix, 16 of the gate and 16 of the up projection in turn. */
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

  /** Staging memory that is free for other use once the weights are in. */
  takeStaging(): { readonly address: number; readonly bytes: number } {
    return this.#packer.takeStaging()
  }
}
