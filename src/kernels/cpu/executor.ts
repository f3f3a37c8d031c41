/** Runs recorded programs on the pool: all of one at once, or op by op where kernels are traced. */
import type { StepOutput } from '../ops.ts'
import type { Pool } from './pool.ts'
import type { Program } from './program.ts'

/** Multiply-adds, and bytes of weights, a microsecond of one thread: rough, for deciding whether sharing the work pays. */
const WORK_PER_MICROSECOND = 15_000
/** What handing an op around costs: a barrier, more when other programs want the cores. */
const SHARING_MICROSECONDS = 8

/** Runs recorded commands and, where kernels are traced, measures microseconds per kernel. Each memory has a program; one is recorded at a time. */
export class Executor {
  #program: Program
  readonly #pool: Pool
  readonly #traceKernels: boolean
  readonly #kernels = new Map<string, { micros: number; count: number }>()
  /** One thread's time for what is recorded. */
  #estimatedMicroseconds = 0
  #isInStep = false
  #isRehearsing = false

  constructor(program: Program, pool: Pool, traceKernels: boolean) {
    this.#program = program
    this.#pool = pool
    this.#traceKernels = traceKernels
  }

  /** Makes `program` the one that is recorded. What was recorded for another memory is run before. */
  enter(program: Program): void {
    if (program === this.#program) return
    this.run()
    this.#program = program
  }

  /** Records what `ops` records, on a step that was begun, and runs none of it. */
  rehearse(ops: () => void): void {
    this.#isRehearsing = true
    try {
      ops()
      this.run()
    } finally {
      this.#isRehearsing = false
    }
  }

  /** Begins a step: what an abandoned one has recorded is dropped. */
  beginStep(): void {
    this.#program.clear()
    this.#estimatedMicroseconds = 0
    this.#isInStep = true
  }

  /** Runs the rest of the step; the kernels' times of the step, null when they are not traced. */
  endStep(): StepOutput['kernels'] {
    this.run()
    this.#isInStep = false
    if (!this.#traceKernels) return null
    const kernels = [...this.#kernels].map(([kernel, { micros, count }]) => ({ kernel, micros, count }))
    this.#kernels.clear()
    return kernels
  }

  /** Counts the work of an op being recorded, in multiply-adds and bytes of weights. */
  addWork(work: number): void {
    this.#estimatedMicroseconds += work / WORK_PER_MICROSECOND
  }

  /** Runs what is recorded and clears it; with traceKernels op by op, timed. */
  run(): void {
    const { memory, address, length, names } = this.#program
    if (length === 0) return
    if (this.#isRehearsing) {
      // What it records matters, not what it computes.
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
      // A small model decodes faster on one thread than with a barrier after every op.
      const saved = this.#estimatedMicroseconds * (1 - 1 / this.#pool.numThreads)
      this.#pool.run(memory, address, length, this.#isInStep && saved < length * SHARING_MICROSECONDS)
    }
    this.#program.clear()
    this.#estimatedMicroseconds = 0
  }
}
