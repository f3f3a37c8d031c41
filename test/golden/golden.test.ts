import { statSync } from 'node:fs'
import { expect, test } from 'vitest'
import { createLocalRunner } from '../../src/engine/runner/local.ts'
import { loadModel } from '../../src/engine/runner/model.ts'
import type { SequencePlan } from '../../src/engine/runner/runner.ts'
import { forcedDecode, GOLDEN_MODELS, goldenPath, goldenRequest, readGolden, runGolden } from './golden.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'

test.each(GOLDEN_MODELS)('%s gives the logits, log-probabilities and tokens of transformers', async (name) => {
  const report = await runGolden(name)
  expect(report.logitsNmse).toBeLessThan(1e-9)
  expect(report.logprobError).toBeLessThan(1e-4)
  expect(report.wrongTokens).toEqual([])
})

test('logits have the same bits for every chunk size, block size and block order', async () => {
  const golden = readGolden('llama')
  const ids = [...golden.prompt, ...golden.tokens]
  // Every row is sampled: as many sequences as the largest chunk needs rows.
  const request = { maxNumSeqs: 32 }
  const whole = await loadModel(goldenRequest('llama', request))
  const expected = await forcedDecode(whole, ids, 64, [0, 1, 2, 3])
  for (const [chunkSize, blockSize] of [
    [1, 16],
    [7, 4],
    [16, 16],
    [63, 1],
  ] as const) {
    const model = await loadModel(goldenRequest('llama', { ...request, blockSize }))
    const blocks = Array.from({ length: Math.ceil(ids.length / blockSize) }, (_, i) => (i * 29 + 3) % 64)
    expect((await forcedDecode(model, ids, chunkSize, blocks)).logits).toEqual(expected.logits)
    await model.backend.close()
  }
  await whole.backend.close()
})

test('weights are counted once, whatever many matrices their rows go to', async () => {
  const model = await loadModel(goldenRequest('qwen3_5'))
  const { size } = statSync(`${goldenPath('qwen3_5')}/model.safetensors`)
  // The file's header, and vectors, which are not counted, take the rest.
  expect(model.info.weightBytes).toBeLessThan(size)
  expect(model.info.weightBytes).toBeGreaterThan(0.85 * size)
  await model.backend.close()
})

test('sequences of one step, in prefill and decode, each get the tokens they get alone', async () => {
  const names = ['llama'] as const
  const golden = readGolden(names[0])
  const runner = createLocalRunner()
  const info = await runner.load(goldenRequest(names[0], { maxNumSeqs: 4 }))
  expect(info).toMatchObject({
    architecture: 'LlamaForCausalLM',
    vocabSize: 96,
    maxModelLen: 256,
    eosTokenIds: [2],
    bosTokenId: 1,
    numKvBlocks: 64,
    numLayers: 2,
  })
  // Three copies of the golden sequence at different progress: one decodes two tokens ahead, one is behind, one prefills in odd chunks.
  const ids = [...golden.prompt, ...golden.tokens]
  const starts = [40, 33, 0]
  const sizes = [1, 1, 9]
  const prefill = (sequence: number, from: number, to: number, sample: boolean): SequencePlan => ({
    tokenSource: { ids: Int32Array.from(ids.slice(from, to)) },
    startPosition: from,
    blockTable: Int32Array.of(0, 1, 2, 3).map((block) => sequence * 4 + block),
    sample: sample ? [GREEDY] : [],
    score: null,
  })
  await runner.execute({ stepId: 0, blockCopies: [], sequences: [prefill(0, 0, starts[0]!, false)] })
  await runner.execute({ stepId: 1, blockCopies: [], sequences: [prefill(1, 0, starts[1]!, false)] })
  for (let step = 2; step < 9; step++) {
    const sequences = starts.map((start, s) => prefill(s, start, start + sizes[s]!, true))
    const result = await runner.execute({ stepId: step, blockCopies: [], sequences })
    expect(result.stepId).toBe(step)
    starts.forEach((start, s) => {
      const end = start + sizes[s]!
      if (end >= golden.prompt.length)
        expect(result.sequences[s]!.tokens).toEqual([golden.tokens[end - golden.prompt.length]])
      starts[s] = Math.min(end, ids.length - sizes[s]!)
    })
  }
  await runner.close()
})
