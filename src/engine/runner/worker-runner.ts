/**
 * The runner in a worker thread. Loading, ops and the device's callbacks stay off the thread that serves HTTP. The interface is the local runner's: calls
 * are answered in order, errors arrive as the same classes.
 */
import { Worker } from 'node:worker_threads'
import { builtEntry } from '../threads/built-entry.ts'
import {
  type LateMasks,
  type ModelInfo,
  type ModelRequest,
  type ProgressListener,
  type Runner,
  RunnerError,
  type RunnerProblem,
  type StepPlan,
  type StepResult,
} from './runner.ts'
import { type MortalRunner, superviseRunner } from './supervisor.ts'
import { readResult, WordWriter, writePlan } from './step-codec.ts'
import { fromWireError, type WorkerCall, type WorkerRequest, type WorkerResponse } from './worker-protocol.ts'

/** A worker that does not finish closing within this is terminated. A driver that compiles needs seconds, and must not be interrupted. */
const CLOSE_TIMEOUT_MS = 15_000

interface PendingCall {
  readonly resolve: (value: ModelInfo | Uint8Array | null) => void
  readonly reject: (error: Error) => void
}

interface PendingStep {
  readonly resolve: (result: StepResult) => void
  readonly reject: (error: Error) => void
}

/** Memory that a plan goes over in and its result comes back in. */
interface StepSlot {
  readonly index: number
  readonly writer: WordWriter
  /** What the worker was told it writes to. */
  memory: SharedArrayBuffer | null
  /** null: free. */
  pending: PendingStep | null
}

class WorkerRunner implements MortalRunner {
  readonly broken: Promise<Error>
  #break: (error: Error) => void = () => {}
  readonly #entry: URL
  #worker: Worker | null = null
  readonly #pending = new Map<number, PendingCall>()
  /** As many as there were ever steps in flight. */
  readonly #slots: StepSlot[] = []
  #nextId = 0
  #onProgress: ProgressListener | undefined
  #onProblem: (problem: RunnerProblem | null) => void = () => {}
  /** Why no call can be made any more. */
  #ended: RunnerError | null = null
  #closing: Promise<void> | null = null

  constructor(entry: URL) {
    this.#entry = entry
    this.broken = new Promise((resolve) => (this.#break = resolve))
  }

  async load(request: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo> {
    if (this.#worker !== null) throw new Error('load was called twice')
    this.#onProgress = onProgress
    // No execArgv: flags of the main process (an inspector port, a test runner's loader) are not the worker's.
    const worker = new Worker(this.#entry, { execArgv: [] })
    this.#worker = worker
    worker.on('message', (response: WorkerResponse) => this.#receive(response))
    worker.on('error', (error) =>
      this.#end(new RunnerError('engine_error', `the runner's thread failed: ${error.message}`, { cause: error })),
    )
    worker.on('messageerror', (error) =>
      this.#end(
        new RunnerError('engine_error', `a message of the runner was unreadable: ${error.message}`, { cause: error }),
      ),
    )
    worker.on('exit', (code) =>
      this.#end(new RunnerError('engine_error', `the runner's thread ended with code ${code}`)),
    )
    return (await this.#call({ kind: 'load', request })) as ModelInfo
  }

  async execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult> {
    if (this.#ended !== null) throw this.#ended
    const worker = this.#worker
    if (worker === null) throw new RunnerError('engine_error', 'no model is loaded')
    const slot = this.#freeSlot()
    writePlan(slot.writer, plan, masks !== undefined)
    if (slot.writer.buffer !== slot.memory) {
      slot.memory = slot.writer.buffer
      worker.postMessage({ slot: slot.index, memory: slot.memory } satisfies WorkerRequest, [])
    }
    const result = new Promise<StepResult>((resolve, reject) => (slot.pending = { resolve, reject }))
    const { pending } = slot
    worker.postMessage(slot.index satisfies WorkerRequest, [])
    void masks?.then((found) => {
      // The step may have failed without them: the slot's next one would take them for its own. A worker that has ended takes messages all the same.
      if (slot.pending === pending) worker.postMessage({ slot: slot.index, masks: found } satisfies WorkerRequest, [])
    })
    return result
  }

  async readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array> {
    return (await this.#call({ kind: 'readBlocks', blocks, poolId })) as Uint8Array
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void> {
    // Cloned, not transferred: the caller keeps its bytes.
    await this.#call({ kind: 'writeBlocks', blocks, bytes, poolId })
  }

  onProblem(listener: (problem: RunnerProblem | null) => void): void {
    this.#onProblem = listener
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const worker = this.#worker
    const isAlive = this.#ended === null
    this.#end(new RunnerError('closed', 'the runner is closed'))
    if (worker === null) return
    if (isAlive) {
      const timeout = AbortSignal.timeout(CLOSE_TIMEOUT_MS)
      const closed = this.#post(worker, { kind: 'close' })
      timeout.addEventListener('abort', () => this.#end(new RunnerError('closed', 'the runner did not close in time')))
      try {
        await closed
      } catch {
        // Terminated all the same.
      }
    }
    await worker.terminate()
  }

  #freeSlot(): StepSlot {
    const free = this.#slots.find(({ pending }) => pending === null)
    if (free !== undefined) return free
    const slot: StepSlot = { index: this.#slots.length, writer: new WordWriter(), memory: null, pending: null }
    this.#slots.push(slot)
    return slot
  }

  #call(call: WorkerCall): Promise<ModelInfo | Uint8Array | null> {
    if (this.#ended !== null) return Promise.reject(this.#ended)
    if (this.#worker === null) return Promise.reject(new RunnerError('engine_error', 'no model is loaded'))
    return this.#post(this.#worker, call)
  }

  #post(worker: Worker, call: WorkerCall): Promise<ModelInfo | Uint8Array | null> {
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      try {
        worker.postMessage({ id, call } satisfies WorkerRequest, [])
      } catch (error) {
        this.#pending.delete(id)
        reject(error as Error)
      }
    })
  }

  #receive(response: WorkerResponse): void {
    if (typeof response === 'number') {
      this.#settle(response)?.resolve(readResult(this.#memory(response), null))
      return
    }
    if ('slot' in response) {
      const step = this.#settle(response.slot)
      if ('error' in response) step?.reject(fromWireError(response.error))
      else step?.resolve(readResult(this.#memory(response.slot), response.details))
      return
    }
    if ('problem' in response) {
      this.#onProblem(response.problem)
      return
    }
    if ('progress' in response) {
      this.#onProgress?.(...response.progress)
      return
    }
    const pending = this.#pending.get(response.id)
    this.#pending.delete(response.id)
    if ('error' in response) pending?.reject(fromWireError(response.error))
    else pending?.resolve(response.value)
  }

  /** Frees a slot: its content is valid until the next plan is written. */
  #settle(index: number): PendingStep | null {
    const slot = this.#slots[index]
    if (slot === undefined) return null
    const { pending } = slot
    slot.pending = null
    return pending
  }

  #memory(index: number): SharedArrayBuffer {
    const memory = this.#slots[index]?.memory
    if (memory === undefined || memory === null) throw new Error(`slot ${index} has no memory`)
    return memory
  }

  /** Fails what is in flight, and every call from now on. */
  #end(error: RunnerError): void {
    this.#ended ??= error
    this.#break(this.#ended)
    for (const { index } of this.#slots) this.#settle(index)?.reject(this.#ended)
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const call of pending) call.reject(this.#ended)
  }
}

/** Pools that the runner in a thread may go through before its numbers meet those of the next thread's. */
const POOLS_PER_THREAD = 2 ** 16

/** A runner in a thread of its own. The thread starts with `load`; `close` ends it. `entry` is for tests. */
export function createWorkerRunner(entry?: URL): MortalRunner {
  return new WorkerRunner(entry ?? builtEntry('runner/worker'))
}

/** A runner in a thread of its own, and in another one when that thread dies. */
export function createLastingRunner(): Runner {
  return superviseRunner(() => createWorkerRunner(), POOLS_PER_THREAD)
}
