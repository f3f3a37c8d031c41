/**
 * Runs slow calls one by one in a thread of their own. Tenants take turns. A call that takes too long, or whose result is no longer needed, is ended
 * together with its thread, and the next call gets a new thread.
 */
import { FairQueue } from './fair-queue.ts'
import type { KillableThread } from './killable-thread.ts'

interface ThreadQueueOptions<Call, Answer> {
  /** Starts a thread that is ready for calls: for the first call, and after a thread was ended. */
  readonly start: () => Promise<KillableThread<Call, Answer>>
  /** Limits on waiting calls, of all tenants and of one. */
  readonly maxWaiting: number
  readonly maxWaitingPerTenant: number
  /** Creates the error of a call beyond the limits. */
  readonly full: () => Error
  /** How long a call may continue after its result is no longer needed. Less than a new thread costs. */
  readonly graceMs: number
}

interface QueuedCall {
  readonly tenant: string
  readonly timeoutMs: number
  /** Creates the error of a call that exceeds `timeoutMs`. */
  readonly tooSlow: () => Error
  /** Aborted when the result is no longer needed. */
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
  /** Sets the time after which the running call is ended. */
  #limit: (ms: number, reason: () => Error) => void = () => {}
  #closed: Error | null = null

  constructor(options: ThreadQueueOptions<Call, Answer>) {
    this.#options = options
  }

  /** Queues a call. @throws the error of the call, `full`, `tooSlow`, the signal's reason, or the reason of `close` */
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

  /** Ends the thread and all waiting calls. Idempotent. */
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
