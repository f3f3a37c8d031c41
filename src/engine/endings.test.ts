/** How requests of the local engine are refused and how they end. */
import { describe, expect, it } from 'vitest'
import { EOS } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { heldBy, ofType, openScriptedEngine as setup, until } from '../../test/engine/scripted-engine.ts'
import type { EngineOptions } from './engine.ts'
import type { Engine, GenerationRequest } from './request.ts'
import { RunnerError } from './runner/runner.ts'

function expectNoLeaks(engine: Engine) {
  expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
}

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

  it('a runner that cannot run is named, refuses newcomers once a first attempt has failed, and is told of', async () => {
    const told: unknown[] = []
    const { engine, runner } = setup({ onProblem: (problem) => told.push(problem) })
    expect(engine.problem).toBeNull()
    runner.say({ reason: 'unplugged', isFatal: false })
    expect(engine.problem).toBe('unplugged')
    expect((await collect(engine, request({ maxTokens: 3 }))).reasons).toEqual(['length'])
    runner.say({ reason: 'gone for good', isFatal: true })
    await expect(collect(engine, request({}))).rejects.toMatchObject({
      code: 'device_lost',
      message: expect.stringContaining('gone for good'),
    })
    runner.say(null)
    expect((await collect(engine, request({ maxTokens: 3 }))).reasons).toEqual(['length'])
    expect(told).toHaveLength(3)
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

  it.each([
    [
      'throws',
      () => {
        throw new Error('broken')
      },
    ],
    ['rejects', async () => Promise.reject(new Error('broken'))],
  ])('a subscriber that %s is reported and disturbs nobody', async (_, onEvent) => {
    const { engine, errors } = setup()
    engine.subscribe({ name: 'broken', onEvent })
    const result = await collect(engine, request({ maxTokens: 3 }))
    expect(result.reasons).toEqual(['length'])
    expect(errors.length).toBeGreaterThan(0)
    await engine.close()
  })
})
