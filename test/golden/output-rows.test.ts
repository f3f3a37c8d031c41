/**
 * Rows that are neither sampled nor scored leave a step with the last layer that writes K and V or a state. What the others give has the bits that it has
 * in steps that sample every row, which none leaves.
 */
import { fileURLToPath } from 'node:url'
import { describe, expect, test, vi } from 'vitest'
import { type LoadedModel, loadModel } from '../../src/engine/runner/model.ts'
import type { ModelRequest, SequencePlan } from '../../src/engine/runner/runner.ts'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'
import { type ForcedOutput, forcedDecode, GOLDEN_MODELS, goldenRequest, readGolden } from './golden.ts'

const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full' || process.env['MINISERVE_TEST_LEVEL'] === 'soak'

/** Layers that share K and V, streams, per-layer embeddings; experts and sinks; kinds of states. */
const MODELS = isFull ? GOLDEN_MODELS : ['gemma3n', 'gpt-oss-mxfp4', 'granite4-hybrid', 'qwen3_5']
/** Pipelines of more shapes take long to compile in software. */
const WEBGPU_MODELS = isFull ? GOLDEN_MODELS : ['gpt-oss-mxfp4']

const A = [5, 2, 7]
const B = [1, 3, 0]
const C = [9, 8, 11]

/** A sequence of a step: rows `start` .. `end` - 1 of the text, the last `numSamples` sampled, the first `numScores` scored. */
interface Part {
  readonly blocks: readonly number[]
  readonly slot: number
  readonly start: number
  readonly end: number
  readonly numSamples: number
  readonly numScores?: number
}

const STEPS: readonly (readonly Part[])[] = [
  [{ blocks: A, slot: 0, start: 0, end: 9, numSamples: 0 }],
  [
    { blocks: A, slot: 0, start: 9, end: 20, numSamples: 1 },
    { blocks: B, slot: 1, start: 0, end: 7, numSamples: 0 },
  ],
  [
    { blocks: A, slot: 0, start: 20, end: 21, numSamples: 1 },
    { blocks: B, slot: 1, start: 7, end: 16, numSamples: 2 },
    { blocks: C, slot: 2, start: 0, end: 19, numSamples: 1, numScores: 5 },
  ],
  [
    { blocks: C, slot: 2, start: 19, end: 26, numSamples: 4, numScores: 5 },
    { blocks: A, slot: 0, start: 21, end: 25, numSamples: 1 },
  ],
]

async function check(model: LoadedModel, name: string, adapter?: number): Promise<void> {
  const { prompt, tokens } = readGolden(name)
  const ids = [...prompt, ...tokens].slice(0, 27)
  const { vocabSize, numStateSlots } = model.info
  // One run for each adapter that a sequence of the steps has.
  const expected = new Map<number | undefined, ForcedOutput>()
  for (const of of new Set([adapter, undefined]))
    expected.set(of, await forcedDecode(model, ids, 8, [20, 21, 22, 23], of))
  for (const [stepId, parts] of STEPS.entries()) {
    const adapterOf = ({ slot }: Part) => (slot === 1 ? undefined : adapter)
    const sequences = parts.map((part): SequencePlan => {
      const { blocks, slot, start, end, numSamples, numScores = 0 } = part
      const own = adapterOf(part)
      return {
        tokenSource: { ids: Int32Array.from(ids.slice(start, end)) },
        startPosition: start,
        blockTable: Int32Array.from(blocks),
        ...(own === undefined ? {} : { adapter: own }),
        ...(numStateSlots === 0 ? {} : { state: { read: start === 0 ? -1 : slot, write: slot } }),
        sample: Array.from({ length: numSamples }, () => GREEDY),
        score:
          numScores === 0 ? null : { targets: Int32Array.from(ids.slice(start + 1, start + 1 + numScores)), topN: 2 },
      }
    })
    const { input, samples, scores } = model.layout.plan({ stepId, blockCopies: [], sequences })
    model.backend.beginStep(input)
    model.decoder.layers(input)
    model.decoder.outputs(samples, scores)
    const output = await model.backend.endStep({ logits: true })
    const sampled = parts.flatMap((part) =>
      Array.from(
        { length: part.numSamples },
        (_, i) => [expected.get(adapterOf(part))!, part.end - part.numSamples + i] as const,
      ),
    )
    expect(output.logits?.length ?? 0).toBe(sampled.length * vocabSize)
    for (const [i, [alone, position]] of sampled.entries()) {
      expect(output.logits?.slice(i * vocabSize, (i + 1) * vocabSize)).toEqual(alone.logits[position])
      expect(output.sampled[i]).toBe(alone.greedy[position])
    }
    const scored = parts.flatMap((part) =>
      expected.get(adapterOf(part))!.scores.slice(part.start, part.start + (part.numScores ?? 0)),
    )
    expect(output.scores).toEqual(scored)
  }
}

async function run(name: string, overrides: Partial<ModelRequest>, adapter?: number): Promise<void> {
  const model = await loadModel(goldenRequest(name, overrides))
  try {
    await check(model, name, adapter)
  } finally {
    await model.backend.close()
  }
}

const ADAPTERS = [{ name: 'some', path: fileURLToPath(new URL('./adapters/llama-some', import.meta.url)) }]

describe.each(['reference', 'cpu'] as const)('%s', (device) => {
  // Experts and states leave their rows on both in the same way.
  const models = isFull || device === 'cpu' ? MODELS : ['gemma3n']
  test.each(models)('%s', (name) => run(name, { device, threads: 2 }))
  test('with an adapter', () => run('llama', { device, threads: 2, adapters: ADAPTERS }, 0))
})

test('cpu, in several memories', () => run('gemma3n', { device: 'cpu', threads: 2, cpuMemoryBytes: 60_000 }))

describe.skipIf(!(await hasAdapter()))('webgpu (needs an adapter)', () => {
  test.each(WEBGPU_MODELS)('%s', (name) => run(name, { device: 'webgpu' }), 120_000)
  test.runIf(isFull)('with an adapter', () => run('llama', { device: 'webgpu', adapters: ADAPTERS }, 0), 120_000)
})

/** The matrices that a step of gemma3n's first tokens multiplies with: by all rows, and by its outputs alone. */
async function products(numSamples: number) {
  const model = await loadModel(goldenRequest('gemma3n'))
  try {
    const [linear, keep] = [vi.spyOn(model.backend, 'linear'), vi.spyOn(model.backend, 'keepOutputs')]
    const { input } = model.layout.plan({
      stepId: 1,
      blockCopies: [],
      sequences: [
        {
          tokenSource: { ids: Int32Array.from(readGolden('gemma3n').prompt.slice(0, 12)) },
          startPosition: 0,
          blockTable: Int32Array.from(A),
          sample: Array.from({ length: numSamples }, () => GREEDY),
          score: null,
        },
      ],
    })
    model.backend.beginStep(input)
    model.decoder.layers(input)
    await model.backend.endStep()
    const keptAt = keep.mock.invocationCallOrder[0] ?? Infinity
    const labels = (isKept: boolean) =>
      linear.mock.calls.flatMap(([, , { label }], i) =>
        linear.mock.invocationCallOrder[i]! > keptAt === isKept ? [label.replace(/^.*?(layers|altup)/, '$1')] : [],
      )
    return { ofAll: labels(false), ofOutputs: labels(true) }
  } finally {
    await model.backend.close()
  }
}

test('the layers behind the last one with K and V of its own compute outputs only, and nothing where a step has none', async () => {
  const { ofAll, ofOutputs } = await products(1)
  // Six layers, of which the last three share the K and V of others.
  expect(ofAll.at(-1)).toMatch(/^layers\.2\.self_attn\.q_proj\+.*v_proj$/)
  expect(ofOutputs[0]).toBe('layers.2.self_attn.o_proj')
  expect(ofOutputs).toContain('layers.2.mlp.down_proj')
  for (const layer of [3, 4, 5]) expect(ofOutputs).toContain(`layers.${layer}.self_attn.q_proj`)
  expect(await products(0)).toEqual({ ofAll, ofOutputs: [] })
})
