/** Embedding and reranking models on the engine's kernels, through the real process. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { ServerProcess } from './server-process.ts'

const path = (relative: string): string => fileURLToPath(new URL(`../golden/encoders/${relative}`, import.meta.url))

const vectorsOf = z.array(z.array(z.number()))
const golden = z
  .object({
    texts: z.array(z.string()),
    embedders: z.record(z.string(), z.object({ plain: vectorsOf })),
    query: z.string(),
    documents: z.array(z.string()),
    rankers: z.record(z.string(), z.array(z.number())),
  })
  .parse(JSON.parse(readFileSync(path('expected.json'), 'utf8')))

const embeddings = z.object({
  model: z.string(),
  data: z.array(z.object({ embedding: z.array(z.number()) })),
  usage: z.object({ prompt_tokens: z.number() }),
})
const ranking = z.object({
  model: z.string(),
  results: z.array(z.object({ index: z.number(), relevance_score: z.number() })),
})
const found = z.object({ documents: z.array(z.object({ id: z.string() })) })

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'

describe.each([
  ...(isFull ? [['bert', 'bert-ranker', ''] as const] : []),
  ['xlm-roberta', 'xlm-roberta-ranker', '.gguf'],
  ['qwen3', 'qwen3-ranker', ''],
] as const)('%s and %s', (embedder, ranker, ending) => {
  it('embed, rank and retrieve', async () => {
    const form = (name: string): string => path(ending === '' ? `models/${name}` : `gguf/${name}${ending}`)
    const models = ['--embedding-model', form(embedder), '--reranker-model', form(ranker)]
    const server = await ServerProcess.start([...models, '--device', 'cpu'])
    try {
      // One is longer than these models read: it is refused here, where nothing is cut.
      const texts = golden.texts.filter(({ length }) => length < 100)
      const embedded = embeddings.parse(await (await server.post('/v1/embeddings', { input: texts })).json())
      expect(embedded.model).toBe(embedder)
      const { plain } = golden.embedders[embedder]!
      const expected = texts.map((text) => plain[golden.texts.indexOf(text)]!)
      for (const [i, { embedding }] of embedded.data.entries()) {
        for (const [j, value] of embedding.entries()) expect(value).toBeCloseTo(expected[i]![j]!, 2.7)
      }
      const asked = { query: golden.query, documents: golden.documents }
      const ranked = ranking.parse(await (await server.post('/v1/rerank', asked)).json())
      expect(ranked.model).toBe(ranker)
      for (const { index, relevance_score: score } of ranked.results)
        expect(score).toBeCloseTo(golden.rankers[ranker]![index]!, 2.7)
      const documents = golden.documents.map((text, i) => ({ id: String(i), text }))
      await server.post('/v1/rag/documents', { index: 'mine', documents })
      const query = await server.post('/v1/rag/query', { index: 'mine', query: golden.query, top_n: 9 })
      const ids = found.parse(await query.json()).documents.map(({ id }) => id)
      expect(new Set(ids)).toEqual(new Set(['0', '1', '2']))
    } finally {
      await server.stop()
    }
    expect(await server.exited).toMatchObject({ code: 0 })
  })
})

it('says what is wrong with a folder before it serves', async () => {
  const server = new ServerProcess(['--embedding-model', path('.')])
  expect(await server.exited).toMatchObject({ code: 1 })
  expect(server.stderr).toContain('--embedding-model')
  expect(server.stderr).toContain('has no config.json')
})
