/**
 * Exports batches one after the other, and keeps those that failed: while the collector cannot be reached they wait, within the limit of the
 * queue. Counts what became of every span or log record.
 */
import { type ExportResult, ExportResultCode } from '@opentelemetry/core'

const FIRST_PAUSE_MS = 1000
const LONGEST_PAUSE_MS = 15_000

export interface ExportCounts {
  readonly created: number
  readonly exported: number
  readonly dropped: number
  readonly unsampled: number
}

/** Counts spans or log records by what became of them. The counts add up at any time. */
export class ExportCounter {
  created = 0
  exported = 0
  dropped = 0
  unsampled = 0
  /** Handed to the batch processor, not yet given to the exporter. */
  queued = 0
  /** Being sent, or waiting for another try. */
  inFlight = 0
  isClosed = false

  counts(): ExportCounts {
    const { created, exported, dropped, unsampled } = this
    return { created, exported, dropped, unsampled }
  }

  /** All that are still in memory. */
  get numWaiting(): number {
    return this.queued + this.inFlight
  }

  /** Counts everything that is still in memory as dropped. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.dropped += this.numWaiting
    this.queued = 0
    this.inFlight = 0
  }
}

/** What an exporter of spans and one of log records have in common. */
interface BatchExporter<Item> {
  export(items: Item[], done: (result: ExportResult) => void): void
  forceFlush?(): Promise<void>
  shutdown(): Promise<void>
}

/** Wraps an exporter. Failed batches are kept and tried again with growing pauses. */
export class PatientExporter<Item> implements BatchExporter<Item> {
  readonly #inner: BatchExporter<Item>
  readonly #counter: ExportCounter
  readonly #items: string
  readonly #onProblem: (detail: string) => void
  readonly #waiting: Item[][] = []
  #pass: Promise<void> | null = null
  #timer: NodeJS.Timeout | null = null
  #pauseMs = FIRST_PAUSE_MS

  /** `items`: their name in messages. */
  constructor(inner: BatchExporter<Item>, counter: ExportCounter, items: string, onProblem: (detail: string) => void) {
    this.#inner = inner
    this.#counter = counter
    this.#items = items
    this.#onProblem = onProblem
  }

  /** Takes a batch. The batch processor never has to wait. */
  export(items: Item[], done: (result: ExportResult) => void): void {
    this.#counter.queued -= items.length
    this.#counter.inFlight += items.length
    this.#waiting.push(items)
    if (this.#timer === null) void this.#send()
    done({ code: ExportResultCode.SUCCESS })
  }

  /** Sends what waits. Resolves when everything is sent, or a batch has failed. */
  async forceFlush(): Promise<void> {
    await this.#pass
    await this.#send()
    await this.#inner.forceFlush?.()
  }

  async shutdown(): Promise<void> {
    await this.#pass
    if (this.#waiting.length > 0) await this.#send()
    if (this.#timer) clearTimeout(this.#timer)
    await this.#inner.shutdown()
  }

  #send(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer)
    this.#timer = null
    this.#pass ??= this.#sendAll().finally(() => {
      this.#pass = null
    })
    return this.#pass
  }

  async #sendAll(): Promise<void> {
    for (let batch = this.#waiting[0]; batch !== undefined && !this.#counter.isClosed; batch = this.#waiting[0]) {
      const error = await this.#exportOne(batch)
      if (this.#counter.isClosed) return
      if (error !== null) this.#onProblem(`${this.#items} could not be exported: ${error.message}`)
      if (error !== null && !isRefusal(error)) return this.#later()
      this.#waiting.shift()
      this.#pauseMs = FIRST_PAUSE_MS
      this.#counter.inFlight -= batch.length
      this.#counter[error === null ? 'exported' : 'dropped'] += batch.length
    }
  }

  #exportOne(batch: Item[]): Promise<Error | null> {
    return new Promise((resolve) => {
      this.#inner.export(batch, ({ code, error }) =>
        resolve(code === ExportResultCode.SUCCESS ? null : (error ?? new Error('the exporter gave no reason'))),
      )
    })
  }

  #later(): void {
    this.#timer = setTimeout(() => void this.#send(), this.#pauseMs)
    this.#timer.unref()
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2)
  }
}

/** Codes for which another try is useless: gRPC's INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED, and HTTP statuses. */
const REFUSALS: ReadonlySet<unknown> = new Set([3, 7, 12, 16, 400, 401, 403, 404, 405, 413, 415])

const isRefusal = (error: Error): boolean => 'code' in error && REFUSALS.has(error.code)
