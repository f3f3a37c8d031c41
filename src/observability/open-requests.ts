/** The open traces: of requests whose response is not over, and of requests that only wait for work in flight. */
import type { RequestTrace } from './request-trace.ts'

/** How long a finished request may wait for its work. */
const PENDING_AFTER_MS = 60_000
/** Number of closed request ids that are remembered. Late events come within seconds. */
const MAX_RECENT = 4096

/** What a request waits for. */
interface Waiting {
  /** Those that are not closed yet. */
  readonly traces: Set<RequestTrace>
  readonly end: () => void
}

/** Traces by request id. A trace that stays open longer than `leakAfterMs` is reported and closed. */
export class OpenRequests {
  /** Whoever removes a trace from this map finishes it. */
  readonly #open = new Map<string, RequestTrace>()
  /** Finished requests with work in flight. */
  readonly #closing = new Map<string, RequestTrace>()
  /** Ids of recently closed requests: a late event must not open another root. */
  readonly #recentlyClosed = new Set<string>()
  /** Requests that wait for others to be closed. */
  readonly #waiting = new Map<RequestTrace, Waiting>()
  readonly #leakAfterMs: number
  readonly #watchdog: NodeJS.Timeout

  /** @param onLeak gets each request without activity for `leakAfterMs`, and has to close it */
  constructor(leakAfterMs: number, onLeak: (trace: RequestTrace) => void) {
    this.#leakAfterMs = leakAfterMs
    this.#watchdog = setInterval(
      () => {
        for (const trace of this.#leaks()) onLeak(trace)
      },
      Math.min(PENDING_AFTER_MS, leakAfterMs) / 2,
    )
    this.#watchdog.unref()
  }

  get size(): number {
    return this.#open.size + this.#closing.size
  }

  add(trace: RequestTrace): void {
    this.#open.set(trace.requestId, trace)
  }

  find(requestId: string): RequestTrace | undefined {
    return this.#open.get(requestId) ?? this.#closing.get(requestId)
  }

  wasClosed(requestId: string): boolean {
    return this.#recentlyClosed.has(requestId)
  }

  /** The response is over. @returns true for the first caller only */
  take(trace: RequestTrace): boolean {
    if (this.#open.get(trace.requestId) !== trace) return false
    this.#open.delete(trace.requestId)
    this.#closing.set(trace.requestId, trace)
    return true
  }

  /**
   * Waits until the requests that are open now and pass `filter` have been closed, or until `signal` is aborted. Meanwhile the watchdog
   * leaves `waiter` alone. @returns false if the signal was first
   */
  async whenClosed(
    waiter: RequestTrace,
    filter: (trace: RequestTrace) => boolean,
    signal: AbortSignal,
  ): Promise<boolean> {
    const traces = new Set([...this.#open.values(), ...this.#closing.values()].filter(filter))
    if (traces.size === 0) return true
    if (signal.aborted) return false
    return new Promise((resolve) => {
      const end = (areClosed: boolean): void => {
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(waiter)
        waiter.activity.touch()
        resolve(areClosed)
      }
      const onAbort = (): void => end(false)
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.set(waiter, { traces, end: () => end(true) })
    })
  }

  closed(trace: RequestTrace): void {
    this.#closing.delete(trace.requestId)
    for (const { traces, end } of this.#waiting.values()) if (traces.delete(trace) && traces.size === 0) end()
    this.#recentlyClosed.add(trace.requestId)
    if (this.#recentlyClosed.size <= MAX_RECENT) return
    for (const oldest of this.#recentlyClosed) {
      this.#recentlyClosed.delete(oldest)
      break
    }
  }

  /** Stops the watchdog, finishes all open requests with `finish`, and closes those that still wait. */
  stop(finish: (trace: RequestTrace) => void): void {
    clearInterval(this.#watchdog)
    for (const trace of this.#open.values()) finish(trace)
    for (const trace of this.#closing.values()) trace.forceClose()
  }

  *#leaks(): Generator<RequestTrace> {
    const now = performance.now()
    for (const trace of this.#closing.values()) {
      if (now - trace.activity.lastMs > Math.min(PENDING_AFTER_MS, this.#leakAfterMs)) yield trace
    }
    for (const trace of this.#open.values()) {
      if (now - trace.activity.lastMs > this.#leakAfterMs && !this.#waiting.has(trace)) yield trace
    }
  }
}
