/** Wrong keys, counted by where they came from: guessing is slow, and seen. */

/** Attempts of one address in a window. */
const MAX_ATTEMPTS = 10
const WINDOW_MS = 60_000
/** Addresses that are remembered; the oldest are forgotten first. */
const MAX_ADDRESSES = 10_000

/** Counts failed sign-ins by address. An address with too many has to wait until its window is over. */
export class FailedAttempts {
  readonly #byAddress = new Map<string, { sinceMs: number; count: number }>()

  /** The address has failed so often that it has to wait. */
  isBlocked(address: string): boolean {
    const found = this.#byAddress.get(address)
    return found !== undefined && performance.now() - found.sinceMs < WINDOW_MS && found.count >= MAX_ATTEMPTS
  }

  /** How often it has failed in the window, this time included. */
  add(address: string): number {
    const nowMs = performance.now()
    const found = this.#byAddress.get(address)
    const isOver = found === undefined || nowMs - found.sinceMs >= WINDOW_MS
    const entry = isOver ? { sinceMs: nowMs, count: 1 } : { ...found, count: found.count + 1 }
    this.#byAddress.delete(address)
    this.#byAddress.set(address, entry)
    const [oldest] = this.#byAddress.keys()
    if (this.#byAddress.size > MAX_ADDRESSES && oldest !== undefined) this.#byAddress.delete(oldest)
    return entry.count
  }
}
