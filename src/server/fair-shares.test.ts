import { expect, it } from 'vitest'
import { FairShares } from './fair-shares.ts'

it('a key that floods is behind one that asks now and then', () => {
  const shares = new FairShares()
  const flood = [64, 64, 64].map((count) => shares.enter('a', count).tag)
  expect(flood).toEqual([0, 64, 128])
  expect(shares.enter('b', 1).tag).toBe(0)
  expect(shares.enter('b', 1).tag).toBe(1)
  expect(shares.enter('a', 1).tag).toBe(192)
})

it('the requests of one key keep their order, however they end', () => {
  const shares = new FairShares()
  const first = shares.enter('a', 10)
  const second = shares.enter('a', 10)
  first.leave()
  first.leave()
  const third = shares.enter('a', 1)
  expect(third.tag).toBeGreaterThan(second.tag)
  expect(shares.numSequences('a')).toBe(11)
})

it('a key that was away begins where the others are', () => {
  const shares = new FairShares()
  let last = shares.enter('a', 1)
  for (let i = 0; i < 100; i++) {
    const next = shares.enter('a', 1)
    last.leave()
    last = next
  }
  const back = shares.enter('b', 1)
  expect(back.tag).toBe(last.tag)
  back.leave()
  last.leave()
  expect(shares.numSequences('a')).toBe(0)
  expect(shares.enter('c', 1).tag).toBe(0)
})
