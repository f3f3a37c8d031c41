import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { forcedDecode, goldenPath, goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { dequantize, sliceRows } from '../../kernels/dequantize.ts'
import { loadModel } from '../runner/model.ts'
import { ModelError } from '../runner/runner.ts'
import { createTokenizer, readTokenizerFiles } from '../tokenizer/tokenizer.ts'
import { BLOCK_FORMATS } from './gguf-blocks.ts'
import { parseGgufHeader } from './gguf-header.ts'
import { loadGgufTokenizer, toTokenizerFiles } from './gguf-tokenizer.ts'
import { openGguf } from './gguf.ts'

const FIXTURES = fileURLToPath(new URL('../../../test/golden/gguf/', import.meta.url))
let folder = ''
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-gguf-'))))
afterAll(() => rmSync(folder, { recursive: true }))

const BLOCKS = JSON.parse(readFileSync(`${FIXTURES}blocks.json`, 'utf8')) as Record<
  string,
  { type: number; bytes: string; values: string }
>

test.each(Object.keys(BLOCKS))('%s blocks have the values of gguf-py', (name) => {
  const { type, bytes, values } = BLOCKS[name]!
  const format = BLOCK_FORMATS.get(type)!
  expect(format.name).toBe(name)
  const expected = new Float32Array(new Uint8Array(Buffer.from(values, 'base64')).buffer)
  const decoded = format.decode(new Uint8Array(Buffer.from(bytes, 'base64')), expected.length)
  const found = dequantize(decoded)
  expect(found.length).toBe(expected.length)
  for (let i = 0; i < found.length; i++) {
    // gguf-py rounds code * scale before it adds the minimum, this code rounds once: the difference is one unit in the last place of the larger term.
    const group = 'group' in decoded ? Math.floor(i / decoded.group) : 0
    const min = 'mins' in decoded && decoded.mins !== null ? Math.abs(decoded.mins[group]!) : 0
    const tolerance = min === 0 ? 0 : 2 ** -23 * (min + Math.abs(expected[i]!))
    if (!(Math.abs(found[i]! - expected[i]!) <= tolerance)) expect.fail(`${name}[${i}]: ${found[i]} for ${expected[i]}`)
  }
})

test('formats with narrow codes have none outside six bits, whatever their bytes', () => {
  const isNarrow: Record<string, boolean> = {}
  for (const { name, values, bytes, decode } of BLOCK_FORMATS.values()) {
    const random = Uint8Array.from({ length: 64 * bytes }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 24)
    const decoded = decode(random, 64 * values)
    if (decoded.format !== 'q8') continue
    isNarrow[name] = decoded.isNarrow === true
    if (decoded.isNarrow !== true) continue
    const [least, most] = decoded.mins === null ? [-32, 31] : [0, 63]
    const outside = decoded.codes.filter((code) => code < least || code > most)
    expect(outside, name).toHaveLength(0)
  }
  expect(isNarrow).toMatchObject({ Q5_0: true, Q5_1: true, Q5_K: true, Q6_K: true, Q8_0: false, IQ4_NL: false })
})

const STORED = readdirSync(FIXTURES).flatMap((name) => (name.endsWith('.gguf') ? [name.slice(0, -'.gguf'.length)] : []))
test.each(STORED)('%s as GGUF gives the logits of its safetensors', async (name) => {
  const golden = readGolden(name)
  const ids = [...golden.prompt, ...golden.tokens]
  const run = async (path: string, maxModelLen: number) => {
    const model = await loadModel({ ...goldenRequest(name, { maxNumSeqs: 33 }), path, maxModelLen })
    const { logits } = await forcedDecode(model, ids, 33, [5, 2, 7, 1, 3, 0])
    await model.backend.close()
    return logits
  }
  // Ministral 3 is served up to its original context.
  for (const served of name === 'ministral3' ? [64, 128] : [64, 256]) {
    const expected = await run(goldenPath(name), served)
    const found = await run(`${FIXTURES}${name}.gguf`, served)
    // Rope factors are f32 in the file; everything else is the same bits.
    const error = found.reduce(
      (sum, row, i) => sum + row.reduce((s, value, t) => s + (value - expected[i]![t]!) ** 2, 0),
      0,
    )
    const power = expected.reduce((sum, row) => sum + row.reduce((s, value) => s + value ** 2, 0), 0)
    expect(error / power).toBeLessThan(1e-9)
  }
})

test.each(['tiny-text', 'llama-bf16', 'gemma3-old', 'ministral3'])(
  '%s: rows that are read in pieces equal those of the whole tensor',
  async (name) => {
    const { source } = await openGguf(`${FIXTURES}${name}.gguf`)
    for (const { name: tensor, shape, dtype } of source.tensors.values()) {
      const [numRows = 1, cols = 0] = shape
      const rows = cols === 0 ? null : source.rows(tensor)
      if (dtype === 'BF16') expect(rows).toBeNull()
      if (rows === null) continue
      const whole = await source.read(tensor)
      for (let first = 0; first < numRows; first += 5) {
        const count = Math.min(5, numRows - first)
        expect(await rows.read(first, count)).toEqual(sliceRows(whole, numRows, first, count))
      }
    }
    await source.close()
  },
)

test('the tokenizer and chat template of a byte-level GGUF equal those of its folder', async () => {
  const fromGguf = await loadGgufTokenizer(`${FIXTURES}tiny-text.gguf`)
  const fromFolder = await readTokenizerFiles(goldenPath('tiny-text'))
  expect(fromGguf.config).toMatchObject({
    bos_token: '<|begin|>',
    eos_token: '<|end|>',
    chat_template: fromFolder.config['chat_template'],
  })
  const [a, b] = [createTokenizer(fromGguf), createTokenizer(fromFolder)]
  for (const text of ['The river runs', " it's 12345 birds\n\n  x", '東京 🙂 naïve', '<|user|>\nhi<|end|>', '']) {
    const ids = a.encode(text, { addSpecialTokens: false })
    expect(ids, text).toEqual(b.encode(text, { addSpecialTokens: false }))
    expect(a.decode(ids, { skipSpecialTokens: false })).toBe(text)
  }
  expect(a.encode('The river')[0]).toBe(1)
  expect(a.vocabSize).toBe(320)
})

interface SentencePieceFixture {
  readonly metadata: Record<string, never>
  readonly texts: readonly { readonly text: string; readonly ids: readonly number[] }[]
}

test.each(['prefix', 'plain'])(
  'a SentencePiece vocabulary (%s) gives the ids of SentencePiece, with bytes for characters that it lacks',
  (name) => {
    const fixtures = JSON.parse(readFileSync(`${FIXTURES}sentencepiece.json`, 'utf8')) as Record<
      string,
      SentencePieceFixture
    >
    const { metadata, texts } = fixtures[name]!
    const tokenizer = createTokenizer(toTokenizerFiles('sp.gguf', new Map(Object.entries(metadata))))
    for (const { text, ids } of texts) {
      expect(tokenizer.encode(text, { addSpecialTokens: false }), JSON.stringify(text)).toEqual(ids)
      if (text !== '▁') expect(tokenizer.decode(ids)).toBe(text)
      expect(tokenizer.encode(text)).toEqual([1, ...ids])
    }
    const pieces: readonly string[] = metadata['tokenizer.ggml.tokens'] ?? []
    expect(tokenizer.encode('a<|tool|>b', { addSpecialTokens: false })).toContain(pieces.indexOf('<|tool|>'))
  },
)

/** The merges that a vocabulary with scores is equivalent to, best first. */
function mergesOf(pieces: readonly string[], scores: readonly number[]): string[] {
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  return pieces
    .flatMap((piece, id) => {
      const chars = [...piece]
      return chars.slice(1).flatMap((_, i) => {
        const [left, right] = [chars.slice(0, i + 1).join(''), chars.slice(i + 1).join('')]
        return ids.has(left) && ids.has(right) ? [{ merge: `${left} ${right}`, score: scores[id]! }] : []
      })
    })
    .sort((a, b) => b.score - a.score)
    .map(({ merge }) => merge)
}

test("Gemma 4's vocabulary, with merges instead of scores, gives the same ids", () => {
  const { metadata, texts } = (
    JSON.parse(readFileSync(`${FIXTURES}sentencepiece.json`, 'utf8')) as Record<string, SentencePieceFixture>
  )['plain']!
  const merges = mergesOf(metadata['tokenizer.ggml.tokens'] ?? [], metadata['tokenizer.ggml.scores'] ?? [])
  const values = { ...metadata, 'tokenizer.ggml.model': 'gemma4', 'tokenizer.ggml.merges': merges }
  const tokenizer = createTokenizer(
    toTokenizerFiles('gemma.gguf', new Map(Object.entries<string | readonly string[]>(values))),
  )
  for (const { text, ids } of texts) {
    expect(tokenizer.encode(text, { addSpecialTokens: false }), JSON.stringify(text)).toEqual(ids)
    if (text !== '▁') expect(tokenizer.decode(ids)).toBe(text)
  }
})

test('pre-tokenizers split as their models do', () => {
  const tokens = Array.from({ length: 94 }, (_, i) => String.fromCodePoint(33 + i)).concat(
    'Ġ',
    'Ċ',
    '12',
    '123',
    '1234',
    'Ġ1',
    '!Ċ',
    "'S",
  )
  const merges = ['1 2', '12 3', '123 4', 'Ġ 1', '! Ċ', "' S"]
  const pieces = (pre: string, text: string): string[] => {
    const values = new Map<string, string | readonly string[]>([
      ['tokenizer.ggml.model', 'gpt2'],
      ['tokenizer.ggml.pre', pre],
      ['tokenizer.ggml.tokens', tokens],
      ['tokenizer.ggml.merges', merges],
    ])
    return createTokenizer(toTokenizerFiles('pre.gguf', values))
      .encode(text)
      .map((id) => tokens[id]!)
  }
  expect(pieces('gpt-2', '1234 1')).toEqual(['1234', 'Ġ1'])
  expect(pieces('llama-bpe', '1234 1')).toEqual(['123', '4', 'Ġ', '1'])
  expect(pieces('qwen2', '1234 1')).toEqual(['1', '2', '3', '4', 'Ġ', '1'])
  expect(pieces('smollm', '1234 1')).toEqual(['1', '2', '3', '4', 'Ġ', '1'])
  expect(pieces('gpt-2', 'a!\n')).toEqual(['a', '!', 'Ċ'])
  expect(pieces('qwen2', 'a!\n')).toEqual(['a', '!Ċ'])
  expect(pieces('gpt-2', "I'S")).toEqual(['I', "'", 'S'])
  expect(pieces('qwen2', "I'S")).toEqual(['I', "'S"])
  expect(() => pieces('wolf', 'a')).toThrow(/unknown pre-tokenizer "wolf"; known: gpt-2/)
})

/** Writes little-endian GGUF files with invalid content. */
function headerOf(parts: readonly (number | bigint | string)[]): Uint8Array {
  const chunks = parts.map((part) => {
    if (typeof part === 'number') return Buffer.from(Uint32Array.of(part).buffer)
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(typeof part === 'bigint' ? part : BigInt(Buffer.byteLength(part)))
    return typeof part === 'bigint' ? length : Buffer.concat([length, Buffer.from(part)])
  })
  return Buffer.concat(chunks)
}

const MAGIC = 0x46554747
const HOSTILE: [string, Uint8Array, RegExp][] = [
  ['not GGUF', headerOf([0x12345678, 3, 0n, 0n]), /does not begin with GGUF/],
  ['version 1', headerOf([MAGIC, 1, 0n, 0n]), /version 1; 2 and 3 can be read/],
  ['empty', new Uint8Array(0), /4 bytes are announced, 0 are left/],
  ['2^52 tensors', headerOf([MAGIC, 3, 1n << 52n, 0n]), /items are announced/],
  ['2^64 - 1 values', headerOf([MAGIC, 3, 0n, (1n << 64n) - 1n]), /out of range/],
  ['a key of 2^40 bytes', headerOf([MAGIC, 3, 0n, 1n, 1n << 40n, 0n]), /1099511627776 bytes are announced/],
  ['an array of 2^50 strings', headerOf([MAGIC, 3, 0n, 1n, 'k', 9, 8, 1n << 50n]), /items are announced/],
  ['nested arrays', headerOf([MAGIC, 3, 0n, 1n, 'k', 9, 9, 1n, 0n, 0n]), /arrays of value type 9/],
  ['an unknown value type', headerOf([MAGIC, 3, 0n, 1n, 'k', 77, 0n]), /unknown value type 77/],
  ['nine dimensions', headerOf([MAGIC, 3, 1n, 0n, 't', 9, 0n, 0n, 0n]), /has 9 dimensions/],
  ['an odd alignment', headerOf([MAGIC, 3, 0n, 1n, 'general.alignment', 4, 33]), /power of two, found 33/],
]

test.each(HOSTILE)('a hostile header gets one clear error: %s', (_name, bytes, message) => {
  expect(() => parseGgufHeader('x.gguf', bytes, bytes.length)).toThrow(message)
  expect(() => parseGgufHeader('x.gguf', bytes, bytes.length)).toThrow(ModelError)
})

test('fuzz: a damaged file is refused with a ModelError or opened with every tensor inside it', async () => {
  const original = readFileSync(`${FIXTURES}qwen2-yarn.gguf`)
  const path = join(folder, 'fuzz.gguf')
  let state = 3
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  let refused = 0
  for (let round = 0; round < 200; round++) {
    const bytes = Buffer.from(original.subarray(0, random(3) === 0 ? random(original.length) : original.length))
    for (let edits = 1 + random(4); edits > 0 && bytes.length > 8; edits--) {
      const at = random(Math.min(bytes.length, 3500))
      if (random(3) === 0 && at + 8 < bytes.length)
        bytes.writeBigUInt64LE(BigInt(random(2 ** 32)) << BigInt(random(32)), at)
      else bytes[at] = random(256)
    }
    writeFileSync(path, bytes)
    try {
      const { source, spec } = await openGguf(path)
      try {
        spec({ servedPositions: 64 })
        for (const { bytes: size } of source.tensors.values()) expect(size).toBeLessThanOrEqual(bytes.length)
      } finally {
        await source.close()
      }
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
      refused++
    }
  }
  expect(refused).toBeGreaterThan(70)
})

test('files that cannot be served say why', async () => {
  const edit = (name: string, change: (bytes: Buffer) => void): string => {
    const bytes = readFileSync(`${FIXTURES}qwen2-yarn.gguf`)
    change(bytes)
    const path = join(folder, name)
    writeFileSync(path, bytes)
    return path
  }
  const unknown = edit('arch.gguf', (bytes) => bytes.write('qwenX', bytes.indexOf('qwen2')))
  await expect(openGguf(unknown)).rejects.toThrow(/unknown architecture "qwenX"; known: llama, qwen2, qwen3/)
  const type = edit('type.gguf', (bytes) =>
    bytes.writeUInt32LE(40, bytes.indexOf('blk.0.attn_output.weight') + 24 + 4 + 16),
  )
  await expect(openGguf(type)).rejects.toThrow(
    /tensor blk.0.attn_output.weight has type NVFP4; known: F32.*another quantisation/,
  )
})

test('metadata of a wrong type, without a value or twice is refused by its key', async () => {
  const edit = (key: string, change: (bytes: Buffer, type: number) => void): string => {
    const bytes = readFileSync(`${FIXTURES}tiny-text.gguf`)
    change(bytes, bytes.indexOf(key) + key.length)
    const path = join(folder, 'metadata.gguf')
    writeFileSync(path, bytes)
    return path
  }
  const NUMBER = 0
  const theta = edit('llama.rope.freq_base', (bytes, type) => bytes.writeFloatLE(NaN, type + 4))
  await expect(openGguf(theta)).rejects.toThrow(`${theta}: llama.rope.freq_base should be a finite number, found NaN`)
  const adds = edit('tokenizer.ggml.add_bos_token', (bytes, type) => bytes.writeUInt32LE(NUMBER, type))
  await expect(loadGgufTokenizer(adds)).rejects.toThrow(
    `${adds}: tokenizer.ggml.add_bos_token should be true or false, found 1`,
  )
  const twice = edit('tokenizer.ggml.bos_token_id', (bytes, type) => bytes.write('eos_token_id', type - 12))
  await expect(openGguf(twice)).rejects.toThrow('the key "tokenizer.ggml.eos_token_id" appears twice')
})

test('a token that begins with a byte order mark keeps it', () => {
  const tokens = ['a', '\u{FEFF}a']
  const text = new TextEncoder()
  const string = (value: string): number[] => {
    const bytes = text.encode(value)
    return [bytes.length, 0, 0, 0, 0, 0, 0, 0, ...bytes]
  }
  const u32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)]
  const bytes = Uint8Array.from(
    [text.encode('GGUF'), u32(3), [0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], string('tokens'), u32(9), u32(8)]
      .concat([[2, 0, 0, 0, 0, 0, 0, 0], ...tokens.map(string)])
      .flatMap((part) => [...part]),
  )
  expect(parseGgufHeader('bom.gguf', bytes, bytes.length)?.metadata.get('tokens')).toEqual(tokens)
})
