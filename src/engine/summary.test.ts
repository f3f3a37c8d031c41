import { expect, it } from 'vitest'
import { newCounters } from './schedule/sequence.ts'
import { summarize } from './summary.ts'

const sequence = (
  choice: number,
  fields: Partial<ReturnType<typeof newCounters>>,
  reason: 'stop' | 'abort' = 'stop',
) => ({
  choice,
  reason,
  counters: { ...newCounters(5, 100), ...fields },
})

it('adds choices up: a prompt once whatever n, tokens of all, the earliest start, the latest end', () => {
  const all = [
    sequence(1, {
      firstScheduledMs: 112,
      firstTokenMs: 130,
      lastTokenMs: 180,
      numGeneratedTokens: 4,
      numMissTokens: 2,
    }),
    sequence(
      0,
      { firstScheduledMs: 110, firstTokenMs: 120, lastTokenMs: 160, numGeneratedTokens: 9, numCachedTokens: 3 },
      'abort',
    ),
  ]
  expect(summarize(all, 2)).toMatchObject({
    tokensIn: 5,
    tokensOut: 13,
    cacheHits: 3,
    cacheMisses: 0,
    finishReasons: ['abort', 'stop'],
    stopReason: 'abort',
    ttftSeconds: 0.02,
    durationsMs: { queue: 10, 'llm.prefill': 10, 'llm.decode': 60 },
  })
  expect(summarize(all, 1)).toMatchObject({ tokensIn: 10, cacheMisses: 2 })
})

it('says tokens per second by tokens, not by steps, which may bring several', () => {
  const drafted = { firstTokenMs: 100, lastTokenMs: 1100, numGeneratedTokens: 201, decodeSteps: 50 }
  expect(summarize([sequence(0, drafted)], 1).tokensPerSecond).toBe(200)
  expect(
    summarize([sequence(0, { firstTokenMs: 100, lastTokenMs: 100, numGeneratedTokens: 1 })], 1).tokensPerSecond,
  ).toBe(0)
  expect(summarize([sequence(0, {})], 1).tokensPerSecond).toBe(0)
  expect(summarize([], 1)).toMatchObject({ tokensOut: 0, ttftSeconds: null, finishReasons: [] })
})
