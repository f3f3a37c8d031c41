import { expect, test } from 'vitest'
import type { SampleSpec, StepPlan, StepResult } from './runner.ts'
import { readPlan, readResult, WordWriter, writePlan, writeResult } from './step-codec.ts'

const SPEC: SampleSpec = {
  temperature: 0.7,
  topK: 2 ** 40,
  topP: 0.95,
  minP: 1e-9,
  seed: 2 ** 32 - 1,
  choice: 3,
  repetition: null,
  adjustments: null,
  pending: null,
  mask: null,
  logprobs: -1,
}

const SHAPED: SampleSpec = {
  ...SPEC,
  repetition: { penalty: 1.1, tokens: Int32Array.of(5, 6) },
  adjustments: { tokens: Int32Array.of(9, 8, 7), deltas: Float32Array.of(-Infinity, 0.1, -100) },
  pending: { row: 3, delta: -0.5, deltas: Float32Array.of(1, 2, 3) },
  mask: Uint32Array.of(0xffff_ffff, 0x8000_0001),
  logprobs: 20,
}

function planOf(numTokens: number): StepPlan {
  return {
    stepId: 77,
    blockCopies: [{ source: 1, destination: 2, numTokens: 9 }],
    sequences: [
      {
        tokenSource: { ids: Int32Array.from({ length: numTokens }, (_, i) => i * 3) },
        startPosition: 16,
        blockTable: Int32Array.of(4, 0, 2),
        sample: [],
        score: { targets: Int32Array.of(1, 2, 3), topN: 0 },
      },
      {
        tokenSource: { fromPreviousStep: 4 },
        startPosition: 0,
        // Views of larger memory, which the scheduler may pass.
        blockTable: Int32Array.of(9, 8, 7, 6).subarray(1, 3),
        sample: [SPEC, { ...SHAPED, mask: Uint32Array.of(1, 2, 3).subarray(1) }],
        score: null,
      },
    ],
  }
}

test('a plan of any content and size is read as it was written', () => {
  const writer = new WordWriter()
  const first = writer.buffer
  for (const plan of [planOf(1), planOf(5000), planOf(0)]) {
    writePlan(writer, plan)
    expect(readPlan(writer.buffer)).toEqual({ plan, awaitsMasks: false })
  }
  expect(writer.buffer).not.toBe(first)
})

test('arrays that are uploaded to a device are not in shared memory', () => {
  const writer = new WordWriter()
  writePlan(writer, planOf(1))
  const [, second] = readPlan(writer.buffer).plan.sequences
  const { mask, adjustments, repetition } = second!.sample[1]!
  for (const array of [mask!, adjustments!.tokens, adjustments!.deltas, repetition!.tokens])
    expect(array.buffer).toBeInstanceOf(ArrayBuffer)
})

test('a result is read as it was written; only log-probabilities, scores and kernels are cloned', () => {
  const detail = { logprob: -0.5, rank: 1, topTokens: [3], topLogprobs: [-0.5] }
  const plain: StepResult = {
    stepId: 5,
    poolId: 3,
    sequences: [
      { tokens: [7], logprobs: [null], scores: [] },
      { tokens: [], logprobs: [], scores: [] },
      { tokens: [1, 2, 3], logprobs: [null, null, null], scores: [] },
    ],
    gpuMicros: null,
    kernels: null,
    computeMs: 1.25,
  }
  const detailed: StepResult = {
    ...plain,
    sequences: [
      { tokens: [7], logprobs: [detail], scores: [] },
      { tokens: [], logprobs: [], scores: [detail, detail] },
    ],
    gpuMicros: 12.5,
    kernels: [{ kernel: 'linear', micros: 3, count: 2 }],
  }
  const writer = new WordWriter()
  expect(writeResult(writer, plain)).toBeNull()
  expect(readResult(writer.buffer, null)).toEqual(plain)
  const details = writeResult(writer, detailed)
  expect(details).not.toBeNull()
  expect(readResult(writer.buffer, structuredClone(details))).toEqual(detailed)
})
