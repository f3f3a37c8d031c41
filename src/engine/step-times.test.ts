import { expect, it } from 'vitest'
import { StepTimes } from './step-times.ts'

it('follows what steps of each row count take, and lies between the measured ones for the others', () => {
  const times = new StepTimes()
  expect(times.ofRows(1)).toBeNull()
  times.record(1, 0, 10)
  // Untried: as cheap as what is known.
  expect(times.ofRows(5)).toBe(10)
  times.record(5, 0, 30)
  expect(times.ofRows(3)).toBe(20)
  expect(times.ofRows(100)).toBe(30)
  for (let i = 0; i < 30; i++) times.record(1, 0, 20)
  expect(times.ofRows(1)).toBeCloseTo(20, 1)
})

it('forgets what has not been measured for long', () => {
  const times = new StepTimes()
  times.record(4, 0, 500)
  for (let i = 0; i < 2001; i++) times.record(1, 0, 10)
  expect(times.ofRows(4)).toBe(10)
})

it('says how many prompt tokens fit a time, beside the decode rows of the step', () => {
  const times = new StepTimes()
  expect(times.prefillTokensIn(100)).toBe(Infinity)
  times.record(2, 0, 20)
  times.record(2, 40, 60)
  expect(times.prefillTokensIn(100)).toBe(100)
  // Too few to tell.
  times.record(0, 1, 1000)
  expect(times.prefillTokensIn(100)).toBe(100)
})
