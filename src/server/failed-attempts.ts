/** Wrong keys, counted by the address they came from, so that guessing is slow and shows in the log. */
import { ApiError } from './errors.ts'

/** Attempts allowed per address and window. */
const MAX_ATTEMPTS = 10
const WINDOW_MS = 60_000
/** Addresses that are kept; the oldest are dropped first. */
const MAX_ADDRESSES = 10_000

/** Counts failed sign-ins by address. An address with too many has to wait until its window is over. */
export class FailedAttempts {
  readonly #byAddress = new Map<string, { sinceMs: number; count: number }>()

  /** @throws ApiError 429 if the address has failed so often that it has to wait. Counts the attempt. */
  requireFew(address: string): void {
    const found = this.#byAddress.get(address)
    if (found === undefined || performance.now() - found.sinceMs >= WINDOW_MS || found.count < MAX_ATTEMPTS) return
    this.add(address)
    throw new ApiError('too_many_sign_ins', 'too many wrong keys from this address; try again in a minute')
  }

  /** Counts a failed attempt. Returns how many there were in the window. */
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
