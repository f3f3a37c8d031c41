/** The stored models on the other backends: KV in f16 and sums in f32, so within the tolerance of those; greedy tokens wherever the lead is clear. */
import { describe, expect, test } from 'vitest'
import { GOLDEN_MODELS, runGolden } from './golden.ts'

const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full' || process.env['MINISERVE_TEST_LEVEL'] === 'soak'
const { hasAdapter } = await import('../../src/kernels/webgpu/device.ts')
const hasWebGpu = await hasAdapter()

/** One of each kind of layer, rope and norm; the full level runs all. Pipelines are compiled for every model's shapes, which takes seconds in software. */
const WEBGPU_MODELS = isFull ? GOLDEN_MODELS : ['gemma3-old', 'qwen3_5', 'gpt-oss-mxfp4']

/** Errors at most: where weights are codes, activations meet them in 8 bits. */
const mostErrors = (name: string) =>
  name.endsWith('mxfp4') ? { logitsNmse: 1e-3, logprobError: 0.3 } : { logitsNmse: 1e-5, logprobError: 0.05 }

async function check(name: string, device: 'cpu' | 'webgpu'): Promise<void> {
  const report = await runGolden(name, { device, threads: 2 })
  expect(report.wrongTokens).toEqual([])
  const most = mostErrors(name)
  expect(report.logitsNmse).toBeLessThan(most.logitsNmse)
  expect(report.logprobError).toBeLessThan(most.logprobError)
}

describe('cpu', () => {
  test.each(GOLDEN_MODELS)('%s', (name) => check(name, 'cpu'))
})

describe.skipIf(!hasWebGpu)('webgpu (needs an adapter)', () => {
  test.each(WEBGPU_MODELS)('%s', (name) => check(name, 'webgpu'), 120_000)
})
