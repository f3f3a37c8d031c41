import { describe, expect, it } from 'vitest'
import { fuse, fuseReranked, parseRetrieveParams } from './retrieve.ts'
import type { Candidate } from './vector-index.ts'

const candidate = (documentId: string, vectorRank: number | null, textRank: number | null): Candidate => ({
  documentId,
  chunk: 0,
  text: '',
  headings: [],
  start: 0,
  end: 0,
  numTokens: 0,
  source: '',
  metadata: {},
  similarity: 0,
  vectorRank,
  textRank,
})
const ids = (candidates: readonly Candidate[]): string => candidates.map(({ documentId }) => documentId).join('')

describe('reciprocal rank fusion', () => {
  it('prefers what both searches found, and orders equals by document', () => {
    const found = [candidate('d', null, 1), candidate('c', 1, null), candidate('b', 2, 2), candidate('a', null, 3)]
    const equal = { vector: 1, text: 1, search: 1, rerank: 1 }
    expect(ids(fuse(found, equal))).toBe('bcda')
    expect(ids(fuse(found.toReversed(), equal))).toBe('bcda')
    expect(ids(fuse(found, { vector: 0, text: 1, search: 1, rerank: 1 }))).toBe('dbac')
  })

  it('weighs the order of the search against the reranker', () => {
    const weights = { vector: 1, text: 1, search: 1, rerank: 1 }
    // Ranks by the reranker: 3, 1, 2. Fused, the second is best in sum.
    expect(fuseReranked([0.1, 0.9, 0.5], weights)).toEqual([1, 0, 2])
    expect(fuseReranked([0.1, 0.9, 0.5], { ...weights, search: 0 })).toEqual([1, 2, 0])
    expect(fuseReranked([0.1, 0.9, 0.5], { ...weights, rerank: 0 })).toEqual([0, 1, 2])
    expect(fuseReranked([], weights)).toEqual([])
  })
})

describe('parameters of a retrieval', () => {
  const none = { topK: null, topN: null, minScore: null, filter: null }
  it('have defaults that fit each other', () => {
    expect(parseRetrieveParams(none, '')).toMatchObject({ topK: 20, topN: 4 })
    expect(parseRetrieveParams({ ...none, topK: 2 }, '')).toMatchObject({ topK: 2, topN: 2 })
    expect(parseRetrieveParams({ ...none, topN: 50 }, '')).toMatchObject({ topK: 50, topN: 50 })
  })
  it.each([
    [{ topK: 1.5 }, 'rag.top_k: expected a whole number from 1 to 1000, found 1.5'],
    [{ topK: 3, topN: 4 }, 'rag.top_n: expected a whole number from 1 to 3, found 4'],
    [{ topN: 2000 }, 'rag.top_n'],
  ])('%j is refused', (params, message) => {
    expect(() => parseRetrieveParams({ ...none, ...params }, 'rag.')).toThrow(message)
  })
})
