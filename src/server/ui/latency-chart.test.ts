import { expect, it } from 'vitest'
import type { StoredTrace } from '../../observability/stored-trace.ts'
import { latencies } from './latency-chart.tsx'

const of = (...durations: readonly number[]) =>
  latencies(durations.map((durationMs, i) => ({ durationMs, isError: i === 0 }) as StoredTrace))

it('counts every request in the bar of its duration', () => {
  const { bars, p50, p95, max } = of(1, 1.2, 9, 10, 99, 100, 1000)
  expect(bars.map(({ fromMs }) => fromMs)).toEqual([
    1, 1.58, 2.51, 3.98, 6.31, 10, 15.8, 25.1, 39.8, 63.1, 100, 158, 251, 398, 631, 1000,
  ])
  expect(bars.map(({ count }) => count)).toEqual([2, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1])
  expect(bars.map(({ numErrors }) => numErrors).filter((n) => n > 0)).toEqual([1])
  expect([p50, p95, max]).toEqual([10, 1000, 1000])
})

it('has one bar for one duration, and a bounded number for all there are', () => {
  expect(of(5, 5, 5).bars).toHaveLength(1)
  expect(of(0, 0.000_01, 86_400_000).bars).toHaveLength(40)
  expect(of(0, 86_400_000).bars.reduce((sum, { count }) => sum + count, 0)).toBe(2)
})
