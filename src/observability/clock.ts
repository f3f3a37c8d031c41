/** One clock for spans: an anchor places performance.now() times on the wall clock, so that the intervals of a tree nest exactly. */
import type { HrTime } from '@opentelemetry/api'

/** Turns `performance.now()` times (milliseconds) into span times (HrTime since 1970). */
class ClockAnchor {
  /** Wall clock minus performance.now(). */
  readonly offsetMs: number

  constructor(offsetMs: number = performance.timeOrigin) {
    this.offsetMs = offsetMs
  }

  /** Milliseconds since 1970. */
  toEpochMs(atMs: number): number {
    return this.offsetMs + atMs
  }

  /** OpenTelemetry's [seconds, nanoseconds]. */
  toHrTime(atMs: number): HrTime {
    // Whole milliseconds and fractions are added separately: one double for the sum has no room for nanoseconds.
    const wholeMs = Math.floor(this.offsetMs) + Math.floor(atMs)
    const restMs = this.offsetMs - Math.floor(this.offsetMs) + (atMs - Math.floor(atMs))
    const ms = wholeMs + Math.floor(restMs)
    const nanos = Math.floor((restMs - Math.floor(restMs)) * 1e6)
    return [Math.floor(ms / 1000), (ms % 1000) * 1e6 + nanos]
  }
}

/** How far performance.now() may drift from the wall clock (which NTP may step) before new traces use a new anchor. */
const MAX_DRIFT_MS = 5

let current = new ClockAnchor()

/** The anchor for a new trace. It stays the same until the wall clock has moved away from it. */
export function clockAnchor(): ClockAnchor {
  // Date.now() is floored, so an undisturbed clock is up to 1 ms behind.
  const offsetMs = Date.now() - performance.now()
  if (Math.abs(offsetMs - current.offsetMs) > MAX_DRIFT_MS) current = new ClockAnchor(offsetMs)
  return current
}
