/**
 * The runner in a worker thread: loading, ops and the device's callbacks stay off the thread that serves HTTP. It behaves as the local runner does: calls
 * are answered in order, and errors have the same classes.
 */
import { Worker } from 'node:worker_threads'
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
import { takeThread } from './runner-thread.ts'
import { type MortalRunner, superviseRunner } from './supervisor.ts'
import { readResult, WordWriter, writePlan } from './step-codec.ts'
import { fromWireError, type WorkerCall, type WorkerRequest, type WorkerResponse } from './worker-protocol.ts'

/** A worker that takes longer than this to close is terminated. A driver that compiles needs seconds, and must not be interrupted. */
const CLOSE_TIMEOUT_MS = 15_000

interface PendingCall {
  readonly resolve: (value: ModelInfo | Uint8Array | null) => void
  readonly reject: (error: Error) => void
}

interface PendingStep {
  readonly resolve: (result: StepResult) => void
  readonly reject: (error: Error) => void
}

/** Shared memory that carries a plan to the worker and its result back. */
interface StepSlot {
  readonly index: number
  readonly writer: WordWriter
  /** The memory that the worker knows; null: none yet. */
  memory: SharedArrayBuffer | null
  /** The step that uses the slot; null: the slot is free. */
  pending: PendingStep | null
}

class WorkerRunner implements MortalRunner {
  readonly broken: Promise<Error>
  #break: (error: Error) => void = () => {}
  readonly #startThread: () => Worker
  #worker: Worker | null = null
  readonly #pending = new Map<number, PendingCall>()
  /** As many slots as steps have ever been in flight at once. */
  readonly #slots: StepSlot[] = []
  #nextId = 0
  #onProgress: ProgressListener | undefined
  #onProblem: (problem: RunnerProblem | null) => void = () => {}
  /** Why no call can be made any more; null: calls can be made. */
  #ended: RunnerError | null = null
  #closing: Promise<void> | null = null

  constructor(startThread: () => Worker) {
    this.#startThread = startThread
    this.broken = new Promise((resolve) => (this.#break = resolve))
  }

  async load(request: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo> {
    if (this.#worker !== null) throw new Error('load was called twice')
    this.#onProgress = onProgress
    const worker = this.#startThread()
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
      // If the step has failed already, the slot's next step would take these masks for its own. Posting to a worker that has ended does no harm.
      if (slot.pending === pending) worker.postMessage({ slot: slot.index, masks: found } satisfies WorkerRequest, [])
    })
    return result
  }

  async readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array> {
    return (await this.#call({ kind: 'readBlocks', blocks, poolId })) as Uint8Array
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void> {
    // The bytes are cloned and not transferred, so that the caller keeps them.
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
        // The worker is terminated in any case.
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

  /** Frees a slot. Its content stays valid until the next plan is written. */
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

  /** Rejects the calls in flight and every later call. */
  #end(error: RunnerError): void {
    this.#ended ??= error
    this.#break(this.#ended)
    for (const { index } of this.#slots) this.#settle(index)?.reject(this.#ended)
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const call of pending) call.reject(this.#ended)
  }
}

/** Numbers of pools per thread, so that those of two threads do not overlap. */
const POOLS_PER_THREAD = 2 ** 16

/** A runner in a thread of its own, which `load` starts and `close` ends. @param entry given by tests only */
export function createWorkerRunner(entry?: URL): MortalRunner {
  return new WorkerRunner(entry === undefined ? takeThread : () => new Worker(entry, { execArgv: [] }))
}

/** A runner in a thread of its own, replaced by another thread when that one dies. */
export function createLastingRunner(): Runner {
  return superviseRunner(() => createWorkerRunner(), POOLS_PER_THREAD)
}
