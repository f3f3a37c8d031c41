import { describe, expect, it } from 'vitest'
import { GREEDY } from '../../../test/engine/requests.ts'
import type { SamplingParams } from '../request.ts'
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
    expect(plain.dependsOnTokens).toBe(false)
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
    expect(penalised.dependsOnTokens).toBe(true)
    for (const token of [9, 9, 8]) penalised.push(token)
    const spec = penalised.spec(3, null)
    expect(adjustmentsOf(spec)).toEqual({ 9: 1 - 0.5 - 0.5, 8: -0.75 })
    expect([...(spec.repetition?.tokens ?? [])].sort()).toEqual([5, 6, 8, 9])
    expect(adjustmentsOf(penalised.spec(4, null, [8, 4]))).toEqual({ 9: 0, 8: -1, 4: -0.75 })
    expect(adjustmentsOf(penalised.spec(3, null))).toEqual(adjustmentsOf(spec))
  })

  it('refuse a bias on a token that is not in the vocabulary', () => {
    expect(() => state({ logitBias: { 100: 1 } })).toThrow(
      expect.objectContaining({ code: 'invalid_request', param: 'logit_bias' }),
    )
  })
})
