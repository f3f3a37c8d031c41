import { expect, test } from 'vitest'
import { f32ToF16 } from '../float.ts'
import { dequantize } from '../dequantize.ts'
import type { Backend } from '../backend.ts'
import type { KvLayout, MatrixData, StepInput } from '../ops.ts'
import { GREEDY } from '../sampling.ts'
import { createReferenceBackend } from './backend.ts'

const LIMITS = { maxRows: 70, maxSequences: 4, maxSampleRows: 4, maxBlocksPerSequence: 8 }
const LAYOUT: KvLayout = {
  numBlocks: 20,
  blockSize: 4,
  layers: [
    { numKvHeads: 1, headDim: 4 },
    { numKvHeads: 1, headDim: 4 },
  ],
}

function create(): Backend {
  return createReferenceBackend({ limits: LIMITS, traceKernels: false })
}

function noise(length: number, seed: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898 + seed * 78.233) * 1.5)
}

function stepOf(tokens: number[], start: number, blocks: number[]): StepInput {
  const positions = Int32Array.from(tokens, (_, i) => start + i)
  return {
    numRows: tokens.length,
    numSequences: 1,
    tokens: Int32Array.from(tokens),
    positions,
    slots: positions.map((p) => blocks[p >> 2]! * 4 + (p & 3)),
    sequenceStarts: Int32Array.of(0, tokens.length),
    blockTables: Int32Array.from({ length: LIMITS.maxBlocksPerSequence }, (_, i) => blocks[i] ?? 0),
    maxBlocksPerSequence: LIMITS.maxBlocksPerSequence,
  }
}

/** A one-layer model: vocabulary 12, width 8, two query heads over one KV head. */
async function tinyModel(): Promise<{
  backend: Backend
  run: (tokens: number[], start: number, blocks: number[]) => Promise<Float32Array>
}> {
  const backend = create()
  const f32 = (length: number, seed: number): MatrixData => ({ format: 'f32', values: noise(length, seed) })
  const table = await backend.loadMatrix('embed', 12, 8, f32(96, 1))
  const wQkv = await backend.loadMatrix('qkv', 16, 8, f32(128, 2))
  const wUp = await backend.loadMatrix('gate_up', 12, 8, f32(96, 3), { glu: true })
  const wDown = await backend.loadMatrix('down', 8, 6, f32(48, 4))
  const norm = { weight: backend.loadVector('norm', noise(8, 5)), eps: 1e-5 }
  const bias = backend.loadVector('bias', noise(16, 6))
  const rope = backend.loadRope('rope', Float64Array.of(1, 0.1), 1)
  const [hidden, qkv, q, attended, inner] = [8, 16, 8, 8, 6].map((cols, i) =>
    backend.createActivation(`a${i}`, cols),
  ) as [never, never, never, never, never]
  backend.createKvCache(LAYOUT)
  await backend.ready()
  return {
    backend,
    async run(tokens, start, blocks) {
      backend.beginStep(stepOf(tokens, start, blocks))
      backend.embed(hidden, table, 2)
      const shape = { layer: 1, numHeads: 2, numKvHeads: 1, headDim: 4 }
      backend.linear(qkv, hidden, wQkv, { norm, bias })
      backend.qkvRopeStore(q, qkv, { ...shape, qkNorm: null, rope })
      backend.attention(attended, q, { ...shape, scale: 0.5, window: null, softcap: null })
      backend.linear(inner, attended, wUp, { glu: 'silu' })
      backend.linear(hidden, inner, wDown, { residual: true })
      const rows = tokens
        .slice(-LIMITS.maxSampleRows)
        .map((_, i, kept) => ({ row: tokens.length - kept.length + i, spec: GREEDY }))
      backend.sample(hidden, table, { norm, softcap: null, scale: 1 }, rows)
      return (await backend.endStep({ logits: true })).logits!.slice(-12)
    },
  }
}

const PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]

test('a row has the same bits whatever the chunks, the block order and the company', async () => {
  const whole = await (await tinyModel()).run(PROMPT, 0, [0, 1, 2, 3])
  for (const size of [1, 2, 7]) {
    const { run } = await tinyModel()
    let last: Float32Array = new Float32Array(0)
    for (let at = 0; at < PROMPT.length; at += size) last = await run(PROMPT.slice(at, at + size), at, [17, 5, 11, 2])
    expect(last).toEqual(whole)
  }
})

test('KV blocks survive being read, written elsewhere and copied', async () => {
  const { backend, run } = await tinyModel()
  const whole = await run(PROMPT, 0, [0, 1, 2, 3])
  const bytes = await backend.readBlocks([0, 1, 2, 3])
  expect(bytes.length).toBe(4 * backend.kvBlockBytes(LAYOUT))
  const other = await tinyModel()
  await other.backend.writeBlocks([9, 8, 7, 6], bytes)
  expect(await other.run(PROMPT.slice(-1), PROMPT.length - 1, [9, 8, 7, 6])).toEqual(whole)
  // Block 12 holds only the two tokens copied from block 7, so the tokens after them must be computed again.
  other.backend.copyBlock(7, 12, 2)
  expect(await other.run(PROMPT.slice(10), 10, [9, 8, 12, 6])).toEqual(whole)
  expect(await other.run(PROMPT.slice(12), 12, [9, 8, 13, 6])).not.toEqual(whole)
  await expect(async () => other.backend.writeBlocks([1], bytes)).rejects.toThrow(/4096|bytes for 1 blocks/)
  await expect(async () => other.backend.readBlocks([20])).rejects.toThrow('block 20 is outside the pool of 20')
})

test('quantised planes mean what ops.ts says', () => {
  const scales = Float32Array.of(0.5, 2)
  const mins = Float32Array.of(-1, 3)
  const codes = Uint8Array.from({ length: 32 }, (_, i) => (i % 16) | ((15 - (i % 16)) << 4))
  const plain = dequantize({ format: 'q4', group: 32, codes, scales, mins: null })
  const withMins = dequantize({ format: 'q4', group: 32, codes, scales, mins })
  expect([...plain.slice(0, 3), plain[33]]).toEqual([(0 - 8) * 0.5, (15 - 8) * 0.5, (1 - 8) * 0.5, (15 - 8) * 2])
  expect([withMins[0], withMins[1], withMins[33]]).toEqual([-1, 15 * 0.5 - 1, 15 * 2 + 3])
  const q8 = dequantize({
    format: 'q8',
    group: 16,
    codes: Int8Array.from({ length: 32 }, (_, i) => i - 16),
    scales,
    mins,
  })
  expect([q8[0], q8[15], q8[16], q8[31]]).toEqual([-9, -1.5, 3, 33])
  expect([...dequantize({ format: 'f16', values: Uint16Array.of(f32ToF16(0.1)) })]).toEqual([
    Math.fround(0.0999755859375),
  ])
})

test('a matrix of the wrong size, or of another backend, is refused by name', async () => {
  const backend = create()
  const load = (rows: number, data: MatrixData) => async () => backend.loadMatrix('w', rows, 32, data)
  await expect(load(3, { format: 'f32', values: new Float32Array(95) })).rejects.toThrow(
    'w: values has 95 entries, expected 96',
  )
  const q4: MatrixData = { format: 'q4', group: 32, codes: new Uint8Array(32), scales: new Float32Array(3), mins: null }
  await expect(load(2, q4)).rejects.toThrow('w: scales has 3 entries, expected 2')
  const foreign = await create().loadMatrix('theirs', 2, 32, { format: 'f32', values: new Float32Array(64) })
  backend.beginStep(stepOf([1], 0, [0]))
  expect(() => backend.embed(backend.createActivation('a', 32), foreign, 1)).toThrow(
    'matrix theirs is not of this backend',
  )
})

test('a token drawn in the previous step feeds the next without the host', async () => {
  const { backend } = await tinyModel()
  const table = await backend.loadMatrix('embed', 12, 8, { format: 'f32', values: noise(96, 1) })
  const x = backend.createActivation('x', 8)
  const norm = { weight: backend.loadVector('norm', noise(8, 5)), eps: 1e-5 }
  const step = (token: number, position: number): void => {
    backend.beginStep(stepOf([token], position, [0, 1, 2]))
    backend.embed(x, table, 1)
    backend.sample(x, table, { norm, softcap: null, scale: 1 }, [
      { row: 0, spec: { ...GREEDY, temperature: 2, seed: 5 } },
    ])
  }
  step(3, 0)
  const first = await backend.endStep()
  step(-1, 1)
  const fed = await backend.endStep({ logits: true })
  step(first.sampled[0]!, 1)
  const known = await backend.endStep({ logits: true })
  expect(fed.logits).toEqual(known.logits)
  expect(fed.sampled).toEqual(known.sampled)
})
