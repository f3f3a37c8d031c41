/**
 * Models of real shapes on GPUs that are not there (bench/lib/isa): what an adapter's limits allow is kept by construction, nothing is compiled
 * inside a request, and no submission outlasts a driver's watchdog. Nothing is computed.
 */
import { describe, expect, it } from 'vitest'
import { LEAST_LIMITS } from '../../bench/lib/isa/absent-gpu.mjs'
import { absentStep, loadAbsentModel, MODELS } from '../../bench/lib/isa/absent-model.mjs'
import type { SampleSpec } from '../../src/kernels/sample-spec.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'
import { attentionSources, headsPerItem } from '../../src/kernels/webgpu/attention-sources.ts'
import { type KernelSource, shaderText } from '../../src/kernels/webgpu/pipelines.ts'
import { isFull } from './fixtures.ts'

const names = Object.keys(MODELS)
const isEncoder = (name: string): boolean => MODELS[name]!['model_type'] !== undefined

/** Every way of sampling that has kernels or bindings of its own. */
const SPECS: readonly SampleSpec[] = [
  GREEDY,
  { ...GREEDY, temperature: 1 },
  { ...GREEDY, temperature: 1, topP: 0.9, logprobs: 20 },
  { ...GREEDY, temperature: 1, topK: 40, minP: 0.1 },
  { ...GREEDY, repetition: { penalty: 1.1, tokens: Int32Array.of(1) }, pending: { row: 0, deltas: null, delta: -1 } },
  { ...GREEDY, adjustments: { tokens: Int32Array.of(2), deltas: Float32Array.of(-Infinity) }, logprobs: 0 },
]
const masked = (vocab: number): SampleSpec => ({ ...GREEDY, mask: new Uint32Array(Math.ceil(vocab / 32)).fill(-1) })

describe('on an adapter with the least limits of WebGPU', () => {
  it.each(names)('%s loads and runs, decode and prefill', async (name) => {
    for (const weights of ['q4', ...(isFull ? ['f16', 'q8 g16 mins'] : [])]) {
      const model = await loadAbsentModel(name, weights, { limits: LEAST_LIMITS, context: 32_768 })
      if (isEncoder(name)) await model.run(absentStep(model, [[0, 500]]))
      else {
        await model.run(absentStep(model, [[30_720, 2048]]), [{ row: 2047, spec: GREEDY }])
        const rows = Array.from({ length: 16 }, (_, row) => ({ row, spec: GREEDY }))
        await model.run(
          absentStep(
            model,
            Array.from({ length: 16 }, (_, i) => [2000 * i, 1] as const),
          ),
          rows,
        )
      }
    }
  })

  it('says how many rows fit where a step has too many', async () => {
    const load = (name: string, rows: number) => loadAbsentModel(name, 'q4', { limits: LEAST_LIMITS, rows })
    const message = /^inner: 4096 rows of 57344 bytes exceed .* steps of 2340 rows fit \(--max-num-batched-tokens\)$/
    await expect(load('llama-3.1-8b', 4096)).rejects.toThrow(message)
    await expect(load('llama-3.1-8b', 2340)).resolves.toBeDefined()
    await expect(load('qwen3-30b-a3b', 2049)).rejects.toThrow(/^routing to 128 outputs: .*--max-num-batched-tokens/)
  })
})

/** Of all models loaded so far, by label. */
const kernels = new Map<string, string>()

describe('nothing is compiled inside a request', () => {
  const kvFormats = isFull ? (['f16', 'q8'] as const) : (['q8'] as const)
  const weights = isFull ? ['f32', 'f16', 'q8', 'q8 g16 mins', 'q4', 'q4 mins', 'mxfp4'] : ['q4']
  it.each(names.flatMap((name) => kvFormats.flatMap((kv) => weights.map((form) => [name, form, kv] as const))))(
    'of %s in %s with K and V in %s',
    async (name, form, kvFormat) => {
      const model = await loadAbsentModel(name, form, { kvFormat, context: 32_768, rows: 1024 })
      const compiled = [...model.gpu.kernels.keys()]
      for (const [label, text] of model.gpu.kernels) kernels.set(label, text)
      const { spec } = model
      for (const [start, tokens] of [
        [0, 1],
        [0, 5],
        [127, 1],
        [300, 1],
        [130, 12],
        [400, 25],
        [31_000, 40],
        [31_000, 1000],
      ] as const) {
        if (spec === null) {
          await model.run(absentStep(model, [[0, Math.min(tokens, 500)]]))
          continue
        }
        const specs = [...SPECS, masked(spec.vocabSize)]
        const samples = specs.slice(0, tokens).map((own, row) => ({ row, spec: own }))
        await model.run(absentStep(model, [[start, tokens]]), samples, [{ row: 0, target: 1, topN: 5 }])
        // Rows that give no output have left the step before its last layer ends.
        const outputRows = Int32Array.of(...(tokens > 1 ? [tokens - 1] : []))
        const sampled = outputRows.length === 0 ? [] : [{ row: 0, spec: GREEDY }]
        await model.run({ ...absentStep(model, [[start, tokens]]), outputRows }, sampled)
        const many = Array.from({ length: 16 }, (_, i) => [start, i % 3 === 0 ? Math.min(tokens, 20) : 1] as const)
        await model.run(
          absentStep(model, many),
          specs.map((own, row) => ({ row, spec: own })),
        )
      }
      expect([...model.gpu.kernels.keys()]).toEqual(compiled)
    },
  )
})

/** Bytes of workgroup memory that a shader declares. */
function workgroupBytes(label: string, text: string): number {
  const sizes = { f32: 4, u32: 4, i32: 4, 'atomic<u32>': 4, 'vec4<f32>': 16, 'vec4<u32>': 16 } as const
  let bytes = 0
  for (const [, type, length = '1'] of text.matchAll(/var<workgroup> \w+: (?:array<)?([\w<>]+?)(?:, (\d+)>)?;/g)) {
    const size = sizes[type as keyof typeof sizes]
    expect(size, `${label}: ${type}`).toBeDefined()
    bytes += size * Number(length)
  }
  return bytes
}

it('no kernel of theirs needs a workgroup of more than 256 threads or 16 KiB, f16 or subgroups', () => {
  expect(new Set([...kernels.keys()].map((label) => label.split(' ')[0])).size).toBeGreaterThan(20)
  for (const [label, text] of kernels) {
    expect(text, label).not.toMatch(/\benable\b|\bsubgroup/)
    const [, x = '', y = '1'] = /@workgroup_size\((\d+)(?:, (\d+))?\)/.exec(text) ?? []
    expect(Number(x) * Number(y), label).toBeGreaterThan(0)
    expect(Number(x) * Number(y), label).toBeLessThanOrEqual(256)
    expect(workgroupBytes(label, text), label).toBeLessThanOrEqual(16_384)
  }
})

it('attention needs at most 16 KiB of workgroup memory, whatever the shape of the heads', () => {
  const next = { NIBBLES: 1, GROUP16: 1, NORM: 0 }
  const shaders = new Map<string, KernelSource>()
  for (const headDim of [16, 32, 64, 80, 96, 128, 160, 192, 256, 512]) {
    for (let numHeads = 1; numHeads <= 128; numHeads++) {
      const shape = { numHeads, numKvHeads: 1, headDim, blockSize: 16, isKvQ8: true }
      expect(numHeads % headsPerItem(shape), `${numHeads} heads of ${headDim}`).toBe(0)
      const sources = attentionSources(headDim % 32 === 0 ? { ...shape, next } : shape)
      for (const source of sources) shaders.set(`${source.name} ${JSON.stringify(source.defines)}`, source)
    }
  }
  for (const [label, source] of shaders)
    expect(workgroupBytes(label, shaderText(source)), label).toBeLessThanOrEqual(16_384)
})

describe('submissions', () => {
  /** Operations of a prefill's products, 2 for each weight and row. */
  it.each(['llama-3.1-8b', 'gpt-oss-20b'])('of a long prompt of %s are many, and each is short', async (name) => {
    const rows = 2048
    const model = await loadAbsentModel(name, 'q4', { rows, context: 131_072 })
    const few = await model.run(absentStep(model, [[0, 32]]))
    expect(few.length).toBeLessThan(40)
    const late = await model.run(absentStep(model, [[120_000, rows]]))
    const layers = model.spec!.layers.length
    // Attention alone: 4 operations for each row, token and query dim, in layers without a window.
    const attention = model.spec!.layers.reduce((sum, { mixer }) => {
      const isFullLayer = mixer.kind === 'attention' && mixer.window === null
      return sum + (isFullLayer ? 4 * rows * 120_000 * model.spec!.numHeads * mixer.headDim : 0)
    }, 0)
    expect(late.length).toBeGreaterThanOrEqual(attention / 2e11)
    const parts = late.flat().filter(({ label }) => label.startsWith('attention '))
    expect(parts.length).toBeGreaterThan(10 * layers)
    // The pieces of an op cover its grid, once.
    const [first] = (await model.run(absentStep(model, [[0, 64]])))
      .flat()
      .filter(({ label }) => label.startsWith('attention '))
    const rowsPerItem = Number(/ TM=(\d+)/.exec(first!.label)![1])
    expect(parts.reduce((sum, { x }) => sum + x, 0)).toBe(layers * Math.ceil(rows / rowsPerItem))
  })
})

it('a prompt of which one row is sampled takes one row through the end of its last layer', async () => {
  const model = await loadAbsentModel('llama-3.2-1b', 'q4', { rows: 512 })
  const step = absentStep(model, [[0, 512]])
  const grids = async (outputRows: Int32Array, numSamples: number) => {
    const samples = Array.from({ length: numSamples }, (_, row) => ({ row, spec: GREEDY }))
    const dispatches = (await model.run({ ...step, outputRows }, samples)).flat()
    const count = (kernel: string) => dispatches.filter(({ label }) => label.startsWith(`${kernel} `)).length
    return { tiles: count('linear-matrix'), vectors: count('linear-vector'), moved: count('keep-outputs') }
  }
  const layers = model.spec!.layers.length
  // Four products a layer, and the head's. Behind K and V the last layer has three.
  expect(await grids(Int32Array.of(511), 1)).toEqual({ tiles: 4 * layers - 3, vectors: 4, moved: 2 })
  expect(await grids(new Int32Array(0), 0)).toEqual({ tiles: 4 * layers - 3, vectors: 0, moved: 0 })
  const all = Int32Array.from({ length: 512 }, (_, row) => row)
  expect(await grids(all, 1)).toEqual({ tiles: 4 * layers, vectors: 1, moved: 0 })
})
