/** Models that embed and rank texts, against sentence-transformers and transformers on the same tiny checkpoints (make_encoders.py). */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { TextEmbedder, TextRanker, type TextRole } from '../../../src/engine/runner/encoder/text-model.ts'

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

const vectorsOf = z.array(z.array(z.number()))
const golden = z
  .object({
    texts: z.array(z.string()),
    embedders: z.record(z.string(), z.object({ plain: vectorsOf, query: vectorsOf.optional() })),
    query: z.string(),
    documents: z.array(z.string()),
    rankers: z.record(z.string(), z.array(z.number())),
  })
  .parse(JSON.parse(readFileSync(path('expected.json'), 'utf8')))

const isFull = process.env.MINISERVE_TEST_LEVEL === 'full'
/** Keys and values are f16 in the cpu and WebGPU backends. */
const DEVICES = [['reference', 1e-5], ['cpu', 1e-3], ...(isFull ? ([['webgpu', 1e-3]] as const) : [])] as const
/** A folder, and a GGUF file of the same weights where there is one. */
const formsOf = (name: string): string[] =>
  [path(`models/${name}`), path(`gguf/${name}.gguf`)].filter((form) => existsSync(form))

/** The largest difference, of vectors brought to length 1 where GGUF says nothing else. */
function worst(vectors: Float32Array, expected: readonly (readonly number[])[]): number {
  const flat = expected.flat()
  expect(vectors).toHaveLength(flat.length)
  const scale = Math.max(1, ...flat.map(Math.abs))
  return Math.max(...flat.map((value, i) => Math.abs(value - vectors[i]!) / scale))
}

describe.each(DEVICES)('on %s', (device, tolerance) => {
  it.each(Object.keys(golden.embedders))('%s embeds as sentence-transformers does', async (name) => {
    for (const form of formsOf(name)) {
      const embedder = await TextEmbedder.load({ path: form, device, threads: 1 })
      const { plain, query } = golden.embedders[name]!
      for (const [role, expected] of [
        ['plain', plain],
        ['query', query],
      ] as const satisfies readonly [TextRole, unknown][]) {
        // A GGUF file has the prompts of the published model, not of this folder.
        if (expected === undefined || (role === 'query' && form.endsWith('.gguf') && name === 'nomic')) continue
        const { vectors, numTokens } = await embedder.embed(golden.texts, role)
        expect(worst(vectors, expected), `${form} ${role}`).toBeLessThan(tolerance)
        expect(Math.max(...numTokens)).toBeLessThanOrEqual(embedder.maxTokens)
      }
      await embedder.close()
    }
  })

  it.each(Object.keys(golden.rankers))('%s ranks as transformers does', async (name) => {
    for (const form of formsOf(name)) {
      const ranker = await TextRanker.load({ path: form, device, threads: 1 })
      const { scores } = await ranker.score(golden.query, golden.documents)
      expect(worst(scores, [golden.rankers[name]!]), form).toBeLessThan(tolerance)
      // A pair alone has the score that it has among others.
      const [alone] = (await ranker.score(golden.query, [golden.documents[1]!])).scores
      expect(alone).toBe(scores[1])
      await ranker.close()
    }
  })
})
