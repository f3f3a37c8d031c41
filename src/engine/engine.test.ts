import { describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { ScriptedRunner } from '../../test/engine/scripted-runner.ts'
import type { ScriptedRunnerOptions } from '../../test/engine/scripted-runner.ts'
import { createEngine } from './engine.ts'
import type { EngineOptions } from './engine.ts'
import type { EngineEvent } from './events.ts'
import type { Engine, GenerationRequest } from './request.ts'
import { RunnerError } from './runner/runner.ts'

const tokenizer = createByteTokenizer()

function setup(options: Partial<EngineOptions> = {}, runner: Partial<ScriptedRunnerOptions> = {}) {
  const scripted = new ScriptedRunner({
    numBlocks: 64,
    blockSize: 4,
    vocabSize: 259,
    maxNumBatchedTokens: 32,
    ...runner,
  })
  const errors: unknown[] = []
  const engine = createEngine({
    runner: scripted,
    modelInfo: scripted.modelInfo,
    tokenizer,
    chatTemplate: null,
    options: {
      modelName: 'scripted',
      maxNumSeqs: 8,
      prefixCaching: true,
      runAhead: 1,
      speculation: false,
      maxQueuedRequests: 64,
      maxQueuedTokens: 4096,
      onError: (_where, error) => errors.push(error),
      ...options,
    },
  })
  const events: EngineEvent[] = []
  engine.subscribe({ name: 'test', onEvent: (event) => events.push(event) })
  return { engine, events, errors, runner: scripted }
}

const until = async (isTrue: () => boolean) => {
  while (!isTrue()) await new Promise((resolve) => setImmediate(resolve))
}

const ofType = <T extends EngineEvent['type']>(events: readonly EngineEvent[], type: T) =>
  events.filter((event): event is Extract<EngineEvent, { type: T }> => event.type === type)

function expectNoLeaks(engine: Engine) {
  const { numRunning, numWaiting, numBlocks, numFreeBlocks } = engine.stats()
  expect({ numRunning, numWaiting, numFreeBlocks }).toEqual({ numRunning: 0, numWaiting: 0, numFreeBlocks: numBlocks })
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

  it('computes a long prompt in chunks within the budget', async () => {
    const { engine, events } = setup({}, { maxNumBatchedTokens: 10 })
    await collect(engine, request({ prompts: [{ text: 'x'.repeat(35) }], maxTokens: 2 }))
    expect(ofType(events, 'prefillChunk').map((event) => event.numTokens)).toEqual([10, 10, 10, 5])
    await engine.close()
  })

  it('ends at an end token, which is neither text nor counted', async () => {
    const { engine } = setup({ runAhead: 1 }, { eosTokenIds: [EOS], isDeferred: true })
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
    await engine.close()
  })

  it('cuts at a stop string, and includes it on request', async () => {
    const { engine } = setup()
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

describe('refusals', () => {
  const refused = async (fields: Parameters<typeof request>[0], options: Partial<EngineOptions> = {}) => {
    const { engine } = setup(options)
    const error: unknown = await collect(engine, request(fields)).catch((error: unknown) => error)
    expectNoLeaks(engine)
    await engine.close()
    return error
  }

  it('name what is wrong', async () => {
    expect(await refused({ prompts: [{ ids: [] }] })).toMatchObject({ code: 'invalid_request', param: 'prompt' })
    expect(await refused({ prompts: [{ ids: [3, 259] }] })).toMatchObject({ code: 'invalid_request', param: 'prompt' })
    expect(await refused({ prompts: [{ text: 'x'.repeat(256) }] })).toMatchObject({
      code: 'context_length_exceeded',
      param: 'prompt',
    })
    expect(await refused({ prompts: [{ messages: [{ role: 'user', content: 'hi' }] }] })).toMatchObject({
      param: 'messages',
    })
    expect(await refused({ sampling: { logitBias: { 999: 1 } } })).toMatchObject({
      code: 'invalid_request',
      param: 'logit_bias',
    })
    const bad = (param: string) => ({ code: 'invalid_request', param })
    expect(await refused({ n: 5 }, { maxQueuedRequests: 4 })).toMatchObject(bad('n'))
    const several = { prompts: [{ text: 'x'.repeat(12) }, { text: 'y'.repeat(12) }] }
    expect(await refused(several, { maxQueuedRequests: 1 })).toMatchObject(bad('prompt'))
    expect(await refused(several, { maxQueuedTokens: 20 })).toMatchObject(bad('prompt'))
    expect(await refused({ stopTokenIds: [259] })).toMatchObject(bad('stop_token_ids'))
    expect(await refused({ minTokens: 9, maxTokens: 8 })).toMatchObject(bad('min_tokens'))
    const many = { maxQueuedRequests: 20_000, maxQueuedTokens: 200_000 }
    expect(await refused({ n: 256, maxTokens: 250, logprobs: 20 }, many)).toMatchObject(bad('logprobs'))
    expect(await refused({ n: 9000, maxTokens: 250 }, many)).toMatchObject(bad('n'))
    // Longer than any 256 tokens: refused before it is tokenized.
    expect(await refused({ prompts: [{ text: 'x'.repeat(256 * 7 + 1) }] })).toMatchObject({
      code: 'context_length_exceeded',
      message: expect.stringContaining('bytes'),
    })
  })

  it('bound the tokens that wait, but never one prompt alone', async () => {
    const { engine } = setup({ maxQueuedTokens: 20, maxNumSeqs: 1 }, { isDeferred: true })
    const long = { prompts: [{ text: 'x'.repeat(100) }], maxTokens: 2 }
    const results = await Promise.allSettled([
      collect(engine, request(long)),
      collect(engine, request(long)),
      collect(engine, request(long)),
    ])
    expect(results.map((result) => result.status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    await engine.close()
  })
})

describe('while its grammar is compiled, a request', () => {
  const structured = { kind: 'choice', choices: ['yes', 'no'] } as const

  it('holds its places in the queue', async () => {
    const { engine } = setup({ maxQueuedRequests: 2 }, { eosTokenIds: [EOS] })
    const results = await Promise.allSettled([1, 2, 3].map(() => collect(engine, request({ structured }))))
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
    expectNoLeaks(engine)
    await engine.close()
  })

  it('is refused when the engine starts to drain', async () => {
    const { engine } = setup({}, { eosTokenIds: [EOS] })
    const result = expect(collect(engine, request({ structured }))).rejects.toMatchObject({ code: 'draining' })
    await engine.drain(0)
    await result
    expectNoLeaks(engine)
    await engine.close()
  })
})

describe('endings', () => {
  const endless = (fields: Partial<GenerationRequest> = {}) =>
    request({ prompts: [{ text: 'x' }], maxTokens: 200, ...fields, sampling: {} })

  it('an abort frees the blocks at once and ends the iteration with the choice finished', async () => {
    const { engine, events } = setup({}, { isDeferred: true })
    const abort = new AbortController()
    const result = collect(engine, endless({ n: 2 }), abort.signal)
    await until(() => ofType(events, 'firstToken').length === 2)
    abort.abort()
    expectNoLeaks(engine)
    expect((await result).reasons).toEqual(['abort', 'abort'])
    expect(ofType(events, 'finished').map((event) => event.reason)).toEqual(['abort', 'abort'])
    await engine.close()
  })

  it('a signal that was aborted before still gives one end for every queued choice', async () => {
    const { engine, events } = setup()
    const result = await collect(engine, endless(), AbortSignal.abort())
    expect(result.reasons).toEqual(['abort'])
    expect(ofType(events, 'queued')).toHaveLength(ofType(events, 'finished').length)
    await engine.close()
  })

  it('return() aborts, also while an event is awaited', async () => {
    const { engine, events } = setup({ maxNumSeqs: 1 }, { isDeferred: true })
    const running = engine.submit(endless(), new AbortController().signal)
    await running.next()
    const waiting = engine.submit(endless(), new AbortController().signal)
    await waiting.next()
    const pending = waiting.next()
    await waiting.return?.()
    expect(await pending).toEqual({ done: true, value: undefined })
    await running.return?.()
    expect(ofType(events, 'finished').map((event) => event.reason)).toEqual(['abort', 'abort'])
    expectNoLeaks(engine)
    await engine.close()
  })

  it('a deadline ends the request with its code', async () => {
    const { engine, events } = setup({}, { isDeferred: true, numBlocks: 20_000 })
    const error = await collect(engine, endless({ maxTokens: 70_000, deadlineMs: performance.now() + 20 })).catch(
      (error: unknown) => error,
    )
    expect(error).toMatchObject({ code: 'deadline' })
    expect(ofType(events, 'finished')).toMatchObject([{ reason: 'abort', errorCode: 'deadline' }])
    expectNoLeaks(engine)
    await engine.close()
  })

  it('a failed step fails the running requests; the waiting ones are served', async () => {
    let numFailures = 0
    const onPlan = ({ stepId }: { stepId: number }) => {
      if (stepId === 4 && numFailures++ === 0) throw new RunnerError('device_lost', 'gone')
    }
    const { engine, errors, events } = setup({ maxNumSeqs: 1 }, { isDeferred: true, onPlan })
    const [first, second] = await Promise.allSettled([
      collect(engine, request({ maxTokens: 9 })),
      collect(engine, request({ maxTokens: 9 })),
    ])
    expect(first).toMatchObject({ status: 'rejected', reason: { code: 'device_lost' } })
    expect(second).toMatchObject({ status: 'fulfilled', value: { reasons: ['length'] } })
    expect(ofType(events, 'finished')).toMatchObject([
      { reason: 'error', errorCode: 'device_lost' },
      { reason: 'length' },
    ])
    expect(errors).toHaveLength(1)
    expectNoLeaks(engine)
    await engine.close()
  })

  it('draining refuses newcomers, lets the running finish within the bound and ends the rest', async () => {
    const { engine } = setup({}, { isDeferred: true, numBlocks: 20_000 })
    const short = collect(engine, request({ maxTokens: 5 }))
    await until(() => engine.stats().numRunning === 1)
    await engine.drain(10_000)
    expect((await short).reasons).toEqual(['length'])
    await expect(collect(engine, request({}))).rejects.toMatchObject({ code: 'draining' })
    await engine.close()

    const other = setup({}, { isDeferred: true, numBlocks: 20_000 })
    const long = collect(other.engine, endless({ maxTokens: 70_000 }))
    await until(() => other.engine.stats().numRunning === 1)
    const ended = expect(long).rejects.toMatchObject({ code: 'shutdown' })
    await other.engine.drain(5)
    await ended
    await other.engine.close()
    await other.engine.close()
  })

  it('a subscriber that throws is reported and disturbs nobody', async () => {
    const { engine, errors } = setup()
    engine.subscribe({
      name: 'broken',
      onEvent: () => {
        throw new Error('broken')
      },
    })
    const result = await collect(engine, request({ maxTokens: 3 }))
    expect(result.reasons).toEqual(['length'])
    expect(errors.length).toBeGreaterThan(0)
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
