import { describe, expect, it } from 'vitest'
import { decodeTimeline, encodeTimeline, MAX_TIMELINE_CHARACTERS, percentile } from './decode-timeline.ts'

/** Whole microseconds around a mean, from a fixed seed. */
function steps(count: number, mean: number, spread: number): number[] {
  let state = 12345
  return Array.from({ length: count }, () => {
    state = (state * 1103515245 + 12345) % 2147483648
    return Math.max(0, Math.round(mean + spread * (state / 1073741824 - 1)))
  })
}

describe('the decode timeline', () => {
  it.each([
    ['no step', []],
    ['one step', [1234]],
    ['zeros', [0, 0, 0]],
    ['large and small', [0, 2 ** 40, 1, 2 ** 31, 7]],
    ['a usual answer', steps(256, 8000, 400)],
    ['as many steps as fit exactly', steps(700, 8000, 60)],
  ])('gives back exactly %s', (_, micros) => {
    const text = encodeTimeline(micros)
    expect(text.length).toBeLessThanOrEqual(MAX_TIMELINE_CHARACTERS)
    expect(decodeTimeline(text)).toEqual({ numSteps: micros.length, groupSize: 1, micros })
  })

  it.each([2000, 20_000, 200_000])('averages %i steps into what fits, in order, with their mean', (count) => {
    const micros = steps(count, 8000, 3000)
    const text = encodeTimeline(micros)
    expect(text.length).toBeLessThanOrEqual(MAX_TIMELINE_CHARACTERS)
    const { numSteps, groupSize, micros: groups } = decodeTimeline(text)
    expect(numSteps).toBe(count)
    expect(groups).toHaveLength(Math.ceil(count / groupSize))
    // Most of the room is used: the down-sampling is no coarser than it must be.
    expect(text.length).toBeGreaterThan(MAX_TIMELINE_CHARACTERS * 0.6)
    for (const [i, value] of groups.entries()) {
      const group = micros.slice(i * groupSize, (i + 1) * groupSize)
      expect(value).toBe(Math.round(group.reduce((a, b) => a + b, 0) / group.length))
    }
  })

  it('refuses what is no timeline', () => {
    expect(() => decodeTimeline('AgEB')).toThrow('expected version 1, found 2')
    expect(() => decodeTimeline(encodeTimeline([1, 2, 3]).slice(0, -4))).toThrow('expected more bytes')
  })

  it('takes percentiles by nearest rank', () => {
    const sorted = Array.from({ length: 100 }, (_, i) => i + 1)
    expect([0.5, 0.95, 1].map((p) => percentile(sorted, p))).toEqual([50, 95, 100])
    expect(percentile([], 0.5)).toBe(0)
  })
})
