/** Divides long work on the main thread into slices, because the streams of other requests run there, too. */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** The longest time of work between two turns of the event loop. */
const MAX_SLICE_MS = 4

/** A time slice. When `isOver`, await `end()`. */
export class Slice {
  #startMs = performance.now()

  /** Begins the next slice after other code has yielded to the event loop. */
  restart(): void {
    this.#startMs = performance.now()
  }

  get isOver(): boolean {
    return performance.now() - this.#startMs > MAX_SLICE_MS
  }

  /** Yields to the event loop and begins the next slice. */
  async end(): Promise<void> {
    await nextTurn()
    this.restart()
  }
}
