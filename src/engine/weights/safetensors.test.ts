import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { goldenPath, goldenRequest } from '../../../test/golden/golden.ts'
import { dequantize } from '../../kernels/dequantize.ts'
import { decodeBf16 } from '../../kernels/float.ts'
import { loadModel } from '../runner/model.ts'
import { ModelError } from '../runner/runner.ts'
import { openSafetensors, parseSafetensorsHeader } from './safetensors.ts'
import { concatRows } from './source.ts'

let folder = ''
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-safetensors-'))))
afterAll(() => rmSync(folder, { recursive: true }))

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>

function fileOf(header: unknown, data: Uint8Array, headerBytes?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(headerBytes ?? BigInt(json.length))
  return Buffer.concat([prefix, json, data])
}

function write(name: string, content: Buffer): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const A = { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] }
const B = { dtype: 'F16', shape: [4], data_offsets: [16, 24] }

/** BF16: the upper half of an f32. */
const toBf16 = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16

test('values of every served dtype, unaligned offsets included', async () => {
  const words = Float32Array.of(1.5, -2.25, 1e-3, 7)
  const small = Uint16Array.from([0.1, -3, 65280, 0].map(toBf16))
  const large = Uint16Array.from([0.1, 1e20].map(toBf16))
  const data = Buffer.concat([
    Buffer.of(9),
    Buffer.from(words.buffer),
    Buffer.from(small.buffer),
    Buffer.from(large.buffer),
  ])
  const header: Header = {
    pad: { dtype: 'U8', shape: [1], data_offsets: [0, 1] },
    f: { dtype: 'F32', shape: [2, 2], data_offsets: [1, 17] },
    small: { dtype: 'BF16', shape: [4], data_offsets: [17, 25] },
    large: { dtype: 'BF16', shape: [2], data_offsets: [25, 29] },
  }
  const progress: number[] = []
  const source = await openSafetensors(write('dtypes.safetensors', fileOf(header, data)), (done) => progress.push(done))
  expect(await source.read('f')).toEqual({ format: 'f32', values: words })
  expect(await source.rows('f')?.read(1, 1)).toEqual({ format: 'f32', values: words.slice(2) })
  expect(source.rows('small')).toBeNull()
  const narrowed = await source.read('small')
  expect(narrowed.format).toBe('f16')
  expect([...dequantize(narrowed)]).toEqual([...decodeBf16(small)])
  const widened = await source.read('large')
  expect(widened.format).toBe('f32')
  expect([...dequantize(widened)]).toEqual([...decodeBf16(large)])
  await expect(source.read('pad')).rejects.toThrow(/tensor pad has dtype U8; F32, F16 and BF16 can be served/)
  expect(progress.slice(0, 4)).toEqual([16, 24, 32, 36])
  expect(source.totalBytes).toBe(29)
  await source.close()
})

const data24 = new Uint8Array(24)
const HOSTILE: [string, Buffer, RegExp][] = [
  ['empty file', Buffer.alloc(0), /not a safetensors file, or truncated/],
  ['header longer than the file', fileOf({ A, B }, data24, 10_000n), /not a safetensors file, or truncated/],
  ['header of 2^63 bytes', fileOf({ A, B }, data24, 1n << 63n), /not a safetensors file, or truncated/],
  ['header not JSON', fileOf('{"A": ', data24), /not valid JSON/],
  ['header not UTF-8', Buffer.concat([Buffer.of(2, 0, 0, 0, 0, 0, 0, 0), Buffer.of(0xff, 0xfe)]), /not valid JSON/],
  ['header a list', fileOf([A], data24), /not a JSON object/],
  ['truncated data', fileOf({ A, B }, data24.subarray(0, 20)), /"B" has data_offsets \[16, 24\] outside the 20 bytes/],
  ['bytes left over', fileOf({ A }, data24), /tensors end at byte \d+, the file at \d+/],
  ['a gap', fileOf({ A, B: { ...B, shape: [3], data_offsets: [18, 24] } }, data24), /2 unused bytes before B/],
  ['overlap', fileOf({ A, B: { ...B, data_offsets: [8, 16] } }, data24.subarray(0, 16)), /tensors .* overlap/],
  ['negative offset', fileOf({ A: { ...A, data_offsets: [-16, 0] } }, data24), /no valid data_offsets/],
  ['fractional offset', fileOf({ A: { ...A, data_offsets: [0, 16.5] } }, data24), /no valid data_offsets/],
  ['offsets reversed', fileOf({ A: { ...A, data_offsets: [16, 0] } }, data24), /data_offsets \[16, 0\] outside/],
  [
    'giant count',
    fileOf({ A: { ...A, shape: [2 ** 40, 2 ** 40] } }, data24),
    /needs .* bytes, its data_offsets span 16/,
  ],
  ['negative size', fileOf({ A: { ...A, shape: [-2, -2] } }, data24), /no valid shape/],
  ['wrong size', fileOf({ A: { ...A, shape: [3, 2] } }, data24), /needs 24 bytes, its data_offsets span 16/],
  ['unknown dtype', fileOf({ A: { ...A, dtype: 'F3' } }, data24), /unknown dtype "F3"/],
  ['dtype of the prototype', fileOf({ A: { ...A, dtype: 'constructor' } }, data24), /unknown dtype/],
  ['entry null', fileOf({ A: null }, data24), /not described by an object/],
]

test.each(HOSTILE)('a broken file gets one clear error: %s', async (name, content, message) => {
  const path = write(`${name.replaceAll(/\W/g, '-')}.safetensors`, content)
  const opening = openSafetensors(path)
  await expect(opening).rejects.toThrow(message)
  await expect(opening).rejects.toThrow(ModelError)
  await expect(opening).rejects.toThrow(path)
})

test('fuzz: a damaged header is refused with a ModelError or read within the file, never anything else', () => {
  const file = readFileSync(`${goldenPath('llama')}/model.safetensors`)
  const headerBytes = Number(file.readBigUInt64LE())
  const original = file.subarray(8, 8 + headerBytes)
  let state = 1
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const pieces = ['-1', '1e99', 'null', '18446744073709551615', '[', '"', '{}', '\\u0000', '9007199254740993', '0.5']
  let refused = 0
  for (let round = 0; round < 3000; round++) {
    let header = Buffer.from(original)
    for (let edits = 1 + random(3); edits > 0; edits--) {
      const at = random(header.length)
      if (random(2) === 0) header[at] = random(256)
      else
        header = Buffer.concat([
          header.subarray(0, at),
          Buffer.from(pieces[random(pieces.length)]!),
          header.subarray(at + random(4)),
        ])
    }
    const size = 8 + header.length + (file.length - 8 - headerBytes) - (random(4) === 0 ? random(100) : 0)
    try {
      for (const tensor of parseSafetensorsHeader('fuzz', header, size).values()) {
        expect(tensor.offset).toBeGreaterThanOrEqual(8 + header.length)
        expect(tensor.offset + tensor.bytes).toBeLessThanOrEqual(size)
      }
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
      refused++
    }
  }
  expect(refused).toBeGreaterThan(2000)
})

/** A copy of a stored model, to be damaged. */
function copyOf(model: string, name: string): string {
  const path = join(folder, name)
  cpSync(goldenPath(model), path, { recursive: true })
  return path
}

function edit(path: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
  change(json)
  writeFileSync(path, JSON.stringify(json))
}

const BROKEN: [string, string, (path: string) => void, RegExp][] = [
  [
    'a shard is missing',
    'llama-sharded',
    (path) => rmSync(`${path}/model-00002-of-00003.safetensors`),
    /00002-of-00003.*found no such file.*missing shard/,
  ],
  [
    'a shard is truncated',
    'llama-sharded',
    (path) => truncateSync(`${path}/model-00001-of-00003.safetensors`, 9000),
    /outside the \d+ bytes/,
  ],
  [
    'the index names a tensor that is not there',
    'llama-sharded',
    (path) =>
      edit(`${path}/model.safetensors.index.json`, (json) =>
        Object.assign(json['weight_map'] as object, { extra: 'model-00001-of-00003.safetensors' }),
      ),
    /tensor extra is missing, the index places it there/,
  ],
  [
    'the index points outside the folder',
    'llama-sharded',
    (path) =>
      edit(`${path}/model.safetensors.index.json`, (json) =>
        Object.assign(json['weight_map'] as object, { extra: '../../x.safetensors' }),
      ),
    /weight_map should name a .safetensors file of this folder/,
  ],
  ...['null', '[]', '"text"', '{"weight_map": {'].flatMap((content) =>
    ['model.safetensors.index.json', 'config.json', 'generation_config.json'].map(
      (file): [string, string, (path: string) => void, RegExp] => [
        `${file} contains ${content}`,
        'llama-sharded',
        (path) => writeFileSync(`${path}/${file}`, content),
        new RegExp(
          `/${file.replaceAll('.', '\\.')}: expected (a )?JSON( object)?, found (null|a list|a string|something else)`,
        ),
      ],
    ),
  ),
  ['no weights at all', 'llama', (path) => rmSync(`${path}/model.safetensors`), /no .safetensors weights found/],
  ['no config', 'llama', (path) => rmSync(`${path}/config.json`), /config.json not found/],
  [
    'more layers than weights',
    'llama',
    (path) => edit(`${path}/config.json`, (json) => (json['num_hidden_layers'] = 3)),
    /model\.layers\.2\.\S+ \[32\] is missing/,
  ],
  [
    'another vocabulary',
    'llama',
    (path) => edit(`${path}/config.json`, (json) => (json['vocab_size'] = 97)),
    /embed_tokens.weight should be \[97, 32\] by config.json, found \[96, 32\]/,
  ],
  [
    'an unknown architecture',
    'llama',
    (path) => edit(`${path}/config.json`, (json) => (json['architectures'] = ['MambaForCausalLM'])),
    /"MambaForCausalLM"; known: LlamaForCausalLM, Mistral/,
  ],
]

test.each(BROKEN)('a mismatched checkpoint gets one clear error: %s', async (name, model, damage, message) => {
  const path = copyOf(model, name.replaceAll(/\W/g, '-'))
  damage(path)
  const loading = loadModel({ ...goldenRequest(model), path })
  await expect(loading).rejects.toThrow(message)
  await expect(loading).rejects.toThrow(ModelError)
})

test('rows of different formats are joined with exactly their values', () => {
  const cols = 32
  const code = (i: number): number => (i * 7) % 16
  const q4 = (mins: Float32Array | null) =>
    ({
      format: 'q4',
      group: 32,
      codes: Uint8Array.from({ length: 16 }, (_, i) => code(i) | (code(i + 5) << 4)),
      scales: Float32Array.of(0.25),
      mins,
    }) as const
  const q8 = (group: 16 | 32, mins: Float32Array | null) =>
    ({
      format: 'q8',
      group,
      codes: Int8Array.from({ length: cols }, (_, i) => i * 5 - 70),
      scales: new Float32Array(cols / group).fill(0.5),
      mins,
    }) as const
  const half = { format: 'f16', values: new Uint16Array(cols).fill(0x3c01) } as const
  const full = { format: 'f32', values: new Float32Array(cols).fill(0.1) } as const
  const small = { ...q8(16, null), isNarrow: true as const, codes: Int8Array.from({ length: cols }, (_, i) => i - 16) }
  const parts = [q4(null), q4(Float32Array.of(-1)), q8(32, null), q8(16, Float32Array.of(2, 3)), small, half, full]
  for (const first of parts) {
    for (const second of parts) {
      const joined = concatRows([first, second])
      expect([...dequantize(joined)], `${first.format} ${second.format}`).toEqual([
        ...dequantize(first),
        ...dequantize(second),
      ])
    }
  }
  expect(concatRows([q4(null), q4(null)]).format).toBe('q4')
  expect(concatRows([q4(null), q8(16, null)])).toMatchObject({ format: 'q8', group: 16, mins: null })
  const narrow = (mins: boolean) => ({ ...q8(32, mins ? Float32Array.of(1) : null), isNarrow: true as const })
  expect(concatRows([narrow(false), q4(null)])).toHaveProperty('isNarrow', true)
  expect(concatRows([narrow(false), q8(32, null)])).not.toHaveProperty('isNarrow')
  // Signed codes become codes with a minimum.
  expect(concatRows([narrow(true), q4(null)])).toMatchObject({ isNarrow: true, mins: Float32Array.of(1, -2) })
  const subs = { ...q4(Float32Array.of(-1)), hasSubScales: true as const }
  expect(concatRows([subs, subs])).toHaveProperty('hasSubScales', true)
  expect(concatRows([subs, q4(Float32Array.of(-1))])).not.toHaveProperty('hasSubScales')
  expect(concatRows([half, half]).format).toBe('f16')
})
