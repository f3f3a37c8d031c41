/** The load-time part of the cpu backend: puts a model into its memories and computes how much room is left. */
import { availableHostMemory } from '../host-memory.ts'
import type { BackendOptions, ExpertsUse, MatrixUse, MemoryUse, StoredMatrix } from '../backend.ts'
import type {
  Activation,
  ExpertMatrix,
  KvFormat,
  KvLayout,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixRows,
  RopeTable,
  Routing,
  RoutingShape,
  StateLayout,
  Vector,
} from '../ops.ts'
import { KvCache, kvBlockBytes, largestKvBytes } from './kv-cache.ts'
import { PACKED_LAYOUT } from './matrices.ts'
import type { Shard } from './shard.ts'
import type { Shards } from './shards.ts'
import { largestStateBytes, StatePool, stateSlotBytes } from './state-pool.ts'

/** Implements the load-time methods of Backend. */
export class ModelMemory {
  readonly packedLayout = PACKED_LAYOUT
  protected readonly kvFormat: KvFormat
  protected readonly shards: Shards

  constructor({ kvFormat = 'f16' }: BackendOptions, shards: Shards) {
    this.kvFormat = kvFormat
    this.shards = shards
  }

  /** Bytes that the KV and state pools may take: the room in existing memories, or in more memories up to half of the machine's, less what steps need. */
  protected budget(): number {
    const machine = availableHostMemory()
    const { room, reserveBytes } = this.shards
    return Math.max(0, Math.floor(Math.min(Math.max(room, machine / 2), machine * 0.8 - reserveBytes)))
  }

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData | MatrixRows,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    return this.shards.common.weights.loadMatrix(label, rows, cols, data, use)
  }

  async importMatrix(
    label: string,
    rows: number,
    cols: number,
    stored: StoredMatrix,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    return this.shards.common.weights.importMatrix(label, rows, cols, stored, use)
  }

  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    return this.shards.common.weights.loadExperts(label, numExperts, rows, cols, load, use)
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    return this.shards.common.weights.importExperts(label, numExperts, rows, cols, stored, use)
  }

  loadVector(label: string, values: Float32Array): Vector {
    return this.shards.filling.resources.loadVector(label, values)
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    return this.shards.filling.lowRank.load(label, rows, cols, adapters)
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.shards.filling.resources.loadRope(label, inverseFrequencies, attentionFactor)
  }

  createActivation(label: string, cols: number): Activation {
    return this.shards.filling.resources.createActivation(label, cols)
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.shards.filling.resources.createRouting(label, shape)
  }

  createKvCache(layout: KvLayout): void {
    const { common } = this.shards
    if (common.kv !== null) throw new Error('createKvCache was called twice')
    common.kv = new KvCache(layout, this.kvFormat)
  }

  kvBlockBytes(layout: KvLayout): number {
    return kvBlockBytes(layout, this.kvFormat)
  }

  maxKvBlocks(layout: KvLayout): number {
    return Math.floor(this.shards.emptyRoom / largestKvBytes(layout, this.kvFormat))
  }

  createStatePool(layout: StateLayout): void {
    const { common } = this.shards
    if (common.states !== null) throw new Error('createStatePool was called twice')
    common.states = new StatePool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(layout: StateLayout): number {
    return Math.floor(this.shards.emptyRoom / largestStateBytes(layout))
  }

  memoryUse(): MemoryUse {
    const { all, common } = this.shards
    const ofShards = (bytes: (shard: Shard) => number): number => all.reduce((sum, shard) => sum + bytes(shard), 0)
    const weightBytes =
      common.weights.bytes + ofShards(({ lowRank, resources }) => lowRank.bytes + resources.vectorBytes)
    const kvCacheBytes = (common.kv?.bytes ?? 0) + (common.states?.bytes ?? 0)
    const placed = weightBytes + kvCacheBytes - common.weights.bytesElsewhere
    return { weightBytes, kvCacheBytes, scratchBytes: ofShards(({ arena }) => arena.usedBytes) - placed }
  }
}
