/** What a request still does: its work in flight (GPU, disk, spawned), and its last sign of life. */

/** Counts the work in flight of one request. */
export class Activity {
  readonly #onDone: () => void
  #numPending = 0
  #lastMs: number

  /** @param onDone called whenever the last work in flight has ended */
  constructor(startMs: number, onDone: () => void) {
    this.#lastMs = startMs
    this.#onDone = onDone
  }

  /** Number of operations in flight. */
  get numPending(): number {
    return this.#numPending
  }

  /** performance.now() of the last sign of life, for the watchdog. */
  get lastMs(): number {
    return this.#lastMs
  }

  /** A sign of life. */
  touch(): void {
    this.#lastMs = performance.now()
  }

  /** Counts an operation before it is submitted. @returns what ends it; only the first call counts */
  hold(): () => void {
    this.#numPending += 1
    this.touch()
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.#numPending -= 1
      this.touch()
      if (this.#numPending === 0) this.#onDone()
    }
  }
}
