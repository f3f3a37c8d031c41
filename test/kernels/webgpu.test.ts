/** The WebGPU backend against the conformance suite, on whatever adapter there is (lavapipe in CI), and what only this backend does. */
import { afterEach, describe, expect, it } from 'vitest'
import { DeviceLostError, type BackendOptions } from '../../src/kernels/backend.ts'
import type { Matrix } from '../../src/kernels/ops.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'
import { createWebGpuBackend, type WebGpuBackend } from '../../src/kernels/webgpu/backend.ts'
import type { WebGpuBackendOptions } from '../../src/kernels/webgpu/memory.ts'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { describeAttention } from './conformance-attention.ts'
import { describeSampling } from './conformance-sampling.ts'
import { describeBackend } from './conformance.ts'
import {
  BLOCK_SIZE,
  LIMITS,
  TOLERANCES,
  backendOptions,
  expectBitEqual,
  isFull,
  plainStep,
  randomMatrix,
  randomValues,
  type Format,
} from './fixtures.ts'

// LLVM's optimisation passes take a third of this file's time and do not change what is computed: the full level and the golden models have them.
if (!isFull) process.env.GALLIVM_PERF = 'nopt'

const skipReason = (await hasAdapter()) ? null : 'there is no WebGPU adapter (software Vulkan: mesa-vulkan-drivers)'
const create = (more: Partial<WebGpuBackendOptions>) => (options: BackendOptions) =>
  createWebGpuBackend({ ...options, ...more })

// int8 activations, as on the cpu backend.
describeBackend('webgpu', create({}), { skipReason, coverage: 'pairs', tolerances: { quantized: 5e-4 } })

// Attention in pieces of an item each, as long contexts are.
describe.skipIf(skipReason !== null || !isFull)('webgpu, short submissions', () => {
  describeAttention(create({ submissionOperations: 1 }), TOLERANCES, 'pairs')
})

// Thresholds among more candidates than the list holds: nearly every row of the suite.
describe.skipIf(skipReason !== null || !isFull)('webgpu, short lists', () => {
  describeSampling(create({ listCapacity: 4 }), TOLERANCES)
})

describe.skipIf(skipReason !== null)('webgpu', () => {
  const COLS = 96
  const open: WebGpuBackend[] = []
  afterEach(async () => {
    for (const backend of open.splice(0)) await backend.close()
  })

  async function openBackend(more: Partial<WebGpuBackendOptions> = {}): Promise<WebGpuBackend> {
    const backend = await create(more)(backendOptions())
    open.push(backend)
    return backend
  }

  /** out = norm(x) W^T of `numRows` rows, with a gate where asked; and the rows' embedding of token = row. */
  async function products(backend: WebGpuBackend, format: Format, numRows: number) {
    const rows = 200
    const w = await backend.loadMatrix('w', rows, COLS, randomMatrix(format, 1, rows, COLS))
    const gated = await backend.loadMatrix('gated', rows, COLS, randomMatrix(format, 2, rows, COLS), { glu: true })
    const norm = { weight: backend.loadVector('norm', randomValues(3, COLS)), eps: 1e-5 }
    const x = backend.createActivation('x', COLS)
    const out = backend.createActivation('out', rows)
    const inner = backend.createActivation('inner', rows / 2)
    const embedded = backend.createActivation('embedded', COLS)
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await backend.ready()
    backend.debugWrite(x, randomValues(4, numRows * COLS))
    backend.beginStep(plainStep(numRows))
    backend.linear(out, x, w, { norm })
    backend.linear(inner, x, gated, { glu: 'silu' })
    backend.embed(embedded, w, 1)
    await backend.endStep()
    const outputs = [await backend.debugRead(out), await backend.debugRead(inner), await backend.debugRead(embedded)]
    return outputs
  }

  it('has the same bits in shards of its matrices', async () => {
    const limits = { ...LIMITS, maxRows: 16 }
    const whole = await products(await openBackend({ limits }), 'f16', 3)
    // Two tiles of 32 rows a shard: 4 shards of 200 rows.
    const apart = await products(await openBackend({ limits, maxBindingBytes: 16384 }), 'f16', 3)
    for (const [i, values] of apart.entries()) expectBitEqual(values, whole[i]!, `output ${i}`)
  })

  it('has the same bits in many submissions, and in pieces of its products', async () => {
    const whole = await products(await openBackend(), 'q4', 130)
    // Three tiles of 64 rows.
    const apart = await products(await openBackend({ submissionOperations: 1 }), 'q4', 130)
    for (const [i, values] of apart.entries()) expectBitEqual(values, whole[i]!, `output ${i}`)
  })

  it('has the same bits without dot4I8Packed', async () => {
    for (const format of isFull ? (['q4', 'q8'] as const) : (['q4'] as const)) {
      const packed = await products(await openBackend(), format, 1)
      const unpacked = await products(await openBackend({ avoidPackedDot: true }), format, 1)
      for (const [i, values] of unpacked.entries()) expectBitEqual(values, packed[i]!, `${format}, output ${i}`)
    }
  })

  it.each(isFull ? (['q4', 'q8 g16 mins'] as const) : (['q4'] as const))(
    'has the same bits where recorded ops quantise what they compute, with fewer dispatches (%s)',
    async (format) => {
      const backend = await create({})({ ...backendOptions(), traceKernels: true })
      open.push(backend)
      // Not whole tiles of 64, and where the format allows it not whole blocks of 32.
      const [hidden, inner, heads, headDim] = [96, format === 'q4' ? 96 : 80, 2, 32]
      const load = (seed: number, rows: number, cols: number, glu = false) =>
        backend.loadMatrix(`w${seed}`, rows, cols, randomMatrix(format, seed, rows, cols), { glu })
      const output = await load(1, hidden, heads * headDim)
      const gateUp = await load(2, 2 * inner, hidden, true)
      const down = await load(3, hidden, inner)
      const last = await load(4, inner, hidden)
      const norm = { weight: backend.loadVector('norm', randomValues(5, hidden)), eps: 1e-5 }
      const q = backend.createActivation('q', heads * headDim)
      const attended = backend.createActivation('attended', heads * headDim)
      const x = backend.createActivation('x', hidden)
      const joined = backend.createActivation('joined', inner)
      const out = backend.createActivation('out', inner)
      const shape = { numKvHeads: 1, headDim }
      backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [shape] })
      const attention = { layer: 0, ...shape, numHeads: heads, window: null, softcap: null, scale: 0.2 }
      const ops = () => {
        backend.attention(attended, q, attention)
        backend.linear(x, attended, output, { residual: true })
        backend.linear(joined, x, gateUp, { norm, glu: 'silu' })
        backend.linear(x, joined, down, { residual: true })
        backend.linear(out, x, last, { norm })
        backend.linear(out, x, last, { norm, residual: true })
      }
      const recorded = backend.record('layer', ops, null)
      await backend.ready()
      const run = async (numRows: number, isRecorded: boolean) => {
        backend.debugWrite(q, randomValues(6, numRows * heads * headDim))
        backend.debugWrite(x, randomValues(7, numRows * hidden))
        backend.beginStep(plainStep(numRows))
        if (isRecorded) backend.run(recorded)
        else ops()
        const { kernels } = await backend.endStep()
        const values = [await backend.debugRead(x), await backend.debugRead(out)]
        return { values, prepared: kernels?.find(({ kernel }) => kernel === 'prepare')?.count ?? 0 }
      }
      for (const numRows of isFull ? [1, 3, 7, 12, 70] : [1]) {
        const apart = await run(numRows, false)
        const together = await run(numRows, true)
        for (const [i, values] of together.values.entries())
          expectBitEqual(values, apart.values[i]!, `output ${i} of ${numRows} rows`)
        if (backend.info.hasTimestamps) expect([apart.prepared, together.prepared]).toEqual([5, 0])
      }
    },
    300_000,
  )

  it('holds MXFP4 in 4.25 bits a weight', async () => {
    const backend = await openBackend()
    const before = backend.memoryUse().weightBytes
    await backend.loadMatrix('w', 256, 512, randomMatrix('mxfp4', 1, 256, 512))
    expect(backend.memoryUse().weightBytes - before).toBe((256 * 512 * 4.25) / 8)
  })

  it('counts the time between the parts of a step as no time of the device', async ({ skip }) => {
    const backend = await openBackend()
    skip(!backend.info.hasTimestamps, 'the adapter has no timestamps')
    const norm = { weight: backend.loadVector('norm', randomValues(3, COLS)), eps: 1e-5 }
    const [x, out] = [backend.createActivation('x', COLS), backend.createActivation('out', COLS)]
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await backend.ready()
    const micros = async (untilEnd: () => Promise<void>) => {
      backend.beginStep(plainStep(1))
      backend.normAdd(out, x, norm)
      backend.flush()
      await untilEnd()
      backend.normAdd(out, x, norm)
      return (await backend.endStep()).gpuMicros!
    }
    const least = await micros(() => Promise.resolve())
    expect(least).toBeGreaterThan(0)
    const started = performance.now()
    // Longer than the kernels take, by far.
    const parted = await micros(async () => {
      while (performance.now() - started < 50 + least / 50) await backend.debugRead(x)
    })
    expect(parted).toBeLessThan(1000 * (performance.now() - started) * 0.8)
  })

  it('reads and writes blocks in pieces; copies of a step that never ended are not those of the next', async () => {
    const backend = await openBackend({ maxBindingBytes: 65536 })
    const layout = {
      numBlocks: 16,
      blockSize: BLOCK_SIZE,
      layers: [
        { numKvHeads: 2, headDim: 32 },
        { numKvHeads: 2, headDim: 32 },
      ],
    }
    backend.createKvCache(layout)
    await backend.ready()
    const blockBytes = backend.kvBlockBytes(layout)
    const blocks = Array.from({ length: 16 }, (_, i) => (i * 5) % 16)
    // Bits of small f16 numbers; 16 blocks are two pieces.
    const bytes = Uint8Array.from({ length: 16 * blockBytes }, (_, i) => (i % 2 === 1 ? 0x3c : (i * 7) % 251))
    expect(bytes.length).toBeGreaterThan(65536)
    await backend.writeBlocks(blocks, bytes)
    expect(Buffer.from(await backend.readBlocks(blocks)).equals(bytes)).toBe(true)
    await expect(backend.readBlocks([3, 16])).rejects.toThrow('block 16 is outside the pool of 16')
    const read = async (block: number) => Buffer.from(await backend.readBlocks([block]))
    const before = await read(1)
    backend.copyBlock(0, 1, 16)
    backend.beginStep(plainStep(1))
    expect(() => backend.linear({ label: 'x', cols: 1 }, { label: 'y', cols: 1 }, {} as Matrix, {})).toThrow()
    backend.copyBlock(2, 3, 16)
    backend.beginStep(plainStep(1))
    await backend.endStep()
    expect((await read(1)).equals(before)).toBe(true)
    expect((await read(3)).equals(await read(2))).toBe(true)
  })

  it('refuses a matrix of which not even one tile can be bound', async () => {
    const backend = await openBackend({ maxBindingBytes: 1024 })
    await expect(backend.loadMatrix('wide', 32, COLS, randomMatrix('f32', 1, 32, COLS))).rejects.toThrow(
      /wide: 32 rows/,
    )
  })

  it('reports device time, by kernel when traced', async () => {
    const backend = await create({})({ ...backendOptions(), traceKernels: true })
    open.push(backend)
    if (!backend.info.hasTimestamps) return
    const x = backend.createActivation('x', COLS)
    const out = backend.createActivation('out', COLS)
    const w = await backend.loadMatrix('w', COLS, COLS, randomMatrix('f16', 1, COLS, COLS))
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await backend.ready()
    backend.beginStep(plainStep(3))
    backend.linear(out, x, w, {})
    backend.linear(out, x, w, { residual: true })
    backend.embed(x, w, 1)
    const { gpuMicros, kernels } = await backend.endStep()
    expect(kernels?.map(({ kernel, count }) => [kernel, count]).toSorted()).toEqual([
      ['embed', 1],
      [expect.stringContaining('linear'), 2],
    ])
    expect(gpuMicros).toBeGreaterThan(0)
  })

  it('rejects the steps in flight with DeviceLostError when the device goes, and every call after', async () => {
    const backend = await openBackend()
    const vocab = 4096
    const head: Matrix = await backend.loadMatrix('head', vocab, COLS, randomMatrix('f16', 1, vocab, COLS))
    const norm = { weight: backend.loadVector('norm', randomValues(3, COLS)), eps: 1e-5 }
    const x = backend.createActivation('x', COLS)
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await backend.ready()
    const step = () => {
      backend.beginStep(plainStep(8))
      backend.embed(x, head, 1)
      const rows = Array.from({ length: 8 }, (_, row) => ({ row, spec: GREEDY }))
      backend.sample(x, head, { norm, softcap: null, scale: 1 }, rows)
      return backend.endStep()
    }
    await step()
    const inFlight = [step(), step()]
    backend.device.destroy()
    for (const promise of inFlight) await expect(promise).rejects.toBeInstanceOf(DeviceLostError)
    await expect(step()).rejects.toBeInstanceOf(DeviceLostError)
    await expect(backend.readBlocks([0])).rejects.toBeInstanceOf(DeviceLostError)
    // A new device serves again in the same process.
    const next = await openBackend()
    expect((await products(next, 'f16', 2))[0]!.some((value) => value !== 0)).toBe(true)
  })
})
