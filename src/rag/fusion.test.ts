import { describe, expect, it } from 'vitest'
import { fusedOrder, type FusionWeights } from './fusion.ts'

const candidate = (documentId: string, similarity: number, textShare: number, text = documentId, chunk = 0) => ({
  documentId,
  chunk,
  text,
  similarity,
  textShare,
  documentShare: 0,
  documentSimilarity: 0,
})
const EQUAL: FusionWeights = { vector: 1, text: 1, rerank: 1, document: 0, topic: 0 }

describe('fusion', () => {
  const order = (
    candidates: readonly ReturnType<typeof candidate>[],
    weights: Partial<FusionWeights> = {},
    relevance: readonly number[] | null = null,
  ): string =>
    fusedOrder(candidates, relevance, { ...EQUAL, ...weights })
      .map((i) => candidates[i]?.documentId)
      .join('')

  it('adds both scores, each divided by its best', () => {
    const found = [candidate('a', 0.2, 0.5), candidate('b', 0.4, 0.3), candidate('c', 0.3, 0)]
    // a: 0.5 + 1, b: 1 + 0.6, c: 0.75 + 0
    expect(order(found)).toBe('bac')
    expect(order(found, { vector: 0 })).toBe('abc')
    expect(order(found, { text: 0 })).toBe('bca')
  })

  it('is no worse than one search if the other finds nothing', () => {
    expect(order([candidate('a', 0.1, 0), candidate('b', 0.3, 0), candidate('c', -0.2, 0)])).toBe('bac')
    expect(order([candidate('a', 0, 0.1), candidate('b', 0, 0.9)])).toBe('ba')
    expect(order([candidate('b', -1, 0), candidate('a', -1, 0)])).toBe('ab')
  })

  it('takes the relevance of a reranker as a third score', () => {
    const found = [candidate('a', 0.3, 0), candidate('b', 0.29, 0), candidate('c', 0.28, 0)]
    expect(order(found, {}, [0.1, 0.9, 0.5])).toBe('bca')
    expect(order(found, { rerank: 0 }, [0.1, 0.9, 0.5])).toBe('abc')
    expect(fusedOrder([], [], EQUAL)).toEqual([])
  })

  it("counts the document's words for its passages", () => {
    const found = [candidate('a', 1, 0, 'a'), { ...candidate('b', 0.9, 0, 'b'), documentShare: 0.8 }]
    expect(order(found)).toBe('ab')
    expect(order(found, { document: 0.5 })).toBe('ba')
  })

  it("counts the document's similarity for its passages", () => {
    const found = [candidate('a', 1, 0, 'a'), { ...candidate('b', 0.9, 0, 'b'), documentSimilarity: 0.8 }]
    expect(order(found)).toBe('ab')
    expect(order(found, { topic: 0.5 })).toBe('ba')
  })

  it('keeps one of several passages with the same text: the first in its document', () => {
    const whole = candidate('manual', 0.5, 0.5, 'the same', 140)
    const chapter = candidate('z-chapter', 0.5, 0.5, 'the same', 3)
    const other = candidate('other', 0.1, 0.1)
    expect(fusedOrder([whole, chapter, other], null, EQUAL)).toEqual([1, 2])
    expect(fusedOrder([chapter, other, whole], null, EQUAL)).toEqual([0, 1])
  })

  it('orders equal passages by chunk, then by document', () => {
    const equals = [candidate('b', 1, 1, '1', 2), candidate('b', 1, 1, '2', 1), candidate('a', 1, 1, '3', 2)]
    expect(fusedOrder(equals, null, EQUAL)).toEqual([1, 2, 0])
    expect(fusedOrder(equals.toReversed(), null, EQUAL)).toEqual([1, 0, 2])
  })
})
