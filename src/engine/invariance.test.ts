/** What a request gets depends on the request alone: bit-equal log-probabilities on a real model, however its steps fall. */
import { describe, expect, it } from 'vitest'
import { createByteTokenizer } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { goldenRequest } from '../../test/golden/golden.ts'
import { createEngine } from './engine.ts'
import type { EngineOptions } from './engine.ts'
import type { Engine } from './request.ts'
import { createLocalRunner } from './runner/local.ts'
import type { ModelRequest } from './runner/runner.ts'

async function open(options: Partial<EngineOptions> = {}, model: Partial<ModelRequest> = {}): Promise<Engine> {
  const runner = createLocalRunner()
  const modelInfo = await runner.load(goldenRequest('llama', { maxNumSeqs: 16, ...model }))
  const defaults = {
    modelName: 'llama',
    prefixCaching: true,
    runAhead: 1,
    speculation: false,
    maxQueuedRequests: 64,
    maxQueuedTokens: 65536,
  } as const
  return createEngine({
    runner,
    modelInfo,
    tokenizer: createByteTokenizer(),
    chatTemplate: null,
    options: { ...defaults, maxNumSeqs: model.maxNumSeqs ?? 16, ...options },
  })
}

const prompt = Array.from({ length: 53 }, (_, i) => (i * 37 + 11) % 96)
const measured = (fields: Parameters<typeof request>[0] = {}) =>
  request({
    prompts: [{ ids: prompt }],
    maxTokens: 20,
    ignoreEos: true,
    logprobs: 5,
    ...fields,
    sampling: { temperature: 0.8, topP: 0.9, seed: 3 },
  })

/** Tokens with the log-probabilities of each and its alternatives: every number the logits decide. */
async function measure(engine: Engine, fields: Parameters<typeof request>[0] = {}) {
  const { events } = await collect(engine, measured(fields))
  return events
    .flatMap((event) => (event.type === 'token' ? (event.logprobs ?? []) : []))
    .map(({ tokenId, detail }) => ({ tokenId, ...detail }))
}

async function expected() {
  const engine = await open({ prefixCaching: false, runAhead: 0 }, { maxNumSeqs: 1 })
  const [generated, scored] = [
    await measure(engine),
    await collect(engine, measured({ maxTokens: 0, promptLogprobs: 3 })),
  ]
  await engine.close()
  return { generated, scored: scored.events.find((event) => event.type === 'promptLogprobs') }
}

const reference = expected()

describe('bit-equal results', () => {
  it.each([16, 17, 23, 64])('with chunks of at most %i tokens', async (maxNumBatchedTokens) => {
    const engine = await open({}, { maxNumBatchedTokens })
    expect(await measure(engine)).toEqual((await reference).generated)
    const scored = await collect(engine, measured({ maxTokens: 0, promptLogprobs: 3 }))
    expect(scored.events.find((event) => event.type === 'promptLogprobs')).toEqual((await reference).scored)
    await engine.close()
  })

  it('after partial and full hits', async () => {
    const engine = await open()
    await collect(engine, request({ prompts: [{ ids: [...prompt.slice(0, 39), 1, 2, 3] }], maxTokens: 3 }))
    const partial = await collect(engine, measured())
    expect(partial.events.at(-1)).toMatchObject({ counters: { numCachedTokens: 39, missReason: 'diverged' } })
    const full = await collect(engine, measured())
    expect(full.events.at(-1)).toMatchObject({ counters: { numCachedTokens: 52, missReason: 'none' } })
    expect(await measure(engine)).toEqual((await reference).generated)
    expect(full.tokenIds).toEqual(partial.tokenIds)
    await engine.close()
  })

  it('in a batch of 16 with others, preempted, run ahead or not', async () => {
    for (const runAhead of [0, 1] as const) {
      const engine = await open({ runAhead }, { numKvBlocks: 34 })
      const others = Array.from({ length: 14 }, (_, i) =>
        collect(
          engine,
          request({
            prompts: [{ ids: Array.from({ length: 5 + i }, (_, j) => (i * 7 + j) % 96) }],
            maxTokens: 50,
            ignoreEos: true,
          }),
        ),
      )
      const both = await Promise.all([measure(engine), measure(engine)])
      await Promise.all(others)
      expect(engine.stats().numPreemptions).toBeGreaterThan(0)
      for (const each of both) expect(each).toEqual((await reference).generated)
      expect(engine.stats().numFreeBlocks).toBe(34)
      await engine.close()
    }
  })
})
