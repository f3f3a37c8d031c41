/** Long work on the main thread, done in slices: other requests' streams are on this thread too. */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Longest stretch of work between two turns of the event loop. */
const MAX_SLICE_MS = 4

/** A time slice: `isOver` says when to yield to the event loop. */
export class Slice {
  #startMs = performance.now()

  /** The event loop has had its turn somewhere else. */
  restart(): void {
    this.#startMs = performance.now()
  }

  get isOver(): boolean {
    return performance.now() - this.#startMs > MAX_SLICE_MS
  }

  /** Gives the event loop a turn and begins the next slice. */
  async end(): Promise<void> {
    await nextTurn()
    this.restart()
  }
}
