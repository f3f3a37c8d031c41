import { expect, it } from 'vitest'
import { parseSamplingDefaults } from './sampling-defaults.ts'

it.each([
  [
    { do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, repetition_penalty: 1.05 },
    { temperature: 0.6, topK: 20, topP: 0.95, minP: 0.1, repetitionPenalty: 1.05 },
  ],
  // Written by tools that reset what greedy decoding does not use.
  [{ do_sample: false, temperature: null, top_p: null }, { temperature: 0 }],
  [
    { do_sample: false, temperature: 0.6, top_p: 0.9 },
    { temperature: 0, topP: 0.9 },
  ],
  [
    { temperature: 'hot', top_k: -1, top_p: 0.9 },
    { topK: 0, topP: 0.9 },
  ],
  [{ temperature: -1, top_p: 7, min_p: [], repetition_penalty: 0, top_k: 2.5 }, {}],
  [{ do_sample: 'yes', temperature: 0.5 }, { temperature: 0.5 }],
  [{}, {}],
])('%j recommends %j', (file, expected) => {
  expect(parseSamplingDefaults(file)).toEqual(expected)
})
