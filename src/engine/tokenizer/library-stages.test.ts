/** Normalizers and pre-tokenizers cut texts as the `tokenizers` package does (test/golden/make_stages.py). */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { goldenPath } from '../../../test/golden/golden.ts'
import { createTokenizer } from './tokenizer.ts'

interface Stages {
  readonly normalizer: Readonly<Record<string, unknown>> | null
  readonly pre_tokenizer: { readonly pretokenizers: readonly { readonly type: string; readonly behavior?: string }[] }
  /** Of each text. */
  readonly ids: readonly (readonly number[])[]
}

const readJson = (path: string | URL): unknown => JSON.parse(readFileSync(path, 'utf8'))
const base = readJson(`${goldenPath('tiny-text')}/tokenizer.json`) as Record<string, unknown>
const { texts, cases } = readJson(new URL('../../../test/golden/tokenizer-stages.json', import.meta.url)) as {
  readonly texts: readonly string[]
  readonly cases: readonly Stages[]
}

const named = cases.map((stages): [string, Stages] => {
  const [split] = stages.pre_tokenizer.pretokenizers
  return [`${String(stages.normalizer?.['type'] ?? 'no normalizer')}, ${JSON.stringify(split)}`, stages]
})

test.each(named)('%s', (_, { normalizer, pre_tokenizer, ids }) => {
  const tokenizer = createTokenizer({ tokenizer: { ...base, normalizer, pre_tokenizer }, config: {} })
  expect(texts.map((text) => tokenizer.encode(text))).toEqual(ids)
})
