/**
 * Watches the thread that serves for stretches in which it is blocked. A timer that fires late was held up by work in between; the route
 * is that of the request whose work began last in that stretch.
 */

/** How often the timer fires. */
const TICK_MS = 50
/** A shorter delay is not a stall. */
const STALL_MS = 100

export interface Stall {
  /** Of the request that was at work; `none`: work of no request. */
  readonly route: string
  readonly durationMs: number
}

/** Reports stretches in which the event loop was blocked, with the route that blocked it. */
export class EventLoopWatch {
  readonly #onStall: (stall: Stall) => void
  #timer: NodeJS.Timeout | undefined
  #tickMs = performance.now()
  #route = 'none'
  #enteredMs = -Infinity

  /** `onStall` is called after each stall, on the thread that stalled. */
  constructor(onStall: (stall: Stall) => void) {
    this.#onStall = onStall
  }

  /** Begins to watch: a start that loads a model is expected to stall. */
  start(): void {
    this.#tickMs = performance.now()
    this.#timer = setInterval(() => {
      const nowMs = performance.now()
      const durationMs = nowMs - this.#tickMs - TICK_MS
      if (durationMs >= STALL_MS) {
        this.#onStall({ route: this.#enteredMs > this.#tickMs ? this.#route : 'none', durationMs })
      }
      this.#tickMs = performance.now()
    }, TICK_MS)
    this.#timer.unref()
  }

  /** What this thread does from now on is the work of a request of this route, until another one's begins. */
  enter(route: string): void {
    this.#route = route
    this.#enteredMs = performance.now()
  }

  close(): void {
    clearInterval(this.#timer)
  }
}
