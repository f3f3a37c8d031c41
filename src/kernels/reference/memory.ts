/** Memory of the reference backend: weights widened to f32, activations, pools. */
import { checkMatrix, dequantize, wholeMatrix } from '../dequantize.ts'
import { Handles } from '../handles.ts'
import { packLowRank } from '../low-rank.ts'
import { fromPlanes, toPlanes } from '../planes.ts'
import type { BackendOptions, ExpertsUse, MemoryUse, MatrixUse, StoredMatrix } from '../backend.ts'
import type {
  Activation,
  ExpertMatrix,
  KvLayout,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixFormat,
  MatrixRows,
  Norm,
  RopeTable,
  Routing,
  RoutingShape,
  StateLayout,
  StepInput,
  Vector,
} from '../ops.ts'
import type { HostActivation, HostNorm, HostVector } from './arithmetic.ts'
import { type AttentionScratch } from './attention.ts'
import { createHostRouting, type HostRouting } from './experts.ts'
import { type HostLowRank } from './low-rank.ts'
import { KvPool, kvBlockBytes } from './kv-pool.ts'
import { HostRope } from './rope.ts'
import { RowTile } from './row-tile.ts'
import { StatePool, stateSlotBytes } from './state-pool.ts'

const bytesOf = (arrays: readonly ArrayBufferView[]): number =>
  arrays.reduce((sum, { byteLength }) => sum + byteLength, 0)

interface HostMatrix extends Matrix {
  readonly values: Float32Array
}

interface HostExpertMatrix extends ExpertMatrix {
  readonly values: Float32Array // [numExperts, rows, cols]
}

/** The memory of a model: weights, activations, the KV pool and the state pool. Ops are in the classes that extend it. */
export class HostMemory {
  readonly packedLayout = 'canonical 1'
  protected readonly options: BackendOptions
  protected readonly matrices = new Handles<Matrix, HostMatrix>('matrix')
  protected readonly expertMatrices = new Handles<ExpertMatrix, HostExpertMatrix>('experts')
  protected readonly vectors = new Handles<Vector, HostVector>('vector')
  protected readonly lowRanks = new Handles<LowRank, HostLowRank>('low-rank update')
  protected readonly ropes = new Handles<RopeTable, HostRope>('rope table')
  protected readonly activations = new Handles<Activation, HostActivation>('activation')
  protected readonly routings = new Handles<Routing, HostRouting>('routing')
  protected readonly tile = new RowTile()
  protected kv: KvPool | null = null
  protected states: StatePool | null = null
  protected attentionScratch: AttentionScratch = { scores: new Float64Array(0), sum: new Float64Array(0) }
  protected logits = new Float32Array(0)
  /** The current step; null between steps. */
  protected input: StepInput | null = null

  constructor(options: BackendOptions) {
    this.options = options
  }

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    given: MatrixData | MatrixRows,
    use?: MatrixUse,
  ): Promise<Matrix> {
    const data = await wholeMatrix(given, rows)
    checkMatrix(label, rows, cols, data)
    const matrix = { label, rows, cols, format: data.format as MatrixFormat, values: dequantize(data) }
    this.matrices.add(matrix)
    await use?.onPacked?.(toPlanes(data))
    return matrix
  }

  async importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix): Promise<Matrix> {
    return this.loadMatrix(label, rows, cols, await fromPlanes(stored))
  }

  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix> {
    const values = new Float32Array(numExperts * rows * cols)
    let format: MatrixFormat | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const data = await load(expert)
      checkMatrix(`${label} ${expert}`, rows, cols, data)
      if (format !== null && format !== data.format)
        throw new Error(`${label}: experts in ${format} and ${data.format}`)
      format = data.format
      values.set(dequantize(data), expert * rows * cols)
      await use?.onPacked?.(toPlanes(data), expert)
    }
    return this.expertMatrices.add({ label, numExperts, rows, cols, format: format ?? 'f32', values })
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
  ): Promise<ExpertMatrix> {
    return this.loadExperts(label, numExperts, rows, cols, (expert) => fromPlanes(stored(expert)))
  }

  loadVector(label: string, values: Float32Array): Vector {
    return this.vectors.add({ label, length: values.length, values })
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    const packed = packLowRank(label, rows, cols, adapters)
    return this.lowRanks.add({ label, rows, cols, numAdapters: adapters.length, ...packed })
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.ropes.add(new HostRope(label, inverseFrequencies, attentionFactor, this.options.limits.maxRows))
  }

  createActivation(label: string, cols: number): Activation {
    return this.activations.add({ label, cols, values: new Float32Array(this.options.limits.maxRows * cols) })
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.routings.add(createHostRouting(label, shape, this.options.limits.maxRows))
  }

  createKvCache(layout: KvLayout): void {
    if (this.kv !== null) throw new Error('createKvCache was called twice')
    this.kv = new KvPool(layout)
    this.attentionScratch = {
      scores: new Float64Array(this.options.limits.maxBlocksPerSequence * layout.blockSize),
      sum: new Float64Array(Math.max(...layout.layers.map(({ headDim }) => headDim))),
    }
  }

  memoryUse(): MemoryUse {
    const ropes = this.ropes.values().flatMap(({ cos, sin }) => [cos, sin])
    const routings = this.routings
      .values()
      .flatMap(({ experts, weights, activations, outputs }) => [experts, weights, activations, outputs])
    const activations = [...this.activations.values().map(({ values }) => values), ...routings]
    return {
      weightBytes: bytesOf(
        [
          ...this.matrices.values(),
          ...this.expertMatrices.values(),
          ...this.vectors.values(),
          ...this.lowRanks.values(),
        ].map(({ values }) => values),
      ),
      kvCacheBytes: (this.kv === null ? 0 : bytesOf([...this.kv.keys, ...this.kv.values])) + (this.states?.bytes ?? 0),
      scratchBytes: bytesOf([
        ...ropes,
        ...activations,
        ...this.tile.scratch,
        this.attentionScratch.scores,
        this.logits,
      ]),
    }
  }

  kvBlockBytes(layout: KvLayout): number {
    return kvBlockBytes(layout)
  }

  maxKvBlocks(): number {
    return Infinity
  }

  createStatePool(layout: StateLayout): void {
    if (this.states !== null) throw new Error('createStatePool was called twice')
    this.states = new StatePool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(): number {
    return Infinity
  }

  protected kvPool(): KvPool {
    if (this.kv === null) throw new Error('createKvCache has not been called')
    return this.kv
  }

  protected statePool(): StatePool {
    if (this.states === null) throw new Error('createStatePool has not been called')
    return this.states
  }

  protected stepInput(): StepInput {
    if (this.input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.input
  }

  protected hostNorm({ weight, eps }: Norm): HostNorm {
    return { weight: this.vectors.get(weight).values, eps }
  }

  /** Drops all weights, activations and pools. */
  protected clear(): void {
    for (const handles of [this.matrices, this.vectors, this.lowRanks, this.ropes]) handles.clear()
    for (const handles of [this.expertMatrices, this.activations, this.routings]) handles.clear()
    this.kv = null
    this.states = null
  }
}
