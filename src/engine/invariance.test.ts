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

type Device = ModelRequest['device']

async function open(
  device: Device,
  options: Partial<EngineOptions> = {},
  model: Partial<ModelRequest> = {},
): Promise<Engine> {
  const runner = createLocalRunner()
  const modelInfo = await runner.load(goldenRequest('llama', { device, maxNumSeqs: 16, threads: 2, ...model }))
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

/** The numbers alone, without cache, run-ahead and speculation. */
async function expected(device: Device) {
  const engine = await open(device, { prefixCaching: false, runAhead: 0 }, { maxNumSeqs: 1 })
  const [generated, scored] = [
    await measure(engine),
    await collect(engine, measured({ maxTokens: 0, promptLogprobs: 3 })),
  ]
  await engine.close()
  return { generated, scored: scored.events.find((event) => event.type === 'promptLogprobs') }
}

/** Fourteen requests of other lengths, for a batch of sixteen. */
const others = (engine: Engine) =>
  Array.from({ length: 14 }, (_, i) =>
    collect(
      engine,
      request({
        prompts: [{ ids: Array.from({ length: 5 + i }, (_, j) => (i * 7 + j) % 96) }],
        maxTokens: 50,
        ignoreEos: true,
      }),
    ),
  )

describe.each(['reference', 'cpu'] as const)('bit-equal results, %s', (device) => {
  const reference = expected(device)

  it.each([16, 17, 23, 64])('with chunks of at most %i tokens', async (maxNumBatchedTokens) => {
    const engine = await open(device, {}, { maxNumBatchedTokens })
    expect(await measure(engine)).toEqual((await reference).generated)
    const scored = await collect(engine, measured({ maxTokens: 0, promptLogprobs: 3 }))
    expect(scored.events.find((event) => event.type === 'promptLogprobs')).toEqual((await reference).scored)
    await engine.close()
  })

  it('after partial and full hits', async () => {
    const engine = await open(device)
    await collect(engine, request({ prompts: [{ ids: [...prompt.slice(0, 39), 1, 2, 3] }], maxTokens: 3 }))
    const partial = await collect(engine, measured())
    expect(partial.events.at(-1)).toMatchObject({ counters: { numCachedTokens: 39, missReason: 'diverged' } })
    const full = await collect(engine, measured())
    expect(full.events.at(-1)).toMatchObject({ counters: { numCachedTokens: 52, missReason: 'none' } })
    expect(await measure(engine)).toEqual((await reference).generated)
    expect(full.tokenIds).toEqual(partial.tokenIds)
    await engine.close()
  })
})

/** Repeats itself, so that there is something to draft from. */
const verse = Array.from({ length: 60 }, (_, i) => ((i % 12) * 31 + 7) % 96)
const seeded = (seed: number, fields: Parameters<typeof request>[0] = {}) =>
  request({
    prompts: [{ ids: verse }],
    maxTokens: 24,
    ignoreEos: true,
    ...fields,
    sampling: { temperature: 0.7, topK: 30, topP: 0.95, minP: 0.01, seed, ...fields.sampling },
  })
const texts = async (engine: Engine, fields: Parameters<typeof request>[0] = {}) => {
  const results = []
  for (const seed of [1, 2, 3]) results.push((await collect(engine, seeded(seed, fields))).tokenIds)
  return results
}
const penalties = { sampling: { presencePenalty: 0.4, frequencyPenalty: 0.3, repetitionPenalty: 1.2 } }

describe.each(['reference', 'cpu'] as const)('a seed gives one text, %s', (device) => {
  const alone = (async () => {
    const engine = await open(device, { prefixCaching: false, runAhead: 0 }, { maxNumSeqs: 1 })
    const result = { plain: await texts(engine), penalised: await texts(engine, penalties) }
    await engine.close()
    return result
  })()

  it.each([
    { runAhead: 0, speculation: false },
    { runAhead: 1, speculation: false },
    { runAhead: 0, speculation: true },
    { runAhead: 1, speculation: true },
  ] as const)(
    'alone, after a prefix hit, in a batch of 16 and after preemption, with %j',
    async ({ runAhead, speculation }) => {
      const { plain, penalised } = await alone
      const engine = await open(device, { runAhead, speculation }, { numKvBlocks: 34 })
      expect(await texts(engine)).toEqual(plain)
      const again = await collect(engine, seeded(1))
      expect(again.events.at(-1)).toMatchObject({ counters: { numCachedTokens: 59 } })
      expect(again.tokenIds).toEqual(plain[0])
      expect(await texts(engine, penalties)).toEqual(penalised)
      const crowd = others(engine)
      const batch = await Promise.all([collect(engine, seeded(1)), collect(engine, seeded(2, penalties))])
      await Promise.all(crowd)
      expect(batch.map(({ tokenIds }) => tokenIds)).toEqual([plain[0], penalised[1]])
      const { numPreemptions, numDraftTokens, numFreeBlocks } = engine.stats()
      expect(numPreemptions).toBeGreaterThan(0)
      expect(numDraftTokens > 0).toBe(speculation)
      expect(numFreeBlocks).toBe(34)
      await engine.close()
    },
  )

  it('in a batch of 16, bit for bit with its log-probabilities', async () => {
    const reference = (await expected(device)).generated
    const engine = await open(device, {}, { numKvBlocks: 34 })
    const crowd = others(engine)
    for (const each of await Promise.all([measure(engine), measure(engine)])) expect(each).toEqual(reference)
    await Promise.all(crowd)
    expect(engine.stats().numPreemptions).toBeGreaterThan(0)
    await engine.close()
  })
})
