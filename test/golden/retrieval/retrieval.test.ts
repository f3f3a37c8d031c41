import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { createEmbedder } from '../../../src/rag/embedder.ts'
import { createModelProcess, resolveModel } from '../../../src/rag/models.ts'
import { createReranker } from '../../../src/rag/reranker.ts'

const HUB = { hubCacheDir: '', downloadDir: '', endpoint: 'http://127.0.0.1:9', isOffline: true }
const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

const Expected = z.object({
  texts: z.array(z.string()),
  vectors: z.array(z.array(z.number())),
  pairs: z.array(z.tuple([z.string(), z.string()])),
  logits: z.array(z.number()),
})

const models = createModelProcess()
afterAll(() => models.close())

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

// The bundled models store their tables as int8, the tiny BERT checkpoints are f32: hence the digits.
describe.each([
  ['the bundled models', '../../../models/mini-embedder', '../../../models/mini-reranker', 'expected.json', 2],
  ['MiniLM-shaped BERTs', 'tiny-minilm-embedder', 'tiny-minilm-reranker', 'expected-tiny.json', 4],
])('%s', (_, embedderFolder, rerankerFolder, file, digits) => {
  const expected = Expected.parse(JSON.parse(readFileSync(path(file), 'utf8')))

  it('embed as PyTorch does', async () => {
    const embedder = createEmbedder(resolveModel(path(embedderFolder), '--embedding-model', HUB), models)
    const { vectors } = await embedder.embed(expected.texts, { role: 'document' })
    const flat = expected.vectors.flat()
    expect(vectors.length).toBe(flat.length)
    for (const [i, value] of flat.entries()) expect(vectors[i]).toBeCloseTo(value, digits)
  })

  it('score pairs as PyTorch does', async () => {
    const reranker = createReranker(resolveModel(path(rerankerFolder), '--reranker-model', HUB), models)
    for (const [i, [question, passage]] of expected.pairs.entries()) {
      const { scores } = await reranker.rerank(question, [passage])
      expect(scores[0]).toBeCloseTo(sigmoid(expected.logits[i] ?? NaN), digits)
    }
  })
})
