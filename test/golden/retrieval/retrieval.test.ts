import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { resolveEmbedder, resolveModel } from '../../../src/rag/models.ts'
import { createModelWorkers } from '../../../src/rag/model-workers.ts'
import { WordPiece } from '../../../src/rag/wordpiece.ts'

const HUB = {
  hub: { cacheDir: '', endpoint: '', token: null, offline: true },
  downloadDir: '',
  device: 'cpu' as const,
  threads: 1,
}
const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))
const json = (relative: string): unknown => JSON.parse(readFileSync(path(relative), 'utf8'))

const models = createModelWorkers()
afterAll(() => models.close())

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

function expectVectors(vectors: Float32Array, expected: readonly (readonly number[])[], digits: number): void {
  const flat = expected.flat()
  expect(vectors.length).toBe(flat.length)
  for (const [i, value] of flat.entries()) expect(vectors[i]).toBeCloseTo(value, digits)
}

describe('the bundled embedding model', () => {
  const expected = z
    .object({ texts: z.array(z.string()), ids: z.array(z.array(z.number())), vectors: z.array(z.array(z.number())) })
    .parse(json('expected.json'))

  it('reads the tokens that the tokenizers library reads', () => {
    const tokenizer = new WordPiece(json('../../../models/mini-embedder/tokenizer.json'))
    expect(expected.texts.map((text) => tokenizer.encode(text))).toEqual(expected.ids)
  })

  it('gives the weighted means of their vectors', async () => {
    const source = resolveEmbedder(path('../../../models/mini-embedder'), '--embedding-model', HUB)
    if (source.kind !== 'static') throw new Error('expected static embeddings')
    const embedder = models.embedder(source)
    const { vectors, numTokens } = await embedder.embed(expected.texts, { role: 'document' })
    expectVectors(vectors, expected.vectors, 4)
    expect(numTokens).toEqual(expected.ids.map(({ length }) => length))
    expect(await embedder.countTokens(expected.texts)).toEqual(numTokens)
    expect(await embedder.decode([expected.ids[0] ?? [], [99_999]])).toEqual([
      'how do i restart the server after a crash ?',
      null,
    ])
  })
})

describe('MiniLM-shaped BERTs', () => {
  const expected = z
    .object({
      texts: z.array(z.string()),
      vectors: z.array(z.array(z.number())),
      pairs: z.array(z.tuple([z.string(), z.string()])),
      logits: z.array(z.number()),
    })
    .parse(json('expected-tiny.json'))

  it('embed as PyTorch does', async () => {
    const embedder = models.embedder(resolveModel(path('tiny-minilm-embedder'), '--embedding-model', HUB))
    const { vectors } = await embedder.embed(expected.texts, { role: 'document' })
    expectVectors(vectors, expected.vectors, 4)
  })

  it('score pairs as PyTorch does', async () => {
    const reranker = models.reranker(resolveModel(path('tiny-minilm-reranker'), '--reranker-model', HUB))
    for (const [i, [question, passage]] of expected.pairs.entries()) {
      const { scores } = await reranker.rerank(question, [{ headings: [], text: passage }])
      expect(scores[0]).toBeCloseTo(sigmoid(expected.logits[i] ?? NaN), 4)
    }
  })
})
