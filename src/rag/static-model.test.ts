import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import { isStaticModel, StaticModel } from './static-model.ts'

const folder = mkdtempSync(join(tmpdir(), 'miniserve-static-'))
afterAll(() => rmSync(folder, { recursive: true }))

const VOCABULARY = { '[UNK]': 0, fox: 1, wal: 2, '##nut': 3 }
const TOKENIZER = {
  normalizer: { type: 'BertNormalizer', lowercase: true, strip_accents: null },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  model: {
    type: 'WordPiece',
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab: VOCABULARY,
  },
}

interface TensorInput {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

function safetensors(tensors: Readonly<Record<string, TensorInput>>): Buffer {
  let offset = 0
  const header = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    const entry = [name, { dtype, shape, data_offsets: [offset, offset + bytes.length] }]
    offset += bytes.length
    return entry
  })
  const text = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(header) }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, ...Object.values(tensors).map(({ bytes }) => bytes)])
}

const int8 = (shape: readonly number[], values: readonly number[]): TensorInput => ({
  dtype: 'I8',
  shape,
  bytes: new Uint8Array(Int8Array.from(values).buffer),
})
const float32 = (shape: readonly number[], values: readonly number[]): TensorInput => ({
  dtype: 'F32',
  shape,
  bytes: new Uint8Array(Float32Array.from(values).buffer),
})

const write = (file: string, content: string | Buffer): void => writeFileSync(join(folder, file), content)
const EMBEDDINGS = int8([4, 2], [0, 0, 3, 0, 0, 4, 1, 0])

beforeEach(() => {
  write('config.json', JSON.stringify({ model_type: 'model2vec', seq_length: 3 }))
  write('tokenizer.json', JSON.stringify(TOKENIZER))
  write('model.safetensors', safetensors({ embeddings: EMBEDDINGS, weights: float32([4], [1, 1, 2, 0]) }))
})

const round = (vector: Float32Array): number[] => [...vector].map((value) => Number(value.toFixed(4)))

describe('static embeddings', () => {
  it('are normalised weighted sums of as many tokens as the model reads', () => {
    const model = new StaticModel(folder)
    expect([model.dimensions, model.maxTokens]).toEqual([2, 3])
    const { vectors, numTokens } = model.embed(['Fox', 'fóx walnut', 'walnut', '', 'unknown', 'fox fox fox walnut'])
    // fox + walnut: [3, 0] + 2 * [0, 4] + 0 * [1, 0]
    expect(round(vectors)).toEqual([1, 0, 0.3511, 0.9363, 0, 1, 0, 0, 0, 0, 1, 0])
    expect(numTokens).toEqual([1, 3, 2, 0, 1, 3])
    expect(model.countTokens('fox fox fox walnut')).toBe(5)
    expect([model.decode([1, 2, 3]), model.decode([1, 4])]).toEqual(['fox walnut', null])
  })

  it('weight all tokens equally without weights, also in f32', () => {
    write('model.safetensors', safetensors({ embeddings: float32([4, 2], [0, 0, 3, 0, 0, 4, 0, 0]) }))
    expect(round(new StaticModel(folder).embed(['fox walnut']).vectors)).toEqual([0.6, 0.8])
  })

  it('are recognised by their configuration', () => {
    expect(isStaticModel(folder)).toBe(true)
    write('config.json', '{"model_type": "bert"}')
    expect(isStaticModel(folder)).toBe(false)
    write('config.json', '{')
    expect(isStaticModel(folder)).toBe(false)
    expect(isStaticModel(join(folder, 'nowhere'))).toBe(false)
  })

  it.each([
    ['model.safetensors', Buffer.from('short'), /expected a safetensors header/],
    ['model.safetensors', safetensors({ other: EMBEDDINGS }), /expected a tensor embeddings/],
    ['model.safetensors', safetensors({ embeddings: int8([2, 2], [1, 2, 3, 4]) }), /a row for each of 4 tokens/],
    ['model.safetensors', safetensors({ embeddings: int8([4, 9], [1, 2]) }), /expected 36 bytes, found 2/],
    ['model.safetensors', safetensors({ embeddings: { ...EMBEDDINGS, dtype: 'F16' } }), /expected I8 or F32/],
    [
      'model.safetensors',
      safetensors({ embeddings: EMBEDDINGS, weights: float32([1], [1]) }),
      /weights: expected \[4\]/,
    ],
    ['tokenizer.json', JSON.stringify({ ...TOKENIZER, pre_tokenizer: { type: 'Metaspace' } }), /pre_tokenizer/],
    ['config.json', '{}', /model_type/],
    ['config.json', 'null', /config\.json: Invalid input: expected object, received null/],
    ['tokenizer.json', '[]', /tokenizer\.json: Invalid input: expected object, received array/],
    ['tokenizer.json', '{"secret', /tokenizer\.json: expected JSON, found something else/],
    ['model.safetensors', Buffer.from('\x04\0\0\0\0\0\0\0null', 'latin1'), /expected record, received null/],
  ])('report what is wrong with %s', (file, content, message) => {
    write(file, content)
    expect(() => new StaticModel(folder)).toThrow(message)
    expect(() => new StaticModel(folder)).toThrow(file)
  })
})

describe('late interaction', () => {
  /** Rows of length 3, 4 and 1 (without a weight): fox is [1, 0], wal is [0, 1]. */
  const relevance = (query: string, text: string, headings: readonly string[] = []): number =>
    new StaticModel(folder).interact(query, [{ headings, text }])[0] ?? NaN

  it('compares each token of the query with the best token of the passage, by weight', () => {
    // fox counts 1 * 3, wal 2 * 4. A third of the relevance belongs to the heading, of which there is none.
    expect(relevance('fox', 'fox wal')).toBeCloseTo(2 / 3, 6)
    expect(relevance('fox walnut', 'fox')).toBeCloseTo(((2 / 3) * 3) / 11, 6)
    expect(relevance('fox', 'wal')).toBe(0)
    // nut is [1, 0] as well, whatever it weighs in a mean.
    expect(relevance('fox', 'walnut')).toBeCloseTo(2 / 3, 6)
  })

  it('adds the similarity of the innermost heading, and handles an empty list', () => {
    expect(relevance('fox', 'wal', ['wal', 'fox'])).toBeCloseTo(2 / 3 + 1 / 3, 6)
    expect(relevance('fox', 'wal', ['fox', 'wal'])).toBeCloseTo(2 / 3, 6)
    expect(relevance('', 'fox')).toBe(0)
    expect(new StaticModel(folder).interact('fox', [])).toHaveLength(0)
  })
})
