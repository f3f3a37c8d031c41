import { expect, test } from 'vitest'
import { GREEDY } from '../../../test/engine/requests.ts'
import type { ChoiceOwner } from '../requests/active-requests.ts'
import { SamplingState } from '../requests/sampling.ts'
import { Sequence } from '../schedule/sequence.ts'
import type { GrammarMatcher } from './grammar-protocol.ts'
import { MaskQueue } from './mask-queue.ts'

function sequence(): Sequence {
  const sampling = {
    params: GREEDY,
    seed: 1,
    choice: 0,
    minTokens: 0,
    endTokenIds: [],
    logprobs: -1,
    vocabSize: 32,
  }
  return new Sequence({
    requestId: 'r',
    choice: 0,
    arrival: 0,
    priority: 0,
    promptTokens: [1],
    maxOutputTokens: 4,
    sampling: new SamplingState(sampling, [1]),
    promptLogprobs: -1,
    promptHashes: [],
    cacheRoot: null,
    hasGrammar: true,
    lookup: null,
    arrivedMs: 0,
  })
}

const ownerOf = (of: Sequence): ChoiceOwner => {
  const choice = { sequence: of }
  return { choice, active: { openChoices: new Set([choice]) } } as unknown as ChoiceOwner
}
const matcherOf = (mask: Promise<Uint32Array>): GrammarMatcher => ({ mask: () => mask }) as unknown as GrammarMatcher

test('masks that come while a step computes are found by its rows; one that does not is late until it comes', async () => {
  let numSignals = 0
  const failures: unknown[] = []
  const queue = new MaskQueue({ onMask: () => numSignals++, onFailure: (_, error) => failures.push(error) })
  const [early, slow, broken] = [sequence(), sequence(), sequence()]
  let give: (mask: Uint32Array) => void = () => {}
  const slowMask = new Promise<Uint32Array>((resolve) => (give = resolve))
  queue.compute(ownerOf(early), matcherOf(Promise.resolve(Uint32Array.of(7))))
  queue.compute(ownerOf(slow), matcherOf(slowMask))
  queue.compute(ownerOf(broken), matcherOf(Promise.reject(new Error('no grammar'))))
  expect([early, slow, broken].map(({ isMaskPending }) => isMaskPending)).toEqual([true, true, true])
  const unmasked = new Map(
    [early, slow, broken].map((each, row) => [2 * row, { sequence: each, numOutputTokens: 0 }] as const),
  )
  const { masks, late, heldMs } = await queue.collect(unmasked, 1)
  // It waited longer than the layers take.
  expect(heldMs).toBeGreaterThan(1)
  expect(await queue.collect(new Map([[0, { sequence: early, numOutputTokens: 0 }]]), 60_000)).toMatchObject({
    late: new Set(),
    heldMs: 0,
  })
  expect([...masks]).toEqual([[0, Uint32Array.of(7)]])
  expect([...late]).toEqual([slow, broken])
  expect(failures).toEqual([new Error('no grammar')])
  expect([early, slow].map(({ isMaskLate }) => isMaskLate)).toEqual([false, true])
  give(Uint32Array.of(9))
  await queue.wait()
  expect(slow).toMatchObject({ isMaskLate: false, isMaskPending: false, mask: Uint32Array.of(9) })
  expect(numSignals).toBe(2)
})
