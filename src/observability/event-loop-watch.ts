/**
 * Detects when the serving thread is blocked: a timer then fires late. The stall is attributed to the route of the request whose work
 * began last before the timer fired.
 */

/** How often the timer fires. */
const TICK_MS = 50
/** A shorter delay is not a stall. */
const STALL_MS = 100

export interface Stall {
  /** Route of the request that was being processed; `none`: other work. */
  readonly route: string
  readonly durationMs: number
}

/** Reports stalls of the event loop, with the route that caused them. */
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

  /** Starts watching. Loading a model at the start may stall, so call it afterwards. */
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

  /** From now on, this thread works for a request of this route, until the next call. */
  enter(route: string): void {
    this.#route = route
    this.#enteredMs = performance.now()
  }

  close(): void {
    clearInterval(this.#timer)
  }
}
