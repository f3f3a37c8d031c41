/** Runs recorded programs on the pool: a whole program at once, or op by op when kernels are traced. */
import type { StepOutput } from '../ops.ts'
import type { Pool } from './pool.ts'
import type { Program } from './program.ts'

/** Multiply-adds and bytes of weights per microsecond of one thread: a rough figure, to decide whether more threads pay off. */
const WORK_PER_MICROSECOND = 15_000
/** The cost of running an op on all threads: a barrier, or more when other programs use the cores. */
const SHARING_MICROSECONDS = 8

/** Runs recorded commands and measures microseconds per kernel when kernels are traced. Each memory has a program; one is recorded at a time. */
export class Executor {
  #program: Program
  readonly #pool: Pool
  readonly #traceKernels: boolean
  readonly #kernels = new Map<string, { micros: number; count: number }>()
  /** Estimated time of one thread for the recorded ops. */
  #estimatedMicroseconds = 0
  #isInStep = false
  #isRehearsing = false

  constructor(program: Program, pool: Pool, traceKernels: boolean) {
    this.#program = program
    this.#pool = pool
    this.#traceKernels = traceKernels
  }

  /** Makes `program` the one that is recorded. Runs what was recorded for another memory first. */
  enter(program: Program): void {
    if (program === this.#program) return
    this.run()
    this.#program = program
  }

  /** Calls `ops` within a step that has begun, and runs nothing of what it records. */
  rehearse(ops: () => void): void {
    this.#isRehearsing = true
    try {
      ops()
      this.run()
    } finally {
      this.#isRehearsing = false
    }
  }

  /** Begins a step; drops what an abandoned step has recorded. */
  beginStep(): void {
    this.#program.clear()
    this.#estimatedMicroseconds = 0
    this.#isInStep = true
  }

  /** Runs the rest of the step. Returns the step's times per kernel, null when they are not traced. */
  endStep(): StepOutput['kernels'] {
    this.run()
    this.#isInStep = false
    if (!this.#traceKernels) return null
    const kernels = [...this.#kernels].map(([kernel, { micros, count }]) => ({ kernel, micros, count }))
    this.#kernels.clear()
    return kernels
  }

  /** Adds the work of an op that is being recorded, in multiply-adds and bytes of weights. */
  addWork(work: number): void {
    this.#estimatedMicroseconds += work / WORK_PER_MICROSECOND
  }

  /** Runs the recorded ops and clears them; with traceKernels one by one, timed. */
  run(): void {
    const { memory, address, length, names } = this.#program
    if (length === 0) return
    if (this.#isRehearsing) {
      // A rehearsal only records: its ops are not run.
    } else if (this.#traceKernels && this.#isInStep) {
      for (const [index, name] of names.entries()) {
        this.#program.isolate(index)
        const started = performance.now()
        this.#pool.run(memory, address, 1)
        const time = this.#kernels.get(name) ?? { micros: 0, count: 0 }
        time.micros += (performance.now() - started) * 1000
        time.count++
        this.#kernels.set(name, time)
      }
    } else {
      // A small model decodes faster on one thread, without a barrier after every op.
      const saved = this.#estimatedMicroseconds * (1 - 1 / this.#pool.numThreads)
      this.#pool.run(memory, address, length, this.#isInStep && saved < length * SHARING_MICROSECONDS)
    }
    this.#program.clear()
    this.#estimatedMicroseconds = 0
  }
}
