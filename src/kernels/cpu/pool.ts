/** The threads of the cpu backend: the calling one coordinates and works, the others live in pool-worker.js. */
import { Worker } from 'node:worker_threads'
import type { Arena } from './arena.ts'
import { instantiate, type Exports, type Memory, type Module } from './host.js'
import { compileBuild, type KernelBuild } from './kernel-build.ts'

// Byte offsets in the control block; assembly/pool.ts has the same.
const CONTROL_BYTES = 448
const EPOCH = 0
const STOP = 4
const SLEEPERS = 64
const GENERATION = 192
const FAULT = 320

/** A memory that the threads run programs in. */
interface Space {
  readonly memory: Memory
  /** Address of its control block. */
  readonly control: number
  readonly words: Int32Array
  /** The calling thread's instance. */
  readonly exports: Exports
}

/** Worker threads that run a program together. A trap in one fails the pool for good. */
export class Pool {
  readonly numThreads: number
  /** Of the kernels. */
  readonly build: KernelBuild
  readonly #module: Module
  readonly #workers: readonly Worker[]
  /** Memories by index. The workers wait for programs in the first. */
  readonly #spaces: Space[]
  #failure: Error | null = null
  #closed: Promise<void> | null = null

  private constructor(module: Module, first: Space, workers: readonly Worker[], build: KernelBuild) {
    this.#module = module
    this.#spaces = [first]
    this.#workers = workers
    this.numThreads = workers.length + 1
    this.build = build
    for (const worker of workers) {
      worker.on('error', (cause) => {
        this.#failure ??= new Error('a thread of the cpu backend failed', { cause })
      })
    }
  }

  /** Compiles the kernels and starts `numThreads - 1` workers; resolves when all of them wait for programs. `arena`: the first memory. */
  static async start(arena: Arena, numThreads: number, build: KernelBuild): Promise<Pool> {
    const module = await compileBuild(build)
    const first = openSpace(module, arena, numThreads)
    const { memory, control } = first
    const workers = Array.from(
      { length: numThreads - 1 },
      (_, index) =>
        new Worker(new URL('./pool-worker.js', import.meta.url), {
          workerData: {
            module,
            first: { memory, control },
            faultOffset: FAULT,
            generationOffset: GENERATION,
            thread: index + 1,
            numThreads,
          },
          execArgv: [],
        }),
    )
    try {
      await Promise.all(
        workers.map(
          (worker) =>
            new Promise<void>((resolve, reject) => {
              worker.once('message', () => resolve())
              worker.once('error', reject)
              worker.once('exit', (code) =>
                reject(new Error(`a thread of the cpu backend exited with code ${code} at its start`)),
              )
            }),
        ),
      )
    } catch (error) {
      await Promise.all(workers.map((worker) => worker.terminate()))
      throw error
    }
    // An idle pool must not keep the process alive.
    for (const worker of workers) worker.unref()
    return new Pool(module, first, workers, build)
  }

  /** Lets the threads run programs in another memory. Returns its index. */
  addMemory(arena: Arena): number {
    const space = openSpace(this.#module, arena, this.numThreads)
    const { memory, control } = space
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
    for (const worker of this.#workers) worker.postMessage({ memory, control })
    return this.#spaces.push(space) - 1
  }

  /** Number of threads that have stopped spinning and sleep until the next program. */
  get sleepingThreads(): number {
    return Atomics.load(this.#first.words, SLEEPERS / 4)
  }

  get #first(): Space {
    return this.#spaces[0]!
  }

  /**
   * Runs a program in memory `memory`, on all threads or, with `alone`, on the calling one; returns when it is done. The number of threads never
   * changes a result.
   */
  run(memory: number, program: number, length: number, alone = false): void {
    if (this.#failure !== null) throw this.#failure
    if (this.#closed !== null) throw new Error('the backend is closed')
    const { exports } = this.#spaces[memory]!
    try {
      exports.setProgram(program, length, alone ? 1 : 0)
      if (!alone) this.#first.exports.announce(memory)
      exports.execute()
    } catch (cause) {
      // Release the threads that wait for this one at a barrier.
      this.#failure = new Error('the cpu kernels failed', { cause })
      const { words } = this.#spaces[memory]!
      Atomics.store(words, FAULT / 4, 1)
      Atomics.add(words, GENERATION / 4, 1)
      Atomics.notify(words, GENERATION / 4)
      throw this.#failure
    }
  }

  /** Stops the threads. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      const { words } = this.#first
      Atomics.store(words, STOP / 4, 1)
      Atomics.add(words, EPOCH / 4, 1)
      Atomics.notify(words, EPOCH / 4)
      await Promise.all(this.#workers.map((worker) => worker.terminate()))
    })()
    return this.#closed
  }
}

/** Allocates a control block in the memory and creates the calling thread's instance for it. */
function openSpace(module: Module, arena: Arena, numThreads: number): Space {
  const control = arena.allocate(CONTROL_BYTES, 'control block')
  // The calling thread is never inside `serve`, so it needs no `executeIn`: it calls `execute` in each memory itself.
  const exports = instantiate(module, arena.memory, () => {})
  exports.start(control, 0, numThreads)
  return { memory: arena.memory, control, words: arena.i32(control, CONTROL_BYTES / 4), exports }
}
