/** Whole models on the cpu backend, against the values transformers gave and against themselves in other chunks. */
import { expect, test } from 'vitest'
import { loadModel } from '../../engine/runner/model.ts'
import { forcedDecode, GOLDEN_MODELS, goldenRequest, readGolden, runGolden } from '../../../test/golden/golden.ts'

const CPU = { device: 'cpu', threads: 2 } as const

test.each(GOLDEN_MODELS)('%s gives the logits, log-probabilities and tokens of transformers', async (name) => {
  const report = await runGolden(name, CPU)
  // KV is stored as f16 here: 2^-12 of rounding in every key and value, which these models' steep random logits show (with f32 KV: 1e-9, 1e-3).
  expect(report.logitsNmse).toBeLessThan(1e-5)
  expect(report.logprobError).toBeLessThan(5e-2)
  expect(report.wrongTokens).toEqual([])
})

test('logits have the same bits for every chunk size, block size and block order', async () => {
  const golden = readGolden('llama')
  const ids = [...golden.prompt, ...golden.tokens]
  const whole = await loadModel(goldenRequest('llama', CPU))
  const expected = await forcedDecode(whole, ids, 64, [0, 1, 2, 3])
  await whole.backend.close()
  for (const [chunkSize, blockSize, threads] of [
    [1, 16, 2],
    [7, 4, 3],
    [16, 16, 1],
    [63, 1, 2],
  ] as const) {
    const model = await loadModel(goldenRequest('llama', { device: 'cpu', threads, blockSize }))
    const blocks = Array.from({ length: Math.ceil(ids.length / blockSize) }, (_, i) => (i * 29 + 3) % 64)
    expect((await forcedDecode(model, ids, chunkSize, blocks)).logits).toEqual(expected.logits)
    await model.backend.close()
  }
})
