import { once } from 'node:events'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, it } from 'vitest'
import { collect, request } from '../../test/engine/requests.ts'
import type { Engine } from '../engine/request.ts'
import type { EngineEvent } from '../engine/events.ts'
import { createRemoteEngine } from './connect.ts'

const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup()
})

interface Received {
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: Record<string, unknown>
}

/** An OpenAI-compatible server on loopback whose completions do what `answer` says. */
async function remote(
  answer: (response: ServerResponse, received: Received) => void,
  idleTimeoutMs?: number,
  model = 'tiny',
) {
  const received: Received[] = []
  const server = createServer(async (incoming, response) => {
    if (incoming.method === 'GET') {
      response.end(JSON.stringify({ data: [{ id: 'other' }, { id: 'tiny', max_model_len: 128 }] }))
      return
    }
    const call = { url: incoming.url ?? '', headers: incoming.headers, body: JSON.parse(await text(incoming)) }
    received.push(call)
    answer(response, call)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const engine = await createRemoteEngine({
    urls: [`http://127.0.0.1:${port}/v1/`],
    apiKey: 'secret',
    model,
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
  })
  const events: EngineEvent[] = []
  engine.subscribe({ name: 'test', onEvent: (event) => events.push(event) })
  cleanups.push(async () => {
    await engine.close()
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return { engine, events, received, port }
}

const frames = (...values: unknown[]) => values.map((value) => `data: ${JSON.stringify(value)}\n\n`).join('')
const chunk = (index: number, piece: string, finishReason: string | null = null) => ({
  id: 'up-77',
  choices: [{ index, text: piece, finish_reason: finishReason }],
})
const usage = (prompt: number, completion: number, cached: number) => ({
  choices: [],
  usage: { prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: { cached_tokens: cached } },
})

describe('a remote engine', () => {
  it('sends the request on, with key and traceparent, and yields its stream', async () => {
    const { engine, events, received } = await remote((response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      // Cut inside a frame and inside a character: the reader must not depend on where the network cuts.
      const bytes = Buffer.from(frames(chunk(0, 'hé'), chunk(0, 'llo', 'stop'), usage(5, 2, 3)) + 'data: [DONE]\n\n')
      const cut = bytes.indexOf(0xc3) + 1
      response.write(bytes.subarray(0, cut))
      setImmediate(() => response.end(bytes.subarray(cut)))
    })
    expect(engine).toMatchObject({ modelName: 'tiny', maxModelLen: 128, tokenizerName: 'remote', modelInfo: null })
    const calls: unknown[] = []
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const generation = request({
      prompts: [{ text: 'prompt' }],
      stop: ['x'],
      onUpstreamCall: (url) => {
        calls.push(url)
        return {
          headers: { traceparent, tracestate: 'vendor=1' },
          run: (send) => send(),
          end: (outcome) => calls.push(outcome),
        }
      },
      sampling: { temperature: 0.5, topK: 3, seed: 1 },
    })
    const result = await collect(engine, generation)
    expect(result.texts).toEqual(['héllo'])
    expect(result.events.at(-1)).toMatchObject({
      type: 'finished',
      reason: 'stop',
      counters: { numPromptTokens: 5, numCachedTokens: 3, numMissTokens: 2, numGeneratedTokens: 2, decodeSteps: 1 },
    })
    expect(result.events.filter((event) => event.type === 'prompt').map((event) => event.numTokens)).toEqual([0, 5])
    expect(received[0]).toMatchObject({
      url: '/v1/completions',
      headers: { authorization: 'Bearer secret', traceparent, tracestate: 'vendor=1' },
      body: {
        model: 'tiny',
        prompt: 'prompt',
        stream: true,
        stop: ['x'],
        temperature: 0.5,
        top_k: 3,
        seed: 1,
        max_tokens: 8,
      },
    })
    expect(received[0]?.body).not.toHaveProperty('min_p')
    expect(calls).toEqual([
      expect.stringMatching(/\/v1\/completions$/),
      { status: 200, responseId: 'up-77', error: null },
    ])
    expect(events.map((event) => event.type)).toEqual(['queued', 'scheduled', 'firstToken', 'finished'])
  })

  it('a prompt without output has a prefill that ends', async () => {
    const { engine, events } = await remote((response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(`${frames(chunk(0, '', 'length'), usage(5, 0, 0))}data: [DONE]\n\n`)
    })
    await collect(engine, request({ maxTokens: 0 }))
    const finished = events.find((event) => event.type === 'finished')
    expect(finished?.counters).toMatchObject({ firstTokenMs: null, scoredMs: expect.any(Number) as number })
  })

  it('calls once a prompt and keeps the choices apart', async () => {
    const { engine, received } = await remote((response, { body }) => {
      response.end(
        frames(
          chunk(1, `${String(body.prompt)}1`, 'length'),
          chunk(0, `${String(body.prompt)}0`, 'stop'),
          usage(1, 2, 0),
        ) + 'data: [DONE]\n\n',
      )
    })
    const result = await collect(engine, request({ prompts: [{ text: 'a' }, { text: 'b' }], n: 2 }))
    expect(result.texts).toEqual(['a0', 'a1', 'b0', 'b1'])
    expect(result.reasons).toEqual(['stop', 'length', 'stop', 'length'])
    expect(received).toHaveLength(2)
  })

  it('speaks chat, with log-probabilities, a schema and continued messages', async () => {
    const { engine, received } = await remote((response) => {
      const content = [
        { token: 'hi', logprob: -0.5, bytes: [104, 105], top_logprobs: [{ token: 'ho', logprob: -0.1 }] },
      ]
      const choice = { index: 0, delta: { content: 'hi' }, finish_reason: 'stop', logprobs: { content } }
      response.end(frames({ choices: [choice] }, usage(3, 1, 0)) + 'data: [DONE]\n\n')
    })
    const messages = [{ role: 'user', content: 'hello' }]
    const generation = request({
      prompts: [{ messages, continueFinalMessage: true }],
      logprobs: 1,
      maxTokens: 128,
      structured: { kind: 'json_schema', schema: { type: 'object' } },
    })
    const { events } = await collect(engine, generation)
    const token = events.find((event) => event.type === 'token')
    expect(token).toMatchObject({
      text: 'hi',
      logprobs: [{ token: 'hi', bytes: [104, 105], detail: { logprob: -0.5, rank: 2 } }],
    })
    expect(received[0]).toMatchObject({
      url: '/v1/chat/completions',
      body: {
        messages,
        continue_final_message: true,
        logprobs: true,
        top_logprobs: 1,
        response_format: { type: 'json_schema' },
      },
    })
    expect(received[0]?.body).not.toHaveProperty('max_tokens')
  })

  it.each([
    [
      400,
      { error: { message: 'CANARY', type: 'invalid_request_error', param: 'top_p', code: null } },
      'invalid_request',
    ],
    [400, { error: { message: "This model's maximum context length is 8 tokens. CANARY" } }, 'context_length_exceeded'],
    [400, { error: { code: 400, message: 'CANARY', type: 'exceed_context_size_error' } }, 'context_length_exceeded'],
    [429, { error: { message: 'CANARY' } }, 'queue_full'],
    [401, { error: { message: 'CANARY' } }, 'upstream_error'],
    [500, 'CANARY', 'upstream_error'],
    [504, null, 'upstream_timeout'],
  ])('maps status %i', async (status, body, code) => {
    const { engine, events } = await remote((response) => response.writeHead(status).end(JSON.stringify(body)))
    const error: unknown = await collect(engine, request({})).catch((error: unknown) => error)
    expect(error).toMatchObject({ name: 'EngineError', code })
    expect(String(error)).not.toContain('CANARY')
    expect(events.filter((event) => event.type === 'finished')).toHaveLength(1)
    expect(engine.stats().numRunning).toBe(0)
  })

  it('maps what breaks within a stream', async () => {
    const bodies = [
      frames(chunk(0, 'a')),
      frames(chunk(0, 'a'), { error: { message: 'CANARY', code: 500 } }),
      frames(chunk(0, 'a')) + 'data: [DONE]\n\n',
      'data: {broken\n\n',
    ]
    for (const body of bodies) {
      const { engine } = await remote((response) => response.end(body))
      await expect(collect(engine, request({}))).rejects.toMatchObject({ code: 'upstream_error' })
    }
    const cut = await remote((response) => {
      response.write(frames(chunk(0, 'a')))
      setImmediate(() => response.destroy())
    })
    await expect(collect(cut.engine, request({}))).rejects.toMatchObject({ code: 'upstream_error' })
  })

  it('gives up on silence, at the deadline and when shut down', async () => {
    const silent = await remote((response) => response.write(frames(chunk(0, 'a'))), 30)
    await expect(collect(silent.engine, request({}))).rejects.toMatchObject({ code: 'upstream_timeout' })
    const slow = await remote(() => {})
    await expect(collect(slow.engine, request({ deadlineMs: performance.now() + 20 }))).rejects.toMatchObject({
      code: 'deadline',
    })
    const ended = expect(collect(slow.engine, request({}))).rejects.toMatchObject({ code: 'shutdown' })
    await slow.engine.drain(10)
    await ended
    await expect(collect(slow.engine, request({}))).rejects.toMatchObject({ code: 'draining' })
  })

  it('holds only so much for a client that does not read, and for another engine that does not end', async () => {
    // Each about as much as may be held, so that the second is too much.
    const top = Array.from({ length: 20 }, (_, i) => ({ token: `t${i}`, logprob: -i }))
    const entries = Array.from({ length: 1700 }, () => ({ token: 'a', logprob: -1, top_logprobs: top }))
    const choice = { index: 0, delta: { content: 'a' }, finish_reason: null, logprobs: { content: entries } }
    const { engine, events } = await remote(
      (response) => {
        for (let i = 0; i < 3; i++) response.write(frames({ choices: [choice] }))
      },
      undefined,
      'other',
    )
    const finished = new Promise<EngineEvent>((resolve) =>
      engine.subscribe({ name: 'end', onEvent: (event) => event.type === 'finished' && resolve(event) }),
    )
    const messages = [{ role: 'user', content: 'x' }]
    const generation = request({ prompts: [{ messages }], logprobs: 20, maxTokens: 100_000 })
    const stream = engine.submit(generation, new AbortController().signal)
    expect((await stream.next()).value).toMatchObject({ type: 'prompt' })
    // Read on only when all has come.
    expect(await finished).toMatchObject({ reason: 'abort', errorCode: 'deadline' })
    await expect(stream.next()).rejects.toMatchObject({ code: 'deadline', param: 'logprobs' })
    expect(events.at(-1)).toMatchObject({ type: 'finished' })

    const endless = await remote((response) => response.write(`data: "${'x'.repeat(2 ** 23)}`))
    await expect(collect(endless.engine, request({}))).rejects.toThrow(/an event of over 8388608 characters/)
    const chatty = await remote((response) => {
      for (let i = 0; i < 40; i++) response.write(frames(chunk(0, 'a')))
    })
    await expect(collect(chatty.engine, request({ maxTokens: 8 }))).rejects.toThrow(/more tokens than requested/)
    const refusing = await remote((response) => {
      response.writeHead(500)
      response.write('x'.repeat(2 ** 23 + 1))
    })
    await expect(collect(refusing.engine, request({}))).rejects.toThrow(/the remote engine failed \(status 500\)/)
  })

  it('counts as waiting what has sent nothing yet', async () => {
    const responses: ServerResponse[] = []
    const { engine, received } = await remote((response) => responses.push(response))
    const answered = [collect(engine, request({})), collect(engine, request({ n: 2 }))]
    await expect.poll(() => received.length).toBe(2)
    expect(engine.stats()).toMatchObject({
      numRunning: 0,
      // However many choices they have: the queue is of requests.
      numWaiting: 2,
      upstreams: [{ isTaking: true, numRunning: 2 }],
    })
    const single = received.findIndex(({ body }) => body['n'] === undefined)
    responses[single]?.write(frames(chunk(0, 'a')))
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 1, numWaiting: 1 })
    responses[single]?.end(frames(chunk(0, 'b', 'stop')))
    responses[1 - single]?.end(frames(chunk(0, 'a', 'stop'), chunk(1, 'a', 'stop')))
    await Promise.all(answered)
    expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, upstreams: [{ numRunning: 0 }] })
  })

  it('closes the call when the client leaves', async () => {
    let isClosed: Promise<unknown> = Promise.resolve()
    const { engine, events } = await remote((response) => {
      isClosed = once(response, 'close')
      response.write(frames(chunk(0, 'a')))
    })
    const abort = new AbortController()
    const stream = engine.submit(request({}), abort.signal)
    await stream.next()
    await stream.next()
    abort.abort()
    expect((await stream.next()).value).toMatchObject({ type: 'finished', reason: 'abort' })
    expect((await stream.next()).done).toBe(true)
    await isClosed
    const other = engine.submit(request({}), new AbortController().signal)
    await other.next()
    await other.return?.()
    await isClosed
    expect(events.filter((event) => event.type === 'finished').map((event) => event.reason)).toEqual(['abort', 'abort'])
  })

  it('is not made when the other engine is away, or has not the model', async () => {
    const { port } = await remote(() => {})
    const url = `http://127.0.0.1:${port}`
    await expect(createRemoteEngine({ urls: [url], apiKey: null, model: 'absent' })).rejects.toThrow(
      /expected model absent, found other, tiny/,
    )
    await expect(createRemoteEngine({ urls: ['http://127.0.0.1:9'], apiKey: null, model: null })).rejects.toThrow(
      /cannot be asked for its models/,
    )
    expect((await createRemoteEngine({ urls: [url], apiKey: null, model: null })).modelName).toBe('other')
  })
})

describe('streams as servers send them', () => {
  const whole = [chunk(0, 'he'), chunk(0, 'llo', 'stop')]
  const text = (...values: unknown[]) => values.map((value) => JSON.stringify(value))
  const [first = '', second = ''] = text(...whole)
  it.each([
    ['without [DONE]', frames(...whole)],
    ['with [DONE] and no line end behind it', `${frames(...whole)}data: [DONE]`],
    ['with a last event that no empty line ends', `data: ${first}\n\ndata: ${second}`],
    ['with CRLF line ends', `data: ${first}\r\n\r\ndata: ${second}\r\n\r\ndata: [DONE]\r\n\r\n`],
    ['with CR line ends', `data: ${first}\r\rdata: ${second}\r\rdata: [DONE]\r\r`],
    ['with an event of two lines', `data: ${first.replace(',', ',\ndata: ')}\n\n${frames(whole[1])}data: [DONE]\n\n`],
    [
      'with events without data, comments and names',
      `: ping\n\ndata:\n\nevent: x\nid: 1\ndata:${first}\n\nretry: 5\n\n${frames(whole[1])}`,
    ],
  ])('%s', async (_, body) => {
    const { engine } = await remote((response) => {
      // Byte by byte, as far as the network lets it.
      for (const byte of Buffer.from(body)) response.write(Buffer.of(byte))
      response.end()
    })
    const result = await collect(engine, request({}))
    expect(result.texts).toEqual(['hello'])
    expect(result.reasons).toEqual(['stop'])
  })

  it('keep the reason of a content filter', async () => {
    const { engine } = await remote((response) => response.end(frames(chunk(0, 'a', 'content_filter'))))
    expect((await collect(engine, request({}))).reasons).toEqual(['content_filter'])
  })

  it('say when to come again, and lead nowhere else', async () => {
    const busy = await remote((response) => response.writeHead(429, { 'retry-after': '7' }).end('{}'))
    await expect(collect(busy.engine, request({}))).rejects.toMatchObject({ code: 'queue_full', retryAfterSeconds: 7 })
    const elsewhere = await remote((response) => response.end(frames(...whole)))
    const redirecting = await remote((response) =>
      response.writeHead(307, { location: `http://127.0.0.1:${elsewhere.port}/v1/completions` }).end(),
    )
    await expect(collect(redirecting.engine, request({}))).rejects.toMatchObject({ code: 'upstream_error' })
    expect(elsewhere.received).toEqual([])
  })
})

describe('several engines', () => {
  const answer = (name: string) => (response: ServerResponse) => void response.end(frames(chunk(0, name, 'stop')))
  const pool = async (...ports: readonly number[]) => {
    const engine = await createRemoteEngine({
      urls: ports.map((port) => `http://127.0.0.1:${port}`),
      apiKey: null,
      model: 'tiny',
    })
    cleanups.push(() => engine.close())
    return engine
  }
  const ask = async (engine: Engine, prompt: string) =>
    (await collect(engine, request({ prompts: [{ text: prompt }] }))).texts[0]
  const long = (topic: string) => `${topic} `.repeat(400)

  it('serve a prompt where its beginning was served before', async () => {
    const a = await remote(answer('a'))
    const b = await remote(answer('b'))
    const engine = await pool(a.port, b.port)
    const [x, y] = await Promise.all([ask(engine, long('rivers')), ask(engine, long('bridges'))])
    expect(new Set([x, y])).toEqual(new Set(['a', 'b']))
    for (let i = 0; i < 4; i++) {
      expect(await ask(engine, `${long('rivers')} and ${i}`)).toBe(x)
      expect(await ask(engine, `${long('bridges')} and ${i}`)).toBe(y)
    }
  })

  it('stand in for one that refuses, once, before its first byte', async () => {
    const broken = await remote((response) => response.writeHead(500).end('{}'))
    const well = await remote(answer('well'))
    const engine = await pool(broken.port, well.port)
    for (let i = 0; i < 6; i++) expect(await ask(engine, `question ${i}`)).toBe('well')
    // After three faults in a row it is left alone for a while.
    expect(broken.received.length).toBe(3)
    const cut = await remote((response) => {
      response.write(frames(chunk(0, 'half')))
      setImmediate(() => response.destroy())
    })
    const spare = await remote(answer('spare'))
    await expect(ask(await pool(cut.port, spare.port), 'x')).rejects.toMatchObject({ code: 'upstream_error' })
    expect(spare.received).toEqual([])
  })

  it.each<[string, object]>([
    ['text', { text: 'a' }],
    ['log-probabilities alone', { text: '', logprobs: { tokens: [''], token_logprobs: [-1], top_logprobs: [null] } }],
    ['token ids alone', { text: '', token_ids: [7] }],
    ['reasoning', { delta: { reasoning_content: 'hm' } }],
    ['a function call', { delta: { tool_calls: [{ index: 0, id: 'a', function: { name: 'f', arguments: '' } }] } }],
    ['an end of one of two choices', { text: '', finish_reason: 'length' }],
  ])('do not say again what the client has of another: %s', async (_, fields) => {
    const cut = await remote((response) => {
      response.write(frames({ choices: [{ index: 0, finish_reason: null, ...fields }] }))
      setImmediate(() => response.destroy())
    })
    const spare = await remote(answer('spare'))
    const engine = await pool(cut.port, spare.port)
    await expect(collect(engine, request({ n: 2 }))).rejects.toMatchObject({ code: 'upstream_error' })
    expect(spare.received).toEqual([])
  })

  it('do not count what another one had counted before it failed', async () => {
    const cut = await remote((response) => {
      response.write(frames(usage(50, 0, 0)))
      setImmediate(() => response.destroy())
    })
    const well = await remote(answer('well'))
    const engine = await pool(cut.port, well.port)
    expect(await ask(engine, 'x')).toBe('well')
    expect(engine.stats()).toMatchObject({ promptTokens: 0, upstreams: [{ numRunning: 0 }, { numRunning: 0 }] })
  })

  it.each<[string, (response: ServerResponse) => void]>([
    ['breaks off without a byte of its answer', (response) => response.flushHeaders()],
    [
      'breaks off after the role alone',
      (response) => response.write(frames({ id: 'x', choices: [{ delta: { role: 'assistant', content: '' } }] })),
    ],
    ['fails in its first frame', (response) => response.write(frames({ error: { code: 500, type: 'InternalError' } }))],
    ['ends with nothing said', (response) => response.end('data: [DONE]\n\n')],
  ])('stand in for one that accepts a request and %s', async (_, begin) => {
    const failing = await remote((response) => {
      begin(response)
      setImmediate(() => response.destroy())
    })
    const well = await remote(answer('well'))
    const engine = await pool(failing.port, well.port)
    expect(await ask(engine, 'question')).toBe('well')
    expect(failing.received).toHaveLength(1)
    expect(well.received).toHaveLength(1)
    // Once: where the other one fails as well, the request does.
    const other = await remote((response) => response.writeHead(500).end('{}'))
    await expect(ask(await pool(failing.port, other.port), 'x')).rejects.toMatchObject({ code: 'upstream_error' })
    expect([failing.received.length, other.received.length]).toEqual([2, 1])
  })

  it('are left alone when they end streams unfinished, however politely', async () => {
    const cutting = await remote((response) => response.end(`${frames(chunk(0, 'half'))}data: [DONE]\n\n`))
    const well = await remote(answer('well'))
    const engine = await pool(cutting.port, well.port)
    for (let i = 0; i < 8; i++) await ask(engine, `question ${i}`).catch(() => null)
    expect(cutting.received.length).toBe(3)
    expect(engine.stats().upstreams).toMatchObject([{ isTaking: false }, { isTaking: true }])
  })

  it('are judged by what they did, not by a client that leaves', async () => {
    const responses: ServerResponse[] = []
    const { engine, received } = await remote((response, { body }) => {
      if (body['prompt'] === 'bad') response.writeHead(500).end('{}')
      else responses.push(response)
    })
    const leaving = new AbortController()
    const left = collect(engine, request({}), leaving.signal)
    await expect.poll(() => received.length).toBe(1)
    for (let i = 0; i < 3; i++) await expect(ask(engine, 'bad')).rejects.toMatchObject({ code: 'upstream_error' })
    leaving.abort()
    await left
    expect(engine.stats().upstreams).toMatchObject([{ isTaking: false, numRunning: 0 }])
  })

  it('are not well because a prompt was given up when another of its request failed', async () => {
    const { engine } = await remote((response, { body }) => {
      response.write(frames(chunk(0, 'a')))
      if (body['prompt'] === 'bad') setImmediate(() => response.destroy())
    })
    const both = () => request({ prompts: [{ text: 'bad' }, { text: 'good' }, { text: 'good' }] })
    for (let i = 0; i < 3; i++) await expect(collect(engine, both())).rejects.toMatchObject({ code: 'upstream_error' })
    expect(engine.stats().upstreams).toMatchObject([{ isTaking: false, numRunning: 0 }])
  })

  it.each<[string, boolean, (response: ServerResponse) => void]>([
    ['nothing', false, () => {}],
    ['headers', false, (response) => response.flushHeaders()],
    ['signs of life', true, (response) => response.write(': waiting\n\n')],
  ])('that sent %s until the deadline: taking %s', async (_, isTaking, begin) => {
    const begun: Promise<unknown>[] = []
    const { engine } = await remote((response) => {
      begin(response)
      begun.push(once(response, 'close'))
    })
    for (let i = 0; i < 3; i++) {
      const late = request({ deadlineMs: performance.now() + 150 })
      await expect(collect(engine, late)).rejects.toMatchObject({ code: 'deadline' })
    }
    await Promise.all(begun)
    expect(engine.stats().upstreams).toMatchObject([{ isTaking, numRunning: 0 }])
  })

  it('are not silent where another one is, and holds up what they have sent', async () => {
    const silent = await remote(() => {})
    const prompt = await remote((response) => response.write(frames(chunk(0, 'a'))))
    const engine = await pool(silent.port, prompt.port)
    for (let i = 0; i < 3; i++) {
      const both = request({ prompts: [{ text: 'a' }, { text: 'b' }], deadlineMs: performance.now() + 150 })
      await expect(collect(engine, both)).rejects.toMatchObject({ code: 'deadline' })
    }
    expect(engine.stats().upstreams).toMatchObject([{ isTaking: false }, { isTaking: true }])
  })

  it('are told the end of every call, also of one that nobody reads', async () => {
    const { engine } = await remote((response, { body }) => {
      if (body['prompt'] === 'bad') response.writeHead(400).end('{}')
      else response.write(frames(chunk(0, 'a')))
    })
    const ends: unknown[] = []
    const onUpstreamCall = () => ({
      headers: {},
      run: <T>(send: () => T) => send(),
      end: (outcome: unknown) => ends.push(outcome),
    })
    const both = request({ prompts: [{ text: 'good' }, { text: 'bad' }], onUpstreamCall })
    await expect(collect(engine, both)).rejects.toMatchObject({ code: 'invalid_request' })
    expect(ends).toHaveLength(2)
  })

  it('do not try again what the request itself is to blame for', async () => {
    const strict = await remote((response) => response.writeHead(400).end('{"error":{"param":"stop"}}'))
    const other = await remote(answer('other'))
    await expect(ask(await pool(strict.port, other.port), 'x')).rejects.toMatchObject({ code: 'invalid_request' })
    expect(other.received).toEqual([])
  })

  it('start as long as one of them answers', async () => {
    const only = await remote(answer('only'))
    const engine = await pool(9, only.port)
    for (let i = 0; i < 3; i++) expect(await ask(engine, `question ${i}`)).toBe('only')
    await expect(pool(9, 10)).rejects.toThrow(/cannot be asked for its models/)
  })
})

describe('function calls of a remote engine', () => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }]
  const toolUse = { tools, choice: 'required', parallel: false } as const
  const calls = (...deltas: unknown[]) =>
    deltas.map((delta) => ({ choices: [{ index: 0, delta: { tool_calls: [delta] }, finish_reason: null }] }))
  const end = { choices: [{ index: 0, delta: {}, finish_reason: 'tool_calls' }] }
  const answers = (...values: unknown[]) =>
    remote((response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(`${frames(...values)}data: [DONE]\n\n`)
    })
  const asks = request({ prompts: [{ messages: [{ role: 'user', content: 'x' }], tools }], toolUse })

  it('are asked for and passed on, also where a server repeats a name or gives no id', async () => {
    const { engine, received } = await answers(
      ...calls(
        { index: 0, id: 'a', type: 'function', function: { name: 'f', arguments: '' } },
        { index: 0, id: 'a', function: { name: 'f', arguments: '{"x"' } },
        { index: 0, function: { name: '', arguments: ': 1}' } },
        { index: 1, function: { name: 'f', arguments: '{}' } },
      ),
      end,
      usage(3, 9, 0),
    )
    const { events, reasons } = await collect(engine, asks)
    expect(received[0]?.body).toMatchObject({ tools, tool_choice: 'required', parallel_tool_calls: false })
    expect(events.flatMap((event) => (event.type === 'token' ? (event.toolCalls ?? []) : []))).toEqual([
      { index: 0, id: 'a', name: 'f', arguments: '' },
      { index: 0, id: null, name: null, arguments: '{"x"' },
      { index: 0, id: null, name: null, arguments: ': 1}' },
      { index: 1, id: 'call_1', name: 'f', arguments: '{}' },
    ])
    expect(reasons).toEqual(['stop'])
  })

  it('are told apart by their ids where a server gives no index, or one index to all', async () => {
    for (const index of [{}, { index: 0 }]) {
      const { engine } = await answers(
        ...calls(
          { ...index, id: 'a', function: { name: 'f', arguments: '{"x"' } },
          { ...index, function: { arguments: ': 1}' } },
          { ...index, id: 'b', function: { name: 'g', arguments: { y: [2] } } },
        ),
        end,
      )
      const { events } = await collect(engine, asks)
      expect(events.flatMap((event) => (event.type === 'token' ? (event.toolCalls ?? []) : []))).toEqual([
        { index: 0, id: 'a', name: 'f', arguments: '{"x"' },
        { index: 0, id: null, name: null, arguments: ': 1}' },
        { index: 1, id: 'b', name: 'g', arguments: '{"y":[2]}' },
      ])
    }
  })

  it.each([
    ['out of their order', { index: 7, id: 'a', function: { name: 'f', arguments: '' } }],
    ['without a name', { index: 0, id: 'a', function: { arguments: '{}' } }],
  ])('%s are an engine error', async (_, delta) => {
    const { engine } = await answers(...calls(delta), end)
    await expect(collect(engine, asks)).rejects.toThrow(expect.objectContaining({ code: 'upstream_error' }))
  })
})
