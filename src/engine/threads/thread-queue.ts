/**
 * Work that could hold up whoever does it, one call after the other in a thread of its own. Tenants take turns; what takes too long, or what nobody
 * waits for any more, is ended with its thread, and the next call gets a new one.
 */
import { FairQueue } from './fair-queue.ts'
import type { KillableThread } from './killable-thread.ts'

interface ThreadQueueOptions<Call, Answer> {
  /** A thread that is ready for calls. Started with the first call, and after one was ended. */
  readonly start: () => Promise<KillableThread<Call, Answer>>
  /** Calls that may wait, of all tenants and of one. */
  readonly maxWaiting: number
  readonly maxWaitingPerTenant: number
  /** Of a call beyond them. */
  readonly full: () => Error
  /** How long a call that nobody waits for any more may still run: less costs than starting another thread. */
  readonly graceMs: number
}

interface QueuedCall {
  /** Whose it is. */
  readonly tenant: string
  /** How long it may run. */
  readonly timeoutMs: number
  /** What it fails with when it runs longer. */
  readonly tooSlow: () => Error
  /** Aborted when nobody waits any more. */
  readonly signal?: AbortSignal | undefined
}

interface Job<Call, Answer> extends QueuedCall {
  readonly call: Call
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

/** Bounded queue before one thread. A call over its time limit ends the thread; the next call starts a new one. */
export class ThreadQueue<Call, Answer> {
  readonly #options: ThreadQueueOptions<Call, Answer>
  readonly #waiting = new FairQueue<Job<Call, Answer>>()
  #running: Job<Call, Answer> | null = null
  #thread: KillableThread<Call, Answer> | null = null
  /** Ends the running call after so many milliseconds; there while one runs. */
  #limit: (ms: number, reason: () => Error) => void = () => {}
  #closed: Error | null = null

  constructor(options: ThreadQueueOptions<Call, Answer>) {
    this.#options = options
  }

  /** Throws what the call throws, `full` and `tooSlow`, the signal's reason, and what the queue was closed with. */
  async run(call: Call, queued: QueuedCall): Promise<Answer> {
    const { tenant, signal } = queued
    signal?.throwIfAborted()
    if (this.#closed !== null) throw this.#closed
    const { maxWaiting, maxWaitingPerTenant, full } = this.#options
    if (this.#waiting.size >= maxWaiting || this.#waiting.sizeOf(tenant) >= maxWaitingPerTenant) throw full()
    let onAbort: () => void = () => {}
    try {
      return await new Promise<Answer>((resolve, reject) => {
        const job = { ...queued, call, resolve, reject }
        onAbort = () => this.#leave(job)
        signal?.addEventListener('abort', onAbort, { once: true })
        this.#waiting.push(tenant, job)
        void this.#next()
      })
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  /** Ends the thread and everything that waits; idempotent. */
  async close(reason: Error): Promise<void> {
    this.#closed ??= reason
    for (let job = this.#waiting.shift(); job !== undefined; job = this.#waiting.shift()) job.reject(this.#closed)
    this.#running?.reject(this.#closed)
    await this.#thread?.close(this.#closed)
  }

  #leave(job: Job<Call, Answer>): void {
    const reason: unknown = job.signal?.reason
    const error = reason instanceof Error ? reason : new Error('aborted')
    job.reject(error)
    if (!this.#waiting.remove(job.tenant, job) && this.#running === job) {
      this.#limit(this.#options.graceMs, () => error)
    }
  }

  async #next(): Promise<void> {
    if (this.#running !== null) return
    const job = this.#waiting.shift()
    if (job === undefined) return
    this.#running = job
    let timer: NodeJS.Timeout | undefined
    try {
      const thread = await this.#open()
      this.#limit = (ms, reason) => {
        clearTimeout(timer)
        timer = setTimeout(() => void thread.close(reason()), ms)
      }
      if (job.signal?.aborted === true) return
      this.#limit(job.timeoutMs, job.tooSlow)
      job.resolve(await thread.call(job.call))
    } catch (error) {
      job.reject(error instanceof Error ? error : new Error(String(error)))
    } finally {
      clearTimeout(timer)
      this.#limit = () => {}
      this.#running = null
      void this.#next()
    }
  }

  async #open(): Promise<KillableThread<Call, Answer>> {
    if (this.#thread !== null && !this.#thread.isEnded) return this.#thread
    const thread = await this.#options.start()
    this.#thread = thread
    if (this.#closed === null) return thread
    await thread.close(this.#closed)
    throw this.#closed
  }
}
