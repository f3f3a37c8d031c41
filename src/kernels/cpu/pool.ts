/** The threads of the cpu backend: the calling one coordinates and works, the others live in pool-worker.js. */
import { readFile } from 'node:fs/promises'
import { Worker } from 'node:worker_threads'
import type { Arena } from './arena.ts'
import { compile, hasRelaxedSimd, instantiate, type Exports } from './host.js'

// Byte offsets in the control block; assembly/pool.ts has the same.
const CONTROL_BYTES = 448
const EPOCH = 0
const STOP = 4
const SLEEPERS = 64
const GENERATION = 192
const FAULT = 320

/** Worker threads that run a program together. A trap in one fails the pool for good. */
export class Pool {
  readonly numThreads: number
  readonly relaxed: boolean
  readonly #exports: Exports
  readonly #workers: readonly Worker[]
  readonly #control: Int32Array
  #failure: Error | null = null
  #closed: Promise<void> | null = null

  private constructor(exports: Exports, workers: readonly Worker[], control: Int32Array, relaxed: boolean) {
    this.#exports = exports
    this.#workers = workers
    this.#control = control
    this.numThreads = workers.length + 1
    this.relaxed = relaxed
    for (const worker of workers) {
      worker.on('error', (cause) => {
        this.#failure ??= new Error('a thread of the cpu backend failed', { cause })
      })
    }
  }

  /** Compiles the kernels and starts `numThreads - 1` workers; resolves when all are listening. */
  static async start(arena: Arena, numThreads: number, allowRelaxed: boolean): Promise<Pool> {
    const relaxed = allowRelaxed && hasRelaxedSimd()
    const name = relaxed ? 'kernels-relaxed.wasm' : 'kernels.wasm'
    const path = new URL(`./${name}`, import.meta.url)
    const bytes = await readFile(path).catch((cause: unknown) => {
      throw new Error(`the cpu backend's kernels are missing (${path.pathname}): run npm run build`, { cause })
    })
    const module = await compile(bytes)
    const control = arena.allocate(CONTROL_BYTES, 'control block')
    const exports = await instantiate(module, arena.memory)
    exports.start(control, 0, numThreads)
    const workers = Array.from(
      { length: numThreads - 1 },
      (_, index) =>
        new Worker(new URL('./pool-worker.js', import.meta.url), {
          workerData: {
            module,
            memory: arena.memory,
            control,
            faultAddress: control + FAULT,
            generationAddress: control + GENERATION,
            thread: index + 1,
            numThreads,
          },
          execArgv: [],
        }),
    )
    const words = arena.i32(control, CONTROL_BYTES / 4)
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
    // An idle pool keeps no process alive.
    for (const worker of workers) worker.unref()
    return new Pool(exports, workers, words, relaxed)
  }

  /** Threads that sleep until there is a program: they have stopped spinning and use no processor. */
  get sleepingThreads(): number {
    return Atomics.load(this.#control, SLEEPERS / 4)
  }

  /** Runs a program on all threads, or on the calling one alone; returns when it is done. Who computes never changes a result. */
  run(program: number, length: number, alone = false): void {
    if (this.#failure !== null) throw this.#failure
    if (this.#closed !== null) throw new Error('the backend is closed')
    try {
      this.#exports.run(program, length, alone ? 1 : 0)
    } catch (cause) {
      // Threads waiting at a barrier for this one must not wait for ever.
      this.#failure = new Error('the cpu kernels failed', { cause })
      Atomics.store(this.#control, FAULT / 4, 1)
      Atomics.add(this.#control, GENERATION / 4, 1)
      Atomics.notify(this.#control, GENERATION / 4)
      throw this.#failure
    }
  }

  /** Stops the threads. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      Atomics.store(this.#control, STOP / 4, 1)
      Atomics.add(this.#control, EPOCH / 4, 1)
      Atomics.notify(this.#control, EPOCH / 4)
      await Promise.all(this.#workers.map((worker) => worker.terminate()))
    })()
    return this.#closed
  }
}
