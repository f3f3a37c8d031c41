import { describe, expect, it } from 'vitest'
import { fusedOrder, type FusionWeights } from './fusion.ts'

const candidate = (documentId: string, vectorRank: number | null, textRank: number | null, textShare = 1) => ({
  documentId,
  chunk: 0,
  vectorRank,
  textRank,
  textShare,
})
const EQUAL: FusionWeights = { k: 10, vector: 1, text: 1, textPower: 1, rerank: 1 }

describe('reciprocal rank fusion', () => {
  const found = [candidate('d', null, 1), candidate('c', 1, null), candidate('b', 2, 2), candidate('a', null, 3)]
  const order = (candidates: typeof found, weights: FusionWeights): string =>
    fusedOrder(candidates, null, weights)
      .map((i) => candidates[i]?.documentId)
      .join('')

  it('prefers what both searches found, and orders equals by document', () => {
    expect(order(found, EQUAL)).toBe('bcda')
    expect(order(found.toReversed(), EQUAL)).toBe('bcda')
    expect(order(found, { ...EQUAL, vector: 0 })).toBe('dbac')
  })

  it('counts a lexical rank by the share of the words it stands for', () => {
    const chance = [candidate('words', null, 1, 0.1), candidate('meaning', 5, null)]
    expect(order(chance, EQUAL)).toBe('meaningwords')
    const match = [candidate('words', null, 1, 0.9), candidate('meaning', 5, null)]
    expect(order(match, EQUAL)).toBe('wordsmeaning')
  })

  it('takes the reranker as a third order, whose ties the search breaks', () => {
    const three = [candidate('a', 1, null), candidate('b', 2, null), candidate('c', 3, null)]
    // Ranks by the reranker: 3, 1, 2. Fused, the second is best in sum.
    expect(fusedOrder(three, [0.1, 0.9, 0.5], EQUAL)).toEqual([1, 0, 2])
    expect(fusedOrder(three, [0.1, 0.9, 0.5], { ...EQUAL, vector: 0 })).toEqual([1, 2, 0])
    expect(fusedOrder(three, [0.1, 0.9, 0.5], { ...EQUAL, rerank: 0 })).toEqual([0, 1, 2])
    expect(fusedOrder(three.toReversed(), [0.5, 0.5, 0.5], { ...EQUAL, vector: 0.1 })).toEqual([2, 1, 0])
    expect(fusedOrder([], [], EQUAL)).toEqual([])
  })
})
