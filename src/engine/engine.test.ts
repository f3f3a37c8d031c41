import { describe, expect, it } from 'vitest'
import { EOS } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { heldBy, ofType, openScriptedEngine as setup } from '../../test/engine/scripted-engine.ts'
import type { ScriptedRunnerOptions } from '../../test/engine/scripted-runner.ts'
import type { EngineOptions } from './engine.ts'
import type { Engine } from './request.ts'

function expectNoLeaks(engine: Engine) {
  expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
}

describe('a request', () => {
  it('yields its prompt, its tokens with text and its end, with counters that add up', async () => {
    const { engine, events } = setup()
    const result = await collect(engine, request({ prompts: [{ text: 'hello' }], maxTokens: 6 }))
    expect(result.events[0]).toEqual({
      type: 'prompt',
      promptIndex: 0,
      tokenIds: [...Buffer.from('hello')],
      numTokens: 5,
    })
    expect(result.tokenIds[0]).toHaveLength(6)
    const last = result.events.at(-1)
    if (last?.type !== 'finished') throw new Error('not finished')
    expect(last).toMatchObject({ reason: 'length', stopReason: null })
    expect(last.counters).toMatchObject({
      numPromptTokens: 5,
      numCachedTokens: 0,
      numMissTokens: 5,
      missReason: 'cold',
      numGeneratedTokens: 6,
      decodeSteps: 5,
      prefillChunks: 1,
      numPreemptions: 0,
    })
    expect(last.counters.decodeStepMicros).toHaveLength(5)
    const { arrivedMs, firstScheduledMs, firstTokenMs, lastTokenMs } = last.counters
    const times = [arrivedMs, firstScheduledMs ?? NaN, firstTokenMs ?? NaN, lastTokenMs ?? NaN]
    expect(times).toEqual(times.toSorted((a, b) => a - b))
    const types = events.filter((event) => event.type !== 'step').map((event) => event.type)
    expect(types).toEqual(['queued', 'scheduled', 'prefillChunk', 'firstToken', 'finished'])
    expectNoLeaks(engine)
    await engine.close()
  })

  it('ends with length where the context ends, however many tokens were asked for', async () => {
    const { engine } = setup({}, { maxModelLen: 32 })
    const result = await collect(engine, request({ prompts: [{ text: 'x'.repeat(29) }], maxTokens: 1_000_000 }))
    expect(result.tokenIds[0]).toHaveLength(3)
    expect(result.events.at(-1)).toMatchObject({ type: 'finished', reason: 'length', stopReason: null })
    await engine.close()
  })

  it('computes a long prompt in chunks within the budget', async () => {
    const { engine, events } = setup({}, { maxNumBatchedTokens: 10 })
    await collect(engine, request({ prompts: [{ text: 'x'.repeat(35) }], maxTokens: 2 }))
    expect(ofType(events, 'prefillChunk').map((event) => event.numTokens)).toEqual([10, 10, 10, 5])
    await engine.close()
  })

  it('ends at an end token, which is neither text nor counted', async () => {
    const { engine, events } = setup({ runAhead: 1 }, { eosTokenIds: [EOS], isDeferred: true })
    const free = await collect(engine, request({ maxTokens: 12, sampling: { logitBias: { [EOS]: -100 } } }))
    const third = free.tokenIds[0]?.[3] ?? -1
    const cut = await collect(
      engine,
      request({ maxTokens: 12, stopTokenIds: [third], sampling: { logitBias: { [EOS]: -100 } } }),
    )
    const length = free.tokenIds[0]?.indexOf(third) ?? -1
    expect(cut.tokenIds[0]).toEqual(free.tokenIds[0]?.slice(0, length))
    const last = cut.events.at(-1)
    expect(last).toMatchObject({
      type: 'finished',
      reason: 'stop',
      stopReason: third,
      counters: { numGeneratedTokens: length },
    })
    if (last?.type === 'finished') expect(last.counters.decodeSteps).toBe(length - 1)
    const eos = await collect(engine, request({ maxTokens: 12, sampling: { logitBias: { [EOS]: 100 } } }))
    expect(eos.events.at(-1)).toMatchObject({
      reason: 'stop',
      stopReason: null,
      counters: { numGeneratedTokens: 0, decodeSteps: 0 },
    })
    expect(eos.texts).toEqual([''])
    const ignored = await collect(
      engine,
      request({ maxTokens: 3, ignoreEos: true, sampling: { logitBias: { [EOS]: 100 } } }),
    )
    expect(ignored.tokenIds).toEqual([[EOS, EOS, EOS]])
    const least = await collect(
      engine,
      request({ maxTokens: 12, minTokens: 5, sampling: { logitBias: { [EOS]: 100 } } }),
    )
    expect(least.tokenIds[0]).toHaveLength(5)
    expectNoLeaks(engine)
    expect(ofType(events, 'finished').map(({ stop }) => stop)).toEqual([null, 'stop_token', 'eos', null, 'eos'])
    await engine.close()
  })

  it('gives an end token its log-probability, beside those of the text', async () => {
    const { engine } = setup({}, { eosTokenIds: [EOS] })
    const sampling = { logitBias: { [EOS]: 100 } }
    for (const [minTokens, promptLogprobs] of [
      [0, 1],
      [3, -1],
    ] as const) {
      const { events } = await collect(engine, request({ logprobs: 1, minTokens, promptLogprobs, sampling }))
      const tokens = events.filter((event) => event.type === 'token')
      expect(tokens.flatMap(({ tokenIds }) => tokenIds)).toHaveLength(minTokens)
      const entries = tokens.flatMap(({ logprobs }) => logprobs ?? [])
      expect(entries).toHaveLength(minTokens + 1)
      expect(entries.at(-1)).toMatchObject({ tokenId: EOS })
      expect(events.at(-1)).toMatchObject({ reason: 'stop', counters: { numGeneratedTokens: minTokens } })
    }
    await engine.close()
  })

  it('cuts at a stop string, and includes it on request', async () => {
    const { engine, events } = setup()
    const printable = Object.fromEntries(Array.from({ length: 26 }, (_, i) => [97 + i, 50]))
    const free = await collect(engine, request({ maxTokens: 20, sampling: { logitBias: printable } }))
    const text = free.texts[0] ?? ''
    const stop = text.slice(7, 10)
    const cut = await collect(engine, request({ maxTokens: 20, stop: [stop], sampling: { logitBias: printable } }))
    expect(cut.texts[0]).toBe(text.slice(0, text.indexOf(stop)))
    expect(cut.events.at(-1)).toMatchObject({ reason: 'stop', stopReason: stop })
    const included = await collect(
      engine,
      request({ maxTokens: 20, stop: [stop], includeStopString: true, sampling: { logitBias: printable } }),
    )
    expect(included.texts[0]).toBe(text.slice(0, text.indexOf(stop) + stop.length))
    expect(ofType(events, 'finished').map(({ stop }) => stop)).toEqual([null, 'stop_string', 'stop_string'])
    await engine.close()
  })

  it('scores a prompt without generating', async () => {
    const { engine, events } = setup({}, { maxNumBatchedTokens: 3 })
    const result = await collect(engine, request({ prompts: [{ text: 'score me' }], maxTokens: 0, promptLogprobs: 2 }))
    const scores = result.events.find((event) => event.type === 'promptLogprobs')
    if (scores?.type !== 'promptLogprobs') throw new Error('no scores')
    expect(scores.entries.map((entry) => entry?.token ?? null)).toEqual([null, ...'core me'])
    expect(scores.entries[3]?.top).toHaveLength(2)
    expect(result.events.at(-1)).toMatchObject({
      type: 'finished',
      reason: 'length',
      counters: { numGeneratedTokens: 0, firstTokenMs: null },
    })
    // The last of its chunks ended the prefill.
    const [finished] = ofType(events, 'finished')
    expect(finished?.counters.scoredMs).toBe(ofType(events, 'prefillChunk').at(-1)?.atMs)
    expect(ofType(events, 'firstToken')).toHaveLength(0)
    await engine.close()
  })

  it('gives log-probabilities of every token it yields', async () => {
    const { engine } = setup()
    const { events } = await collect(engine, request({ maxTokens: 4, logprobs: 3 }))
    const tokens = events.filter((event) => event.type === 'token')
    expect(tokens.flatMap((event) => event.logprobs ?? []).map((entry) => entry.tokenId)).toEqual(
      tokens.flatMap((event) => event.tokenIds),
    )
    for (const entry of tokens.flatMap((event) => event.logprobs ?? [])) {
      expect(entry.top).toHaveLength(3)
      expect(entry.detail.logprob).toBe(entry.top[0]?.logprob)
    }
    await engine.close()
  })

  it('counts the choices of several prompts as sequences of their own, seeded by their place within the prompt', async () => {
    const { engine } = setup({ maxNumSeqs: 3 })
    const sampling = { temperature: 1, seed: 7 }
    const both = await collect(engine, request({ prompts: [{ text: 'one' }, { text: 'two' }], n: 2, sampling }))
    const two = await collect(engine, request({ prompts: [{ text: 'two' }], n: 2, sampling }))
    expect(both.tokenIds.slice(2)).toEqual(two.tokenIds)
    expect(two.tokenIds[0]).not.toEqual(two.tokenIds[1])
    await engine.close()
  })
})

describe('the text of a seeded request', () => {
  const seeded = (fields: Parameters<typeof request>[0] = {}) =>
    request({
      prompts: [{ text: 'the same prompt for everyone' }],
      maxTokens: 24,
      ...fields,
      sampling: { temperature: 0.9, topK: 40, topP: 0.95, seed: 11, ...fields.sampling },
    })

  const variants: Record<
    string,
    [Partial<EngineOptions>, Partial<ScriptedRunnerOptions>, (engine: Engine) => Promise<unknown>]
  > = {
    'without run-ahead': [{ runAhead: 0 }, {}, async () => {}],
    'without a prefix cache': [{ prefixCaching: false }, {}, async () => {}],
    'in chunks of one token': [{}, { maxNumBatchedTokens: 8 }, async () => {}],
    'after a prefix hit': [
      {},
      {},
      (engine) => collect(engine, request({ prompts: [{ text: 'the same prompt for someone else' }] })),
    ],
    'after a full hit': [{}, {}, (engine) => collect(engine, seeded())],
  }

  it.each(Object.entries(variants))('is the same %s', async (_name, [options, runner, before]) => {
    const alone = setup()
    const expected = await collect(alone.engine, seeded())
    await alone.engine.close()
    const other = setup(options, runner)
    await before(other.engine)
    expect((await collect(other.engine, seeded())).tokenIds).toEqual(expected.tokenIds)
    await other.engine.close()
  })

  it('is the same in a batch of 16 that is preempted, penalties included', async () => {
    const sampling = { presencePenalty: 0.5, frequencyPenalty: 0.3, repetitionPenalty: 1.2 }
    const alone = setup()
    const expected = await collect(alone.engine, seeded({ sampling }))
    const plain = await collect(alone.engine, seeded())
    await alone.engine.close()
    const crowd = setup({ maxNumSeqs: 16 }, { numBlocks: 40 })
    const results = await Promise.all(
      Array.from({ length: 16 }, (_, i) => collect(crowd.engine, i % 2 === 0 ? seeded({ sampling }) : seeded())),
    )
    expect(crowd.engine.stats().numPreemptions).toBeGreaterThan(0)
    for (const [i, result] of results.entries())
      expect(result.tokenIds).toEqual((i % 2 === 0 ? expected : plain).tokenIds)
    expectNoLeaks(crowd.engine)
    await crowd.engine.close()
  })
})
