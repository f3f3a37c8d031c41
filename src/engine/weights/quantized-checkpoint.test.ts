import { expect, test } from 'vitest'
import { dequantize } from '../../kernels/dequantize.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { type RawWeightSource, unpackCheckpoint } from './quantized-checkpoint.ts'

const [ROWS, COLS, GROUP] = [16, 128, 64]
const code = (row: number, col: number): number => (row * 5 + col * 3 + ((row * col) >> 2)) & 15
const zero = (row: number, group: number): number => (row + 3 * group) % 15
const scale = (row: number, group: number): number => (1 + row + 7 * group) / 256

type Stored = {
  readonly shape: readonly number[]
  readonly dtype: string
  readonly values: Uint32Array | Int8Array | Uint8Array | Float32Array
}

function sourceOf(stored: Readonly<Record<string, Stored>>): RawWeightSource {
  const readRaw = async (name: string): Promise<ArrayBuffer> => stored[name]!.values.slice().buffer
  return {
    path: 'model',
    identity: '',
    totalBytes: 0,
    tensors: new Map(
      Object.entries(stored).map(([name, { dtype, shape }]) => [name, { name, dtype, shape, bytes: 1 }]),
    ),
    readRaw,
    readRawSlice: async (name, index) => {
      const { values, shape } = stored[name]!
      const length = values.length / (shape[0] ?? 1)
      return values.slice(index * length, (index + 1) * length).buffer
    },
    slice: () => Promise.reject(new Error('not of these checkpoints')),
    read: async (name): Promise<MatrixData> => ({ format: 'f32', values: new Float32Array(await readRaw(name)) }),
    rows: () => null,
    close: async () => {},
  }
}

/** Words of eight nibbles. `at(word)` returns the eight values, lowest nibble first. */
const words = (count: number, at: (word: number) => number[]): Uint32Array =>
  Uint32Array.from({ length: count }, (_, word) =>
    at(word).reduce((sum, value, i) => (sum | (value << (4 * i))) >>> 0, 0),
  )
const eight = Array.from({ length: 8 }, (_, i) => i)
const NUM_GROUPS = COLS / GROUP
const scales = Float32Array.from({ length: NUM_GROUPS * ROWS }, (_, i) => scale(i % ROWS, Math.floor(i / ROWS)))
const AWQ = [0, 2, 4, 6, 1, 3, 5, 7]

async function weightsOf(stored: Record<string, Stored>, config: Record<string, unknown>): Promise<Float32Array> {
  const source = unpackCheckpoint(sourceOf(stored), config)
  expect([...source.tensors.keys()]).toEqual(['x.weight'])
  expect(source.tensors.get('x.weight')?.shape).toEqual([ROWS, COLS])
  return dequantize(await source.read('x.weight'))
}

const expected = (value: (row: number, col: number) => number): number[] =>
  Array.from({ length: ROWS * COLS }, (_, i) => value(Math.floor(i / COLS), i % COLS))

function expectClose(found: Float32Array, values: readonly number[]): void {
  for (const [i, value] of values.entries()) expect(Math.abs(found[i]! - value)).toBeLessThan(1e-5)
}

test('AWQ: groups of eight columns in its order', async () => {
  const perRow = ROWS / 8
  const stored = {
    'x.qweight': {
      dtype: 'I32',
      shape: [COLS, perRow],
      values: words(COLS * perRow, (w) => AWQ.map((c) => code((w % perRow) * 8 + c, Math.floor(w / perRow)))),
    },
    'x.qzeros': {
      dtype: 'I32',
      shape: [NUM_GROUPS, perRow],
      values: words(NUM_GROUPS * perRow, (w) => AWQ.map((c) => zero((w % perRow) * 8 + c, Math.floor(w / perRow)))),
    },
    'x.scales': { dtype: 'F32', shape: [NUM_GROUPS, ROWS], values: scales },
  }
  const found = await weightsOf(stored, { quant_method: 'awq', bits: 4, group_size: GROUP })
  expectClose(
    found,
    expected((row, col) => (code(row, col) - zero(row, Math.floor(col / GROUP))) * scale(row, Math.floor(col / GROUP))),
  )
})

test.each([
  ['gptq', 1],
  ['gptq_v2', 0],
])('GPTQ: %s stores zero points less %i', async (format, offset) => {
  const perRow = ROWS / 8
  const stored = {
    'x.qweight': {
      dtype: 'I32',
      shape: [COLS / 8, ROWS],
      values: words((COLS / 8) * ROWS, (w) => eight.map((c) => code(w % ROWS, Math.floor(w / ROWS) * 8 + c))),
    },
    'x.qzeros': {
      dtype: 'I32',
      shape: [NUM_GROUPS, perRow],
      values: words(NUM_GROUPS * perRow, (w) => eight.map((c) => zero((w % perRow) * 8 + c, Math.floor(w / perRow)))),
    },
    'x.scales': { dtype: 'F32', shape: [NUM_GROUPS, ROWS], values: scales },
    'x.g_idx': {
      dtype: 'I32',
      shape: [COLS],
      values: Uint32Array.from({ length: COLS }, (_, i) => Math.floor(i / GROUP)),
    },
  }
  const config = { quant_method: 'gptq', bits: 4, checkpoint_format: format }
  const zeroOf = (row: number, group: number): number => zero(row, group) + offset
  expectClose(
    await weightsOf(stored, config),
    expected(
      (row, col) => (code(row, col) - zeroOf(row, Math.floor(col / GROUP))) * scale(row, Math.floor(col / GROUP)),
    ),
  )
  const shuffled = {
    ...stored,
    'x.g_idx': { ...stored['x.g_idx'], values: Uint32Array.from({ length: COLS }, (_, i) => i % 2) },
  }
  await expect(unpackCheckpoint(sourceOf(shuffled), config).read('x.weight')).rejects.toThrow(/desc_act/)
})

test('compressed-tensors: four bits in words, eight bits as they are', async () => {
  const rowScales = Float32Array.from({ length: ROWS * NUM_GROUPS }, (_, i) =>
    scale(Math.floor(i / NUM_GROUPS), i % NUM_GROUPS),
  )
  const packed = {
    'x.weight_packed': {
      dtype: 'I32',
      shape: [ROWS, COLS / 8],
      values: words((ROWS * COLS) / 8, (w) =>
        eight.map((c) => code(Math.floor(w / (COLS / 8)), (w % (COLS / 8)) * 8 + c)),
      ),
    },
    'x.weight_scale': { dtype: 'F32', shape: [ROWS, NUM_GROUPS], values: rowScales },
  }
  const config = { quant_method: 'compressed-tensors', config_groups: { group_0: { weights: { num_bits: 4 } } } }
  expectClose(
    await weightsOf(packed, config),
    expected((row, col) => (code(row, col) - 8) * scale(row, Math.floor(col / GROUP))),
  )
  const int8 = {
    'x.weight': {
      dtype: 'I8',
      shape: [ROWS, COLS],
      values: Int8Array.from({ length: ROWS * COLS }, (_, i) => (i % 251) - 125),
    },
    'x.weight_scale': { dtype: 'F32', shape: [ROWS, 1], values: rowScales.slice(0, ROWS) },
  }
  expectClose(
    await weightsOf(int8, config),
    expected((row, col) => (((row * COLS + col) % 251) - 125) * rowScales[row]!),
  )
})

test('FP8: a scale per row or per block', async () => {
  // 0x38 is 1, 0xC0 is -2, and 0x01 is the smallest value above zero.
  const values = Uint8Array.from({ length: ROWS * COLS }, (_, i) => [0x38, 0xc0, 0x01, 0x7e][i % 4]!)
  const value = (col: number): number => [1, -2, 2 ** -9, 448][col % 4]!
  const weight = { dtype: 'F8_E4M3', shape: [ROWS, COLS], values }
  const byRow = {
    'x.weight': weight,
    'x.weight_scale': {
      dtype: 'F32',
      shape: [ROWS, 1],
      values: Float32Array.from({ length: ROWS }, (_, i) => 2 ** -i),
    },
  }
  expectClose(
    await weightsOf(byRow, { quant_method: 'compressed-tensors' }),
    expected((row, col) => value(col) * 2 ** -row),
  )
  const grid = {
    'x.weight': weight,
    'x.weight_scale_inv': { dtype: 'F32', shape: [2, 2], values: Float32Array.of(1, 2, 4, 8) },
  }
  const config = { quant_method: 'fp8', weight_block_size: [8, 64] }
  expectClose(
    await weightsOf(grid, config),
    expected((row, col) => value(col) * [1, 2, 4, 8][(row >> 3) * 2 + (col >> 6)]!),
  )
})

test('other methods are refused by name, with the list of what can be served', () => {
  expect(() => unpackCheckpoint(sourceOf({}), { quant_method: 'bitsandbytes' })).toThrow(
    /quant_method "bitsandbytes" is not served; known: awq, gptq, compressed-tensors, fp8/,
  )
})

test('MXFP4 experts, one at a time', async () => {
  const [experts, rows, groups] = [3, 4, 2]
  const blocks = Uint8Array.from({ length: experts * rows * groups * 16 }, (_, i) => (i * 37 + 11) & 255)
  const exponents = Uint8Array.from({ length: experts * rows * groups }, (_, i) => 120 + (i % 11))
  const source = unpackCheckpoint(
    sourceOf({
      'mlp.down_proj_blocks': { shape: [experts, rows, groups, 16], dtype: 'U8', values: blocks },
      'mlp.down_proj_scales': { shape: [experts, rows, groups], dtype: 'U8', values: exponents },
    }),
    { quant_method: 'mxfp4' },
  )
  expect([...source.tensors.keys()]).toEqual(['mlp.down_proj.weight'])
  expect(source.tensors.get('mlp.down_proj.weight')?.shape).toEqual([experts, rows, 64])
  const magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
  for (let expert = 0; expert < experts; expert++) {
    const found = dequantize(await source.slice('mlp.down_proj.weight', expert))
    const expected = Float32Array.from({ length: rows * 64 }, (_, i) => {
      const at = expert * rows * 64 + i
      const nibble = (blocks[at >> 1]! >> (4 * (at & 1))) & 15
      return (nibble & 8 ? -1 : 1) * magnitudes[nibble & 7]! * 2 ** (exponents[at >> 5]! - 127)
    })
    expect(found).toEqual(expected.map((value) => value + 0))
  }
})
