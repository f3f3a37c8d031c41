/** One clock for spans: performance.now() times placed on the wall clock through an anchor, so that a tree's intervals nest exactly. */
import type { HrTime } from '@opentelemetry/api'

/** Turns `performance.now()` times (milliseconds) into span times (HrTime since 1970). */
export class ClockAnchor {
  private readonly offsetMs: number

  /** `offsetMs`: wall clock minus performance.now(). */
  constructor(offsetMs: number = performance.timeOrigin) {
    this.offsetMs = offsetMs
  }

  /** Milliseconds since 1970. */
  toEpochMs(atMs: number): number {
    return this.offsetMs + atMs
  }

  /** OpenTelemetry's [seconds, nanoseconds]. */
  toHrTime(atMs: number): HrTime {
    // Whole milliseconds and the fraction apart: their sum as one double has no room for nanoseconds.
    const wholeMs = Math.floor(this.offsetMs) + Math.floor(atMs)
    const restMs = this.offsetMs - Math.floor(this.offsetMs) + (atMs - Math.floor(atMs))
    const ms = wholeMs + Math.floor(restMs)
    const nanos = Math.floor((restMs - Math.floor(restMs)) * 1e6)
    return [Math.floor(ms / 1000), (ms % 1000) * 1e6 + nanos]
  }
}

/** How far performance.now() may drift from the wall clock (which NTP may step) before new traces use a new anchor. */
const MAX_DRIFT_MS = 5

/** Hands each request an anchor; one anchor serves until the wall clock has moved away from it. */
export function createClock(): () => ClockAnchor {
  let offsetMs = performance.timeOrigin
  let anchor = new ClockAnchor(offsetMs)
  return () => {
    const now = Date.now() - performance.now()
    // Date.now() is floored, so an undisturbed clock is up to 1 ms behind.
    if (Math.abs(now - offsetMs) > MAX_DRIFT_MS) {
      offsetMs = now
      anchor = new ClockAnchor(offsetMs)
    }
    return anchor
  }
}
