/** Compares whole models on the cpu backend with themselves under other chunk sizes; test/golden/backends.test.ts compares them with transformers. */
import { expect, test } from 'vitest'
import { loadModel } from '../../engine/runner/model.ts'
import { forcedDecode, goldenRequest, readGolden } from '../../../test/golden/golden.ts'

const CPU = { device: 'cpu', threads: 2 } as const

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
