/**
 * The durations of a request's decode steps in one span attribute: zigzag deltas as LEB128 varints in base64. If that exceeds 2,048
 * characters, neighbouring steps are averaged in groups. The shape stays the same, and the sum nearly so.
 *
 * Layout before base64: version (1), group size, number of steps, then one delta per group, relative to the previous group.
 */

const VERSION = 1
export const MAX_TIMELINE_CHARACTERS = 2048
const MAX_BYTES = (MAX_TIMELINE_CHARACTERS / 4) * 3

export interface DecodeTimeline {
  /** Steps of the request. */
  readonly numSteps: number
  /** Steps averaged into one value; 1: exact. */
  readonly groupSize: number
  /** Microseconds, one per group. */
  readonly micros: readonly number[]
}

/** Steps in microseconds (rounded to whole ones) as base64 of at most 2,048 characters. */
export function encodeTimeline(stepMicros: readonly number[]): string {
  const steps = stepMicros.map((us) => Math.max(0, Math.round(us)))
  for (let groupSize = 1; ; groupSize = nextGroupSize(groupSize, steps.length)) {
    const bytes = encodeGroups(steps, groupSize)
    if (bytes.length <= MAX_BYTES) return Buffer.from(bytes).toString('base64')
  }
}

/** @throws Error if the text is not a timeline */
export function decodeTimeline(text: string): DecodeTimeline {
  const bytes = Buffer.from(text, 'base64')
  let at = 0
  const varint = () => {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++]
      if (byte === undefined) throw new Error(`decode timeline: expected more bytes, found the end at ${bytes.length}`)
      value += (byte & 127) * factor
      if (byte < 128) return value
    }
  }
  const version = varint()
  if (version !== VERSION) throw new Error(`decode timeline: expected version ${VERSION}, found ${version}`)
  const groupSize = varint()
  const numSteps = varint()
  if (groupSize < 1) throw new Error('decode timeline: expected a group size of at least 1, found 0')
  const micros: number[] = []
  let last = 0
  for (let step = 0; step < numSteps; step += groupSize) {
    const zigzag = varint()
    last += zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2
    micros.push(last)
  }
  return { numSteps, groupSize, micros }
}

/** The percentile of sorted numbers by nearest rank, `p` from 0 to 1; 0 if there are none. */
export function percentile(sorted: ArrayLike<number>, p: number): number {
  return Math.round(sorted[Math.max(0, Math.ceil(sorted.length * p) - 1)] ?? 0)
}

/** Grows by a quarter at a time, to keep as much detail as fits. */
const nextGroupSize = (size: number, numSteps: number): number =>
  Math.max(size + 1, Math.ceil(size * 1.25), Math.floor(numSteps / MAX_BYTES / 4))

function encodeGroups(steps: readonly number[], groupSize: number): number[] {
  const bytes: number[] = []
  const varint = (value: number) => {
    for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128)
    bytes.push(value)
  }
  varint(VERSION)
  varint(groupSize)
  varint(steps.length)
  let last = 0
  for (let i = 0; i < steps.length; i += groupSize) {
    let sum = 0
    const end = Math.min(i + groupSize, steps.length)
    for (let j = i; j < end; j++) sum += steps[j] ?? 0
    const mean = Math.round(sum / (end - i))
    const delta = mean - last
    varint(delta >= 0 ? delta * 2 : -delta * 2 - 1)
    last = mean
    if (bytes.length > MAX_BYTES) break
  }
  return bytes
}
