/** Adapters made by make_adapters.py, against PEFT: logits, log-probabilities and greedy tokens, on every backend; and several in one step. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { createLocalRunner } from '../../src/engine/runner/local.ts'
import { loadModel } from '../../src/engine/runner/model.ts'
import type { ModelRequest, SequencePlan } from '../../src/engine/runner/runner.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'
import { compareGolden, forcedDecode, type Golden, goldenPath, goldenRequest } from './golden.ts'

const { hasAdapter } = await import('../../src/kernels/webgpu/device.ts')
const hasWebGpu = await hasAdapter()
const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full' || process.env['MINISERVE_TEST_LEVEL'] === 'soak'

const FOLDER = fileURLToPath(new URL('./adapters/', import.meta.url))
const files = readdirSync(FOLDER).sort()
const NAMES = files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -5))
const ALSO_GGUF = files.filter((file) => file.endsWith('.gguf'))

interface AdapterGolden extends Golden {
  /** That the adapter is for. */
  readonly model: string
}

const read = (name: string): AdapterGolden =>
  JSON.parse(readFileSync(`${FOLDER}${name.replace('.gguf', '')}.json`, 'utf8')) as AdapterGolden

/** @param adapter folder or file below adapters/ */
async function run(adapter: string, overrides: Partial<ModelRequest> = {}) {
  const golden = read(adapter)
  const adapters = [{ name: 'own', path: `${FOLDER}${adapter}` }]
  const model = await loadModel(goldenRequest(golden.model, { maxNumSeqs: 17, adapters, ...overrides }))
  try {
    const output = await forcedDecode(model, [...golden.prompt, ...golden.tokens], 17, [5, 2, 7, 1, 3, 0], 0)
    return compareGolden(golden, output)
  } finally {
    await model.backend.close()
  }
}

describe('reference', () => {
  test.each([...NAMES, ...ALSO_GGUF])('%s gives what PEFT gives', async (name) => {
    const report = await run(name)
    expect(report.logitsNmse).toBeLessThan(1e-9)
    expect(report.logprobError).toBeLessThan(1e-4)
    expect(report.wrongTokens).toEqual([])
  })

  test.each([
    ['llama-all', 'llama-bf16.gguf'],
    ['llama-all.gguf', 'llama-bf16.gguf'],
  ])('%s adds to a GGUF model what it adds to the same checkpoint', async (adapter, file) => {
    const golden = read(adapter)
    const outputs = []
    for (const path of [goldenPath('llama-bf16'), fileURLToPath(new URL(`./gguf/${file}`, import.meta.url))]) {
      const adapters = [{ name: 'own', path: `${FOLDER}${adapter}` }]
      const model = await loadModel(goldenRequest('llama', { path, maxNumSeqs: 17, adapters }))
      outputs.push((await forcedDecode(model, golden.prompt, 17, [0, 1, 2, 3], 0)).logits)
      await model.backend.close()
    }
    expect(outputs[0]).toEqual(outputs[1])
  })
})

async function check(name: string, device: 'cpu' | 'webgpu'): Promise<void> {
  const report = await run(name, { device, threads: 2 })
  expect(report.wrongTokens).toEqual([])
  expect(report.logitsNmse).toBeLessThan(1e-5)
  expect(report.logprobError).toBeLessThan(0.05)
}

describe('cpu', () => {
  test.each(NAMES)('%s', (name) => check(name, 'cpu'))
})

/** Pipelines are compiled for every model's shapes, which takes seconds in software; the full level runs all. */
describe.skipIf(!hasWebGpu)('webgpu (needs an adapter)', () => {
  test.each(isFull ? NAMES : ['llama-patterns'])('%s', (name) => check(name, 'webgpu'), 120_000)
})

/** Three adapters and the model by itself, over the same prompt, in one step after another: each as it is alone, bit by bit. */
async function mixed(device: ModelRequest['device']): Promise<void> {
  const adapters = ['llama-all', 'llama-patterns', 'llama-some'].map((name) => ({ name, path: `${FOLDER}${name}` }))
  const { prompt } = read('llama-all')
  const chosen = [undefined, 0, 1, 2]
  const plan = (adapter: number | undefined, place: number, from: number, to: number): SequencePlan => ({
    tokenSource: { ids: Int32Array.from(prompt.slice(from, to)) },
    startPosition: from,
    blockTable: Int32Array.of(0, 1, 2).map((block) => place * 3 + block),
    ...(adapter === undefined ? {} : { adapter }),
    sample: [{ ...GREEDY, logprobs: 20 }],
    score: { targets: Int32Array.from(prompt.slice(from + 1, to + 1)), topN: 20 },
  })
  const runner = createLocalRunner()
  await runner.load(goldenRequest('llama', { device, threads: 2, adapters, maxNumBatchedTokens: 160 }))
  let stepId = 0
  const execute = async (sequences: readonly SequencePlan[]) =>
    (await runner.execute({ stepId: stepId++, blockCopies: [], sequences })).sequences
  const cuts = [0, 31, 32, 39] as const
  const together = []
  for (const [i, to] of cuts.slice(1).entries())
    together.push(await execute(chosen.map((adapter, place) => plan(adapter, place, cuts[i] ?? 0, to))))
  for (const [place, adapter] of chosen.entries()) {
    for (const [i, to] of cuts.slice(1).entries())
      expect(await execute([plan(adapter, place, cuts[i] ?? 0, to)])).toEqual([together[i]?.[place]])
  }
  const scores = together[0]?.map((sequence) => sequence.scores.map(({ logprob }) => logprob))
  expect(new Set(scores?.map(String)).size).toBe(chosen.length)
  await runner.close()
}

test('a step of several adapters and none gives each sequence the bits it has alone', async () => {
  for (const device of ['reference', 'cpu'] as const) await mixed(device)
})

test.skipIf(!hasWebGpu)('the same on WebGPU', () => mixed('webgpu'), 120_000)
