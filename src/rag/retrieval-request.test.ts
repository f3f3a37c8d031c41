import { describe, expect, it } from 'vitest'
import { parseRetrieval } from './retrieval-request.ts'

describe('parameters of a retrieval', () => {
  const query = 'walnut'
  it('have consistent defaults', () => {
    expect(parseRetrieval({ query }, '')).toMatchObject({ topK: 20, topN: 4 })
    expect(parseRetrieval({ query, top_k: 2 }, '')).toMatchObject({ topK: 2, topN: 2 })
    expect(parseRetrieval({ query, top_n: 50 }, '')).toMatchObject({ topK: 50, topN: 50 })
    expect(parseRetrieval({ query }, '', { topN: 1 })).toMatchObject({ topK: 20, topN: 1 })
    expect(parseRetrieval({ query, top_n: 60 }, '', { topK: 50 })).toMatchObject({ topK: 60, topN: 60 })
  })
  it.each([
    [{ top_k: 1.5 }, 'rag.top_k: expected a whole number from 1 to 1000, found 1.5'],
    [{ top_k: 3, top_n: 4 }, 'rag.top_n: expected a whole number from 1 to 3, found 4'],
    [{ top_n: 2000 }, 'rag.top_n'],
  ])('%j is refused', (params, message) => {
    expect(() => parseRetrieval({ query, ...params }, 'rag.')).toThrow(message)
  })
})
