/**
 * While a promise is pending, Dawn's Node bindings poll for finished work in a chain of setImmediate callbacks: thousands of polls per millisecond.
 * On a software adapter they take the processor time that the kernels need. This module slows the chain to one poll per millisecond while a step
 * runs, until shortly before its expected end, so that a fast GPU loses no time either.
 */

/** Within this many milliseconds of the expected end, polling runs at full speed. */
const FAST_POLL_MS = 1.5

let numWaits = 0
let expectedEndMs = 0
let installed = false

/** Whether a callback is Dawn's. Dawn looks up `setImmediate` on globalThis for every poll, and no other caller passes it a native function. */
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
      // Also long after the expected end: an unusually long step must not spin either.
      if (Math.abs(remaining) > FAST_POLL_MS) return setTimeout(callback, 1, ...args)
    }
    return original(callback, ...args)
  }
  // util.promisify uses a property of the function, and the typings require its __promisify__.
  globalThis.setImmediate = Object.assign(throttled, original) as typeof setImmediate
}

/** Estimates how long steps take and slows Dawn's polling down while they run. One per backend. */
export class PollThrottle {
  #averageMs = 0

  constructor() {
    install()
  }

  /** Awaits a promise from Dawn. @param work a number that the expected time is proportional to: the rows of the step */
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
