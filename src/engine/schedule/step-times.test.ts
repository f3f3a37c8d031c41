import { expect, it } from 'vitest'
import { StepTimes } from './step-times.ts'

it('follows what steps of each row count take, and lies between the measured ones for the others', () => {
  const times = new StepTimes()
  expect(times.stepMs(1)).toBeNull()
  times.record(1, 0, 10)
  // Untried: as cheap as what is known.
  expect(times.stepMs(5)).toBe(10)
  times.record(5, 0, 30)
  expect(times.stepMs(3)).toBe(20)
  expect(times.stepMs(100)).toBe(30)
  for (let i = 0; i < 30; i++) times.record(1, 0, 20)
  expect(times.stepMs(1)).toBeCloseTo(20, 1)
})

it('forgets what has not been measured for long', () => {
  const times = new StepTimes()
  times.record(4, 0, 500)
  for (let i = 0; i < 2001; i++) times.record(1, 0, 10)
  expect(times.stepMs(4)).toBe(10)
})

it('says how many prompt tokens fit a time, beside the decode rows of the step', () => {
  const times = new StepTimes()
  const beside = (numDecodeRows: number, numPrompts: number, mostMs = 100, numTokens = 50) =>
    times.maxPrefillTokens(numDecodeRows, { numPrompts, numTokens }, mostMs)
  expect(beside(2, 2)).toBe(Infinity)
  // What decode rows take is not known yet: all that the flag allows, which may be anything.
  const early = new StepTimes()
  early.record(0, 50, 100)
  for (const [mostMs, expected] of [
    [100, 50],
    [Infinity, Infinity],
  ] as const)
    expect(early.maxPrefillTokens(2, { numPrompts: 1, numTokens: 9 }, mostMs)).toBe(expected)
  times.record(2, 0, 40)
  times.record(2, 40, 80)
  // A millisecond each: as long as the decode rows take, or as the flag says.
  expect(beside(2, 2)).toBe(40)
  expect(beside(2, 2, 30)).toBe(30)
  expect(beside(2, 9)).toBe(40)
  // While few prompts wait, streams are given way, less so where what waits is long.
  expect(beside(2, 1)).toBe(20)
  expect(beside(2, 0)).toBe(10)
  expect(beside(2, 0, 100, 81)).toBe(20)
  // Too few to tell.
  times.record(0, 1, 1000)
  expect(beside(2, 2)).toBe(40)
  // Neither a fast step nor a slow prompt makes pieces that are too small to pay.
  for (let i = 0; i < 60; i++) times.record(2, 0, 1)
  expect(beside(2, 2)).toBe(10)
  for (let i = 0; i < 60; i++) times.record(0, 10, 100)
  expect(beside(2, 2)).toBe(8)
})

it('lets a step with prompts take about as long as one will take once they decode as well', () => {
  const times = new StepTimes()
  for (const rows of [1, 4, 8, 12, 15, 16]) times.record(rows, 0, 20 + 5 * rows)
  times.record(0, 100, 100)
  const stepMs = (numDecodeRows: number, numPrompts: number) =>
    20 + 5 * numDecodeRows + times.maxPrefillTokens(numDecodeRows, { numPrompts, numTokens: 40 * numPrompts }, 200)
  // Sixteen rows take 100 ms: whatever the mixture, streams do not get much slower than that, and with many prompts waiting not faster.
  for (const numDecodeRows of [1, 4, 8, 12]) {
    const ms = stepMs(numDecodeRows, 16 - numDecodeRows)
    expect(ms).toBeGreaterThan(100)
    expect(ms).toBeLessThan(125)
  }
  expect(stepMs(15, 1)).toBeLessThan(125)
})

it('prices drafts: none where two rows cost two steps, as many as pay where rows are nearly free', () => {
  const priced = (msByRows: Readonly<Record<number, number>>) => {
    const times = new StepTimes()
    for (const [rows, ms] of Object.entries(msByRows)) times.record(Number(rows), 0, ms)
    return times
  }
  expect(new StepTimes().numWorthwhileDrafts(1, 0.5, 8)).toBe(8)
  // Each row as expensive as the first: nothing can pay.
  expect(priced({ 1: 10, 9: 90 }).numWorthwhileDrafts(1, 0.9, 8)).toBe(0)
  // Rows that are nearly free: all of them.
  expect(priced({ 1: 10, 9: 11 }).numWorthwhileDrafts(1, 0.9, 8)).toBe(8)
  // Between: as far as the chance that all before it hold is worth a row.
  const dear = priced({ 1: 10, 9: 50 })
  expect(dear.numWorthwhileDrafts(1, 0.95, 8)).toBe(8)
  expect(dear.numWorthwhileDrafts(1, 0.6, 8)).toBe(1)
  expect(dear.numWorthwhileDrafts(1, 0.3, 8)).toBe(0)
  // Sixteen sequences share a step: a token is worth a sixteenth of it.
  expect(priced({ 16: 20, 24: 40 }).numWorthwhileDrafts(16, 0.9, 8)).toBe(0)
})
