import { describe, expect, it } from 'vitest'
import type { Embedder } from './embedder.ts'
import { createHybridReranker } from './hybrid-reranker.ts'

/** Texts are vectors by hand. */
const VECTORS: Readonly<Record<string, readonly [number, number]>> = {
  'walnut bread': [1, 0],
  'a loaf with nuts': [0.8, 0.6],
  'bread of walnut': [0.6, 0.8],
  'the scheduler': [-1, 0],
}
const embedder: Embedder = {
  name: 'by-hand',
  load: async () => ({ fingerprint: 'by-hand', dimensions: 2, maxTokens: 64 }),
  embed: async (texts) => ({
    vectors: Float32Array.from(texts.flatMap((text) => VECTORS[text] ?? [0, 0])),
    numTokens: texts.map((text) => text.split(' ').length),
  }),
  countTokens: async (texts) => texts.map(() => 1),
  decode: async (ids) => ids.map(() => null),
}
const DOCUMENTS = ['a loaf with nuts', 'bread of walnut', 'the scheduler'].map((text) => ({ headings: [], text }))

describe('relevance without a cross-encoder', () => {
  it('is the mean of similarity and shared words, from 0 to 1', async () => {
    const reranker = createHybridReranker(embedder, { vector: 1, text: 1 })
    const { scores, numTokens } = await reranker.rerank('walnut bread', DOCUMENTS)
    const [nuts = 0, walnut = 0, scheduler = 0] = scores
    expect(nuts).toBeCloseTo(0.4, 5)
    expect(walnut).toBeCloseTo(0.8, 5)
    expect(scheduler).toBe(0)
    expect(numTokens).toBe(2 * 3 + 4 + 3 + 2)
  })

  it('follows the weights, and handles an empty list', async () => {
    const bySimilarity = createHybridReranker(embedder, { vector: 1, text: 0 })
    expect([...(await bySimilarity.rerank('walnut bread', DOCUMENTS)).scores].map((score) => score.toFixed(2))).toEqual(
      ['0.80', '0.60', '0.00'],
    )
    expect((await bySimilarity.rerank('walnut bread', [])).scores).toHaveLength(0)
  })
})
