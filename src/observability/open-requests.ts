/** The open traces: of requests whose response is not over, and of requests that only wait for work in flight. */
import type { RequestTrace } from './request-trace.ts'

/** How long a finished request may wait for its work. */
const PENDING_AFTER_MS = 60_000
/** Number of closed request ids that are remembered. Late events come within seconds. */
const MAX_RECENT = 4096

/** Traces by request id. A trace that stays open longer than `leakAfterMs` is reported and closed. */
export class OpenRequests {
  /** Whoever removes a trace from this map finishes it. */
  readonly #open = new Map<string, RequestTrace>()
  /** Finished requests with work in flight. */
  readonly #closing = new Map<string, RequestTrace>()
  /** Ids of recently closed requests: a late event must not open another root. */
  readonly #recentlyClosed = new Set<string>()
  /** What waits for a request to be closed. */
  readonly #waiting = new Map<RequestTrace, (() => void)[]>()
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

  /** Resolves when the requests that are open now and pass `filter` have been closed; null: there are none. */
  whenClosed(filter: (trace: RequestTrace) => boolean): Promise<unknown> | null {
    const found = [...this.#open.values(), ...this.#closing.values()].filter(filter)
    if (found.length === 0) return null
    const closed = (trace: RequestTrace): Promise<void> =>
      new Promise((resolve) => this.#waiting.set(trace, [...(this.#waiting.get(trace) ?? []), resolve]))
    return Promise.all(found.map(closed))
  }

  closed(trace: RequestTrace): void {
    this.#closing.delete(trace.requestId)
    for (const resolve of this.#waiting.get(trace) ?? []) resolve()
    this.#waiting.delete(trace)
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
      if (now - trace.lastActiveMs > Math.min(PENDING_AFTER_MS, this.#leakAfterMs)) yield trace
    }
    for (const trace of this.#open.values()) if (now - trace.lastActiveMs > this.#leakAfterMs) yield trace
  }
}
