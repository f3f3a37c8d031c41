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
  expect(times.prefillTokensBeside(2, 2, 100)).toBe(Infinity)
  times.record(2, 0, 40)
  times.record(2, 40, 80)
  // A millisecond each: as long as the decode rows take, or as the flag says.
  expect(times.prefillTokensBeside(2, 2, 100)).toBe(40)
  expect(times.prefillTokensBeside(2, 2, 30)).toBe(30)
  // While one prompt waits for every two streams or fewer, those are given way.
  expect(times.prefillTokensBeside(2, 1, 100)).toBe(20)
  expect(times.prefillTokensBeside(2, 0, 100)).toBe(20)
  expect(times.prefillTokensBeside(2, 9, 100)).toBe(40)
  // Too few to tell.
  times.record(0, 1, 1000)
  expect(times.prefillTokensBeside(2, 2, 100)).toBe(40)
  // Neither a fast step nor a slow prompt makes pieces that are too small to pay.
  for (let i = 0; i < 60; i++) times.record(2, 0, 1)
  expect(times.prefillTokensBeside(2, 2, 100)).toBe(10)
  for (let i = 0; i < 60; i++) times.record(0, 10, 100)
  expect(times.prefillTokensBeside(2, 2, 100)).toBe(8)
})

it('prices drafts: none where two rows cost two steps, as many as pay where rows are nearly free', () => {
  const priced = (msByRows: Readonly<Record<number, number>>) => {
    const times = new StepTimes()
    for (const [rows, ms] of Object.entries(msByRows)) times.record(Number(rows), 0, ms)
    return times
  }
  expect(new StepTimes().draftsThatPay(1, 0.5, 8)).toBe(8)
  // Each row as expensive as the first: nothing can pay.
  expect(priced({ 1: 10, 9: 90 }).draftsThatPay(1, 0.9, 8)).toBe(0)
  // Rows that are nearly free: all of them.
  expect(priced({ 1: 10, 9: 11 }).draftsThatPay(1, 0.9, 8)).toBe(8)
  // Between: as far as the chance that all before it hold is worth a row.
  const dear = priced({ 1: 10, 9: 50 })
  expect(dear.draftsThatPay(1, 0.95, 8)).toBe(8)
  expect(dear.draftsThatPay(1, 0.6, 8)).toBe(1)
  expect(dear.draftsThatPay(1, 0.3, 8)).toBe(0)
  // Sixteen sequences share a step: a token is worth a sixteenth of it.
  expect(priced({ 16: 20, 24: 40 }).draftsThatPay(16, 0.9, 8)).toBe(0)
})
