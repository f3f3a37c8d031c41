import { describe, expect, it } from 'vitest'
import { parseRetrieveParams } from './retrieve.ts'

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
