/**
 * Dawn's Node bindings ask for finished work from a chain of setImmediate callbacks for as long as a promise is pending: thousands of
 * polls a millisecond, which on a software adapter take the processor time the kernels need. While a step runs, the chain is slowed down
 * to a poll a millisecond until shortly before the step is expected to end, so that nothing is lost on a fast GPU either.
 */

/** Within this of the expected end, polls are as fast as the event loop turns. */
const FAST_POLL_MS = 1.5

let numWaits = 0
let expectedEndMs = 0
let installed = false

/** Dawn looks `setImmediate` up on globalThis for every poll; its callback is the only native one handed to it. */
function isNative(callback: unknown): boolean {
  return typeof callback === 'function' && Function.prototype.toString.call(callback).includes('[native code]')
}

function install(): void {
  if (installed) return
  installed = true
  const original = globalThis.setImmediate
  const throttled = (callback: (...args: unknown[]) => void, ...args: unknown[]) => {
    if (numWaits > 0 && isNative(callback)) {
      const remaining = expectedEndMs - performance.now()
      // Past the expected end as well: an unusually long step must not spin either.
      if (Math.abs(remaining) > FAST_POLL_MS) return setTimeout(callback, 1, ...args)
    }
    return original(callback, ...args)
  }
  // util.promisify(setImmediate) and the typings' __promisify__ live on the function.
  globalThis.setImmediate = Object.assign(throttled, original) as typeof setImmediate
}

/** Estimates how long steps take and slows Dawn's polling down meanwhile. One for each backend. */
export class PollThrottle {
  #averageMs = 0

  constructor() {
    install()
  }

  /** Awaits a promise of Dawn's. `work` is proportional to the expected time (rows of the step). */
  async wait<T>(promise: Promise<T>, work: number): Promise<T> {
    const started = performance.now()
    numWaits++
    expectedEndMs = Math.max(expectedEndMs, started + this.#averageMs * work)
    try {
      return await promise
    } finally {
      numWaits--
      const elapsed = (performance.now() - started) / work
      this.#averageMs = this.#averageMs === 0 ? elapsed : 0.8 * this.#averageMs + 0.2 * elapsed
      if (numWaits === 0) expectedEndMs = 0
    }
  }
}
