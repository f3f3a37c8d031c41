import { describe, expect, it } from 'vitest'
import { GREEDY } from '../../../test/engine/requests.ts'
import type { SamplingParams } from '../request.ts'
import type { SampleSpec } from '../../kernels/sample-spec.ts'
import { resolvePending } from '../../kernels/sampling.ts'
import { SamplingState } from './sampling.ts'

function state(params: Partial<SamplingParams> = {}, fields: { minTokens?: number; endTokenIds?: number[] } = {}) {
  const options = {
    params: { ...GREEDY, ...params },
    seed: 1,
    choice: 0,
    minTokens: 0,
    endTokenIds: [],
    logprobs: -1,
    vocabSize: 100,
    ...fields,
  }
  return new SamplingState(options, [5, 6, 5])
}

const adjustmentsOf = (spec: ReturnType<SamplingState['spec']>) => {
  const { tokens = [], deltas = [] } = spec.adjustments ?? {}
  return Object.fromEntries([...tokens].map((token, i) => [token, deltas[i]]))
}

describe('sample specs', () => {
  it('are compiled once where nothing depends on the tokens', () => {
    const plain = state({ temperature: 0.5 })
    plain.push(3)
    expect(plain.spec(1, null)).toBe(plain.spec(7, null))
    expect(plain.spec(1, null, [], 4).pending).toBeNull()
    expect(plain.spec(0, Uint32Array.of(1)).mask).toEqual(Uint32Array.of(1))
  })

  it('ban end tokens until enough were generated, over any bias', () => {
    const least = state({ logitBias: { 2: 9, 7: -1 } }, { minTokens: 2, endTokenIds: [2] })
    expect(adjustmentsOf(least.spec(1, null))).toEqual({ 2: -Infinity, 7: -1 })
    expect(adjustmentsOf(least.spec(2, null))).toEqual({ 2: 9, 7: -1 })
  })

  it('penalise output tokens by presence and count, prompt tokens too by repetition, drafts as if they were there', () => {
    const penalised = state({
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      repetitionPenalty: 1.5,
      logitBias: { 9: 1 },
    })
    for (const token of [9, 9, 8]) penalised.push(token)
    const spec = penalised.spec(3, null)
    expect(adjustmentsOf(spec)).toEqual({ 9: 1 - 0.5 - 0.5, 8: -0.75 })
    expect([...(spec.repetition?.tokens ?? [])].sort()).toEqual([5, 6, 8, 9])
    expect(adjustmentsOf(penalised.spec(4, null, [8, 4]))).toEqual({ 9: 0, 8: -1, 4: -0.75 })
    expect(adjustmentsOf(penalised.spec(3, null))).toEqual(adjustmentsOf(spec))
  })

  it('say of a token that is not known yet what it will change, to the bit', () => {
    const params: Partial<SamplingParams>[] = [
      { presencePenalty: 0.3, frequencyPenalty: 0.7, repetitionPenalty: 1.1, logitBias: { 9: 1.7, 3: -0.2 } },
      { repetitionPenalty: 1.3 },
      { frequencyPenalty: -0.7 },
      { presencePenalty: 0.3, frequencyPenalty: -0.3, logitBias: { 2: 1 } },
    ]
    for (const given of params) {
      for (const next of [2, 3, 5, 8, 9, 50]) {
        const fields = { minTokens: 4, endTokenIds: [2] }
        const [known, unknown] = [state(given, fields), state(given, fields)]
        for (const token of [9, 9, 8]) for (const each of [known, unknown]) each.push(token)
        const pending = unknown.spec(4 - (next % 2), null, [], 1)
        known.push(next)
        const resolved = resolvePending(pending, [7, next])
        const expected = known.spec(4 - (next % 2), null)
        const changes = (spec: SampleSpec) => Object.entries(adjustmentsOf(spec)).filter(([, delta]) => delta !== 0)
        expect(changes(resolved)).toEqual(changes(expected))
        const listed = (spec: SampleSpec) => [...(spec.repetition?.tokens ?? [])].sort()
        expect(listed(resolved)).toEqual(listed(expected))
        expect(resolved.pending).toBeNull()
      }
    }
  })

  it('refuse a bias on a token that is not in the vocabulary', () => {
    expect(() => state({ logitBias: { 100: 1 } })).toThrow(
      expect.objectContaining({ code: 'invalid_request', param: 'logit_bias' }),
    )
  })
})
