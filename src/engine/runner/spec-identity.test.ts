import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { goldenPath } from '../../../test/golden/golden.ts'
import { TextEmbedder } from './encoder/text-model.ts'
import { parseEncoderSpec } from './encoder/spec.ts'
import { specIdentity } from './spec-identity.ts'
import { parseSpec } from './spec.ts'

/** Identities as stored with document indexes and KV blocks on disk. They may change only when a model computes something else, with a line in CHANGELOG.md. */
test.each([
  ['bert', '5cf601b743d5'],
  ['roberta', 'cc0bf960e176'],
  ['xlm-roberta', '3941c0a8dc09'],
  ['distilbert', 'b1d418428b6f'],
  ['nomic', '2949fcfebe6a'],
  ['modernbert', 'dc70e7724f67'],
  ['qwen3', '7f923d34158b'],
])('%s has the digest that it always had', async (name, digest) => {
  const path = fileURLToPath(new URL(`../../../test/golden/encoders/models/${name}`, import.meta.url))
  const embedder = await TextEmbedder.load({ path, device: 'reference', threads: 1 })
  expect(embedder.digest).toBe(digest)
  await embedder.close()
})

const jsonOf = (path: string) => JSON.parse(readFileSync(`${path}/config.json`, 'utf8')) as Record<string, unknown>

test.each([
  ['llama', '9ad54056e37c'],
  ['gemma3n', '0049004b4604'],
  ['qwen3moe', 'ce365e22e40f'],
  ['lfm2', '0ba211b7a371'],
])('the spec of %s is the text that it always was', (name, hash) => {
  const text = specIdentity(parseSpec(name, jsonOf(goldenPath(name)), null))
  expect(createHash('sha256').update(text).digest('hex').slice(0, 12)).toBe(hash)
})

test('later fields with another value are part of the identity', () => {
  const electra = jsonOf(fileURLToPath(new URL('../../../test/golden/encoders/models/electra-ranker', import.meta.url)))
  const encoder = parseEncoderSpec('electra', electra)
  expect(specIdentity({ ...encoder, normsProjection: true })).not.toBe(specIdentity(encoder))
  expect(specIdentity({ ...encoder, embeddingSize: encoder.hiddenSize + 1 })).toContain('embeddingSize')
  const decoder = parseSpec('llama', jsonOf(goldenPath('llama')), null)
  expect(specIdentity({ ...decoder, isBidirectional: true })).not.toBe(specIdentity(decoder))
})
