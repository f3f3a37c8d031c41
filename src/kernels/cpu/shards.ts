/**
 * The memories of the cpu backend. A WebAssembly memory ends at 4 GiB: what a model has beyond that goes to another one. Weights fill one after the
 * other in the order in which they are loaded. A layer of the KV pool goes where its first op finds its input, if there is room.
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

/** What is spread over the memories layer by layer: keys and values, states. */
interface LayeredPool {
  readonly numLayers: number
  layerBytes(layer: number): number
  memoryOf(layer: number): number | null
  place(layer: number, arena: Arena, memory: number): void
}

/** The memories, and the one whose program is being recorded. */
export class Shards implements PackingSpaces {
  readonly executor: Executor
  readonly common: Common
  readonly #limits: BackendOptions['limits']
  readonly #pool: Pool
  /** Bytes of weights, KV and states that a memory takes. */
  readonly #capacity: number
  readonly #taken: number[] = []
  readonly #all: Shard[] = []
  #current: Shard
  /** Begins the step under way in a memory; null between steps. */
  #beginStep: ((shard: Shard) => void) | null = null

  /** `arena`: the memory that the pool was started with. */
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

  /** The memory that ops run in which have no operand of a fixed place: that of the op before. */
  get current(): Shard {
    return this.#current
  }

  /** The memory that is being filled with weights. */
  get filling(): Shard {
    return this.#all.at(-1)!
  }

  /** Begins a step: `begin` is called for each memory, those that open during the step as well. */
  beginStep(begin: (shard: Shard) => void): void {
    this.#beginStep = begin
    for (const shard of this.#all) begin(shard)
  }

  /** Throws when no step is under way. */
  endStep(): void {
    if (this.#beginStep === null) throw new Error('endStep was called without beginStep')
    this.#beginStep = null
    for (const { step } of this.#all) step.end()
  }

  /** Goes on in a memory, after what is recorded for another one. */
  enter(shard: Shard): Shard {
    this.executor.enter(shard.program)
    this.#current = shard
    return shard
  }

  /** Goes on where a matrix of a product is. */
  withMatrix(matrix: Matrix): Shard {
    return this.enter(this.at(this.common.weights.matrix(matrix).memory))
  }

  withExperts(matrix: ExpertMatrix): Shard {
    return this.enter(this.at(this.common.weights.experts(matrix).memory))
  }

  /** Goes on where a table is; one outside of the memories is read from here. */
  withTable(table: Matrix): Shard {
    const own = this.common.weights.table(table)
    return own instanceof HostTable ? this.#current : this.enter(this.at(own.memory))
  }

  /** Goes on where a layer's keys and values are. */
  withKv(layer: number): Shard {
    return this.#withLayer(this.#current.resources.kvCache(), layer)
  }

  /** Goes on where a layer's states are. */
  withStates(layer: number): Shard {
    return this.#withLayer(this.#current.resources.statePool(), layer)
  }

  /** Goes on where an adapter's update is. */
  withUpdate(update: LowRank): Shard {
    return this.enter(this.#all.find(({ lowRank }) => lowRank.has(update)) ?? this.#current)
  }

  /** A layer that has no place yet gets it here if there is room. */
  #withLayer(pool: LayeredPool, layer: number): Shard {
    const memory = pool.memoryOf(layer)
    return this.enter(memory === null ? this.#placeLayer(pool, layer) : this.at(memory))
  }

  /** Gives a place to the layers that have none. */
  placeLayers(pool: LayeredPool): void {
    for (let layer = 0; layer < pool.numLayers; layer++)
      if (pool.memoryOf(layer) === null) this.#placeLayer(pool, layer)
  }

  /** @throws MatrixTooLargeError where an empty memory has no room for it */
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

  /** Bytes of what is large that the memories there are have room for. */
  get room(): number {
    return this.#all.reduce((sum, shard) => sum + Math.max(0, this.#roomOf(shard)), 0)
  }

  /** Bytes that steps still need, in all memories. */
  get reserveBytes(): number {
    return this.#all.reduce((sum, { memory }) => sum + memory.reserveBytes(), 0)
  }

  /** Bytes of what is large that an empty memory has room for. */
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
