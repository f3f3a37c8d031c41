/**
 * The memories of the cpu backend. A WebAssembly memory ends at 4 GiB, so larger models use several. Weights fill one memory after another, in the
 * order in which they are loaded. A layer of the KV pool is placed in the memory that has the input of its first op, if it has room.
 */
import type { BackendOptions } from '../backend.ts'
import type { ExpertMatrix, LowRank, Matrix } from '../ops.ts'
import { Arena, LIMIT_BYTES } from './arena.ts'
import { Executor } from './executor.ts'
import { HostTable } from './host-table.ts'
import { MatrixPacker, type MatrixSize, type PackingSpaces } from './matrices.ts'
import type { Pool } from './pool.ts'
import { Program } from './program.ts'
import { MAX_MEMORIES, Residence } from './residence.ts'
import type { Common } from './resources.ts'
import { Shard } from './shard.ts'
import { MatrixTooLargeError, Weights } from './weights.ts'

/** A pool that is spread over the memories layer by layer: the KV pool or the state pool. */
interface LayeredPool {
  readonly numLayers: number
  layerBytes(layer: number): number
  memoryOf(layer: number): number | null
  place(layer: number, arena: Arena, memory: number): void
}

/** All memories, and which of them is being recorded for. */
export class Shards implements PackingSpaces {
  readonly executor: Executor
  readonly common: Common
  readonly #limits: BackendOptions['limits']
  readonly #pool: Pool
  /** The most bytes of weights, KV and states per memory. */
  readonly #capacity: number
  readonly #taken: number[] = []
  readonly #all: Shard[] = []
  #current: Shard
  /** Begins the current step in a memory; null between steps. */
  #beginStep: ((shard: Shard) => void) | null = null

  /** @param arena the memory that the thread pool was started with */
  constructor(options: BackendOptions, arena: Arena, pool: Pool, capacity: number) {
    this.#limits = options.limits
    this.#pool = pool
    this.#capacity = capacity
    const program = new Program(arena, 0)
    this.executor = new Executor(program, pool, options.traceKernels)
    const packer = new MatrixPacker(this, (packing) => {
      this.executor.enter(packing)
      this.executor.run()
    })
    this.common = {
      resources: [],
      weights: new Weights(packer),
      residence: new Residence(),
      maxRows: options.limits.maxRows,
      numRows: 0,
      kv: null,
      states: null,
    }
    this.#current = this.#add(arena, program)
  }

  get all(): readonly Shard[] {
    return this.#all
  }

  at(index: number): Shard {
    return this.#all[index]!
  }

  /** The memory of the previous op. Ops without weights, KV or states run there too. */
  get current(): Shard {
    return this.#current
  }

  /** The memory that new weights go to. */
  get filling(): Shard {
    return this.#all.at(-1)!
  }

  /** Begins a step: calls `begin` for each memory, including memories that are created during the step. */
  beginStep(begin: (shard: Shard) => void): void {
    this.#beginStep = begin
    for (const shard of this.#all) begin(shard)
  }

  /** @throws when no step is under way */
  endStep(): void {
    if (this.#beginStep === null) throw new Error('endStep was called without beginStep')
    this.#beginStep = null
    for (const { step } of this.#all) step.end()
  }

  /** Switches to a memory; what was recorded for another memory runs first. */
  enter(shard: Shard): Shard {
    this.executor.enter(shard.program)
    this.#current = shard
    return shard
  }

  /** Switches to the memory of a matrix. */
  withMatrix(matrix: Matrix): Shard {
    return this.enter(this.at(this.common.weights.matrix(matrix).memory))
  }

  withExperts(matrix: ExpertMatrix): Shard {
    return this.enter(this.at(this.common.weights.experts(matrix).memory))
  }

  /** Switches to the memory of a table; stays in the current one for a table outside the memories. */
  withTable(table: Matrix): Shard {
    const own = this.common.weights.table(table)
    return own instanceof HostTable ? this.#current : this.enter(this.at(own.memory))
  }

  /** Switches to the memory of a layer's keys and values. */
  withKv(layer: number): Shard {
    return this.#withLayer(this.#current.resources.kvCache(), layer)
  }

  /** Switches to the memory of a layer's states. */
  withStates(layer: number): Shard {
    return this.#withLayer(this.#current.resources.statePool(), layer)
  }

  /** Switches to the memory of an adapter's update. */
  withUpdate(update: LowRank): Shard {
    return this.enter(this.#all.find(({ lowRank }) => lowRank.has(update)) ?? this.#current)
  }

  /** Switches to the memory of a layer. A layer without a place is placed in the current memory if it has room. */
  #withLayer(pool: LayeredPool, layer: number): Shard {
    const memory = pool.memoryOf(layer)
    return this.enter(memory === null ? this.#placeLayer(pool, layer) : this.at(memory))
  }

  /** Places the layers that have no place yet. */
  placeLayers(pool: LayeredPool): void {
    for (let layer = 0; layer < pool.numLayers; layer++)
      if (pool.memoryOf(layer) === null) this.#placeLayer(pool, layer)
  }

  /** The memory for a new matrix. @throws MatrixTooLargeError when it does not fit even in an empty memory */
  forMatrix(label: string, size: MatrixSize): Shard {
    const { bytes } = size
    let shard = this.filling
    if (this.#roomOf(shard, size) < bytes) {
      const reserve = shard.memory.reserveBytes(size)
      if (bytes > this.#capacity || bytes > LIMIT_BYTES - reserve)
        throw new MatrixTooLargeError(`${label}: ${bytes} bytes do not fit into a memory`)
      shard = this.#open()
    }
    shard.resources.hold(size)
    this.#take(shard, bytes)
    return shard
  }

  /** Bytes of weights, KV and states that still fit in the existing memories. */
  get room(): number {
    return this.#all.reduce((sum, shard) => sum + Math.max(0, this.#roomOf(shard)), 0)
  }

  /** Bytes that steps will still allocate, in all memories. */
  get reserveBytes(): number {
    return this.#all.reduce((sum, { memory }) => sum + memory.reserveBytes(), 0)
  }

  /** Bytes of weights, KV and states that fit in an empty memory. */
  get emptyRoom(): number {
    const reserve = Math.max(...this.#all.map(({ memory }) => memory.reserveBytes()))
    return Math.min(this.#capacity, LIMIT_BYTES - reserve)
  }

  #placeLayer(pool: LayeredPool, layer: number): Shard {
    const bytes = pool.layerBytes(layer)
    const hasRoom = (shard: Shard): boolean => this.#roomOf(shard) >= bytes
    const shard = [this.#current, ...this.#all.toReversed()].find(hasRoom) ?? this.#open()
    pool.place(layer, shard.arena, shard.index)
    this.#take(shard, bytes)
    return shard
  }

  #roomOf({ index, arena, memory }: Shard, next?: MatrixSize): number {
    return Math.min(arena.freeBytes - memory.reserveBytes(next), this.#capacity - this.#taken[index]!)
  }

  #take({ index }: Shard, bytes: number): void {
    this.#taken[index]! += bytes
  }

  #open(): Shard {
    if (this.#all.length === MAX_MEMORIES) throw new Error(`the cpu backend has ${MAX_MEMORIES} memories at most`)
    const arena = new Arena()
    return this.#add(arena, new Program(arena, this.#pool.addMemory(arena)))
  }

  #add(arena: Arena, program: Program): Shard {
    const shard = new Shard(this.#limits, arena, program, this.executor, this.common, this.#pool.numThreads)
    this.#all.push(shard)
    this.#taken.push(0)
    this.common.resources.push(shard.resources)
    this.#beginStep?.(shard)
    return shard
  }
}
