import { describe, expect, it } from 'vitest'
import { type Interval, timeBreakdown } from './time-breakdown.ts'

const PRECEDENCE = ['prefill', 'decode', 'format', 'queue']
const parts = (intervals: readonly Interval[], totalMs: number) =>
  timeBreakdown(intervals, totalMs, PRECEDENCE).map(({ stage, ms }) => `${stage} ${ms}`)
const of = (stage: string, startMs: number, endMs: number): Interval => ({ stage, startMs, endMs })

describe('timeBreakdown', () => {
  it('gives stages one after the other their own time, and what is between them to the rest', () => {
    expect(parts([of('tokenize', 1, 3), of('prefill', 4, 8), of('decode', 8, 10)], 12)).toEqual([
      'tokenize 2',
      'prefill 4',
      'decode 2',
      'other 4',
    ])
  })

  it('gives a moment that stages share to the first in precedence', () => {
    expect(parts([of('format', 2, 10), of('queue', 0, 4), of('prefill', 3, 5), of('decode', 5, 9)], 10)).toEqual([
      'queue 2',
      'format 2',
      'prefill 2',
      'decode 4',
    ])
  })

  it('adds up to the whole, whatever sticks out', () => {
    const found = timeBreakdown([of('decode', -5, 4), of('prefill', 3, 50), of('tokenize', 7, 7)], 9, PRECEDENCE)
    expect(found.reduce((sum, { ms }) => sum + ms, 0)).toBe(9)
    expect(found.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1)
  })

  it('has no parts of nothing, and one of a request without stages', () => {
    expect(parts([], 0)).toEqual([])
    expect(parts([], 3)).toEqual(['other 3'])
  })
})
