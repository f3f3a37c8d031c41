import { describe, expect, it } from 'vitest'
import { createByteTokenizer } from '../../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { ScriptedRunner } from '../../../test/engine/scripted-runner.ts'
import { acceptDrafts } from '../requests/choice.ts'
import { createEngine } from '../engine.ts'
import { PromptLookup } from './speculate.ts'

describe('prompt lookup', () => {
  it('guesses what followed the same three tokens before', () => {
    expect(new PromptLookup(8).propose(Int32Array.of(1, 2, 3, 7, 8, 9, 1, 2, 3))).toEqual([7, 8])
    expect(new PromptLookup(8).propose(Int32Array.of(1, 2, 3, 7, 8, 9, 0, 2, 3))).toEqual([])
    expect(new PromptLookup(8).propose(Int32Array.of(1, 2, 3))).toEqual([])
    expect(new PromptLookup(1).propose(Int32Array.of(5, 5, 5, 5, 5))).toEqual([5])
  })

  it('drafts more while its guesses hold and pauses when they do not', () => {
    const lookup = new PromptLookup(8)
    const tokens = Int32Array.from({ length: 60 }, (_, i) => i % 20)
    expect(lookup.propose(tokens)).toHaveLength(2)
    lookup.record(2, 2, 60)
    lookup.record(4, 4, 60)
    expect(lookup.propose(tokens)).toHaveLength(8)
    lookup.record(8, 0, 60)
    expect(lookup.propose(tokens)).toEqual([])
    const later = Int32Array.from({ length: 64 }, (_, i) => i % 20)
    expect(lookup.propose(later)).toHaveLength(1)
  })

  it('accepts drafts while they equal the samples, and the sample after them', () => {
    expect(acceptDrafts([], [4])).toEqual([4])
    expect(acceptDrafts([4, 5], [4, 5, 6])).toEqual([4, 5, 6])
    expect(acceptDrafts([4, 5], [4, 9, 6])).toEqual([4, 9])
    expect(acceptDrafts([4, 5], [3, 5, 6])).toEqual([3])
  })
})

describe('the engine with speculation', () => {
  const start = (speculation: boolean, runAhead: 0 | 1) => {
    // Logits follow from the last two tokens alone, so greedy texts run into circles.
    const runner = new ScriptedRunner({
      numBlocks: 64,
      blockSize: 4,
      vocabSize: 259,
      maxNumBatchedTokens: 64,
      order: 2,
      isDeferred: true,
    })
    const options = {
      modelName: 'scripted',
      maxNumSeqs: 8,
      prefixCaching: true,
      runAhead,
      speculation,
      maxQueuedRequests: 64,
      maxQueuedTokens: 4096,
    }
    const engine = createEngine({
      runner,
      modelInfo: runner.modelInfo,
      tokenizer: createByteTokenizer(),
      chatTemplate: null,
      options,
    })
    return { engine, runner }
  }
  // A narrow alphabet, so that circles are short.
  const logitBias = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [97 + i, 90]))
  const requests = () => [
    request({ maxTokens: 120, logprobs: 1, sampling: { logitBias } }),
    request({ prompts: [{ text: 'other' }], maxTokens: 120, sampling: { logitBias, temperature: 0.7, seed: 5 } }),
    request({
      prompts: [{ text: 'third' }],
      maxTokens: 90,
      sampling: { logitBias, presencePenalty: 0.4, repetitionPenalty: 1.1 },
    }),
    request({ prompts: [{ text: 'stop' }], maxTokens: 120, stop: ['abc', 'ca'], sampling: { logitBias } }),
  ]

  it('gives the same texts in fewer steps, with its guesses counted', async () => {
    const plain = start(false, 0)
    const expected = await Promise.all(requests().map((each) => collect(plain.engine, each)))
    const single = start(false, 0)
    await collect(single.engine, requests()[0] ?? request({}))
    for (const runAhead of [0, 1] as const) {
      const drafting = start(true, runAhead)
      const results = await Promise.all(requests().map((each) => collect(drafting.engine, each)))
      expect(results.map(({ tokenIds, texts, reasons }) => ({ tokenIds, texts, reasons }))).toEqual(
        expected.map(({ tokenIds, texts, reasons }) => ({ tokenIds, texts, reasons })),
      )
      const last = results[0]?.events.at(-1)
      if (last?.type !== 'finished') throw new Error('not finished')
      const { numDraftTokens, numAcceptedTokens, numGeneratedTokens, decodeSteps } = last.counters
      expect(numAcceptedTokens).toBeGreaterThan(40)
      expect(numDraftTokens).toBeGreaterThanOrEqual(numAcceptedTokens)
      expect(decodeSteps).toBe(numGeneratedTokens - 1 - numAcceptedTokens)
      expect(drafting.engine.stats().numFreeBlocks).toBe(64)
      const alone = start(true, runAhead)
      await collect(alone.engine, requests()[0] ?? request({}))
      expect(alone.runner.numSteps).toBeLessThan(single.runner.numSteps * 0.7)
      await Promise.all([drafting.engine.close(), alone.engine.close()])
    }
    await Promise.all([plain.engine.close(), single.engine.close()])
  })

  it('learns from the tokens that come how often its guesses hold, verified or not', () => {
    const lookup = new PromptLookup(8)
    const before = lookup.acceptance
    const tokens = Array.from({ length: 60 }, (_, i) => i % 12)
    for (let length = 13; length <= 50; length++) lookup.propose(Int32Array.from(tokens.slice(0, length)))
    expect(lookup.acceptance).toBeGreaterThan(0.95)
    expect(lookup.acceptance).toBeGreaterThan(before)
    expect(lookup.propose(Int32Array.from(tokens.slice(0, 51)))).toHaveLength(8)
    lookup.record(8, 0, 51)
    expect(lookup.acceptance).toBeLessThan(0.95)
  })
})
