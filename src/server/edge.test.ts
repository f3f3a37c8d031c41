/** What stands before the handlers, with the real middleware and a handler that reads a body. */
import { Hono } from 'hono'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { testObservability } from '../../test/observability/scenario.ts'
import { Admission } from './admission.ts'
import type { AppEnv } from './env.ts'
import type { toErrorBody } from './errors.ts'
import { readJson } from './body.ts'
import { admit, renderError, requestTrace } from './middleware.ts'
import { requireOwnOrigin } from './origin.ts'
import { parseBody } from './validation.ts'
import { chatRequest, completionRequest } from './wire.ts'

const MAX_BYTES = 1 << 20
function deferred(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {}
  const promise = new Promise<void>((done) => (resolve = done))
  return { promise, resolve }
}

function edge({ maxQueuedRequests = 100, host = '127.0.0.1', corsOrigins = [] as string[] } = {}) {
  const observability = testObservability()
  const admission = new Admission({
    maxQueuedRequests,
    maxRequestBytes: MAX_BYTES,
    stats: () => ({ numWaiting: 0 }),
    state: () => 'ready',
  })
  const work = deferred()
  const parsed = deferred()
  const app = new Hono<AppEnv>()
  app.onError(renderError)
  app.use(requestTrace(observability))
  app.use(requireOwnOrigin({ corsOrigins, host }))
  app.use(admit(admission))
  app.post('/v1/completions', async (c) => c.json(parseBody(completionRequest, await readJson(c))))
  app.post('/v1/chat/completions', async (c) => c.json(parseBody(chatRequest, await readJson(c))))
  app.post('/v1/rag/documents', async (c) => {
    await readJson(c)
    parsed.resolve()
    await work.promise
    return c.json({})
  })
  app.get('/v1/models', (c) => c.json({}))
  app.get('/health', (c) => c.json({}))
  const send = (
    body: string | ReadableStream<Uint8Array>,
    headers: Record<string, string> = {},
    path = '/v1/completions',
  ) =>
    Promise.resolve(
      app.fetch(new Request(new URL(path, 'http://localhost:8000'), { method: 'POST', body, headers, duplex: 'half' })),
    )
  return { app, send, observability, work, parsed }
}

const errorOf = async (response: Response) => ((await response.json()) as ReturnType<typeof toErrorBody>).error
const GOOD = JSON.stringify({ prompt: 'x' })

/** A body that gives its chunks and then nothing more, not even its end. */
function stalled(...chunks: readonly string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk))
    },
  })
}

describe('bodies', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  it('that come slowly keep nobody out, and end with 408', async () => {
    vi.useFakeTimers()
    const { send } = edge()
    const slow = Array.from({ length: 20 }, (_, i) =>
      send(stalled('{"prompt":'), i % 2 === 0 ? {} : { 'content-length': String(MAX_BYTES) }),
    )
    await vi.advanceTimersByTimeAsync(9_000)
    expect((await send(GOOD)).status).toBe(200)
    await vi.advanceTimersByTimeAsync(1_001)
    for (const response of await Promise.all(slow)) {
      expect(response.status).toBe(408)
      expect(await errorOf(response)).toMatchObject({ type: 'invalid_request_error', code: 'request_timeout' })
    }
  })

  it('that trickle end with 408 as well', async () => {
    vi.useFakeTimers()
    const { send } = edge()
    let timer: NodeJS.Timeout | undefined
    let isCancelled = false
    const trickle = new ReadableStream<Uint8Array>({
      start(controller) {
        timer = setInterval(() => controller.enqueue(new TextEncoder().encode(' ')), 5_000)
      },
      cancel: () => {
        clearInterval(timer)
        isCancelled = true
      },
    })
    const response = send(trickle)
    await vi.advanceTimersByTimeAsync(32_000)
    expect((await response).status).toBe(408)
    expect(isCancelled).toBe(true)
  })

  it('count while they are held, and no longer', async () => {
    vi.useFakeTimers()
    const { send } = edge()
    const held = Array.from({ length: 8 }, () => send(stalled('x'.repeat(MAX_BYTES - 10))))
    await vi.advanceTimersByTimeAsync(1)
    for (const refused of [send('x'.repeat(200)), send(stalled('x'.repeat(200)))]) {
      expect((await refused).status).toBe(429)
      expect((await errorOf(await refused)).code).toBe('bytes_in_flight')
    }
    await vi.advanceTimersByTimeAsync(10_000)
    await Promise.all(held)
    expect((await send(GOOD)).status).toBe(200)
  })

  it('give their place back once parsed where work does not wait for the engine', async () => {
    const { send, work, parsed } = edge({ maxQueuedRequests: 1 })
    const ingest = send('{}', {}, '/v1/rag/documents')
    await parsed.promise
    expect((await send(GOOD)).status).toBe(200)
    work.resolve()
    expect((await ingest).status).toBe(200)
  })

  it('of a client that goes away end as such', async () => {
    const { send, observability } = edge()
    const body = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('aborted')) })
    const response = await send(body)
    expect((await errorOf(response)).code).toBe('client_disconnect')
    const traceId = response.headers.get('x-trace-id') ?? ''
    expect(observability.store.get(traceId, { keyId: '', isAdmin: true })).toMatchObject([
      { ending: 'client_disconnect', status: 499 },
    ])
  })

  it('that nest deeply are a 400, however they hide it', async () => {
    const { send } = edge()
    const nest = (depth: number) => `{"prompt":"x","tools":${'['.repeat(depth)}${']'.repeat(depth)}}`
    for (const path of ['/v1/completions', '/v1/chat/completions']) {
      const response = await send(nest(100_000), {}, path)
      expect(response.status).toBe(400)
      expect((await errorOf(response)).message).toMatch(/^body: expected at most 128 levels/)
    }
    expect((await send(nest(127))).status).toBe(200)
    expect((await send(nest(128))).status).toBe(400)
    const inText = JSON.stringify({ prompt: `\\"${'[{'.repeat(500)}"\\` })
    expect((await send(inText)).status).toBe(200)
  })
})

describe('messages', () => {
  it.each([
    [{ logit_bias: { 'my secret': 1 } }, 'logit_bias'],
    [{ logit_bias: { 5: 1000 } }, 'logit_bias'],
    [{ rag: { top_k: 0 } }, 'rag.top_k'],
    [
      { response_format: { type: 'json_schema', json_schema: { 'my secret': 1 } } },
      'response_format.json_schema.schema',
    ],
    [{ stop: ['', 'my secret'] }, 'stop.0'],
    [{ seed: 1.5 }, 'seed'],
  ])('%j names %s and nothing of the caller', async (fields, param) => {
    const error = await errorOf(await edge().send(JSON.stringify({ prompt: 'x', ...fields })))
    expect(error.param).toBe(param)
    expect(error.message).toMatch(new RegExp(`^${param}\\b`))
    expect(error.message).not.toMatch(/secret|Invalid/)
  })

  it.each(['9007199254740991', '-9007199254740991', '0'])('the seed %s is taken as it is', async (seed) => {
    const response = await edge().send(`{"prompt":"x","seed":${seed}}`)
    expect(await response.json()).toMatchObject({ seed: Number(seed) })
  })

  // The first two are one double: taken, they would be the same seed.
  it.each(['9007199254740992', '9007199254740993', '-9007199254740992', '18446744073709551616', '1e300'])(
    'the seed %s is refused: JSON numbers are not exact there',
    async (seed) => {
      const response = await edge().send(`{"prompt":"x","seed":${seed}}`)
      expect(response.status).toBe(400)
      expect(await errorOf(response)).toMatchObject({
        param: 'seed',
        message: `seed: expected a whole number from -9007199254740991 to 9007199254740991, found the number ${Number(seed)}`,
      })
    },
  )

  it.each([
    ['max_tokens: expected a whole number, found a string', { max_tokens: '5' }],
    ['max_tokens: expected a whole number, found the number 1.5', { max_tokens: 1.5 }],
    ['max_tokens: expected a whole number from -1 to 9007199254740991, found the number 1e+300', { max_tokens: 1e300 }],
    ['max_tokens: expected at least -1, found the number -2', { max_tokens: -2 }],
    ['temperature: expected a number, found a string', { temperature: '1' }],
    ['max_new_tokens: not supported by this server', { max_new_tokens: 5 }],
    ['n_predict: expected at least -1, found the number -2', { n_predict: -2 }],
    ['options: not supported by this server', { options: { num_ctx: 5 } }],
    [
      'prompt: expected a string, an array of 1 to 256 strings, an array of token ids or an array of 1 to 256 arrays of token ids, found an array of 257',
      { prompt: Array.from({ length: 257 }, () => 'x') },
    ],
  ])('%s', async (message, fields) => {
    const error = await errorOf(await edge().send(JSON.stringify({ prompt: 'x', ...fields })))
    expect(error.message).toBe(message)
  })
})

describe('web pages', () => {
  it.each([
    [{}, 200, null],
    [{ 'content-type': 'application/x-www-form-urlencoded' }, 200, null],
    [{ origin: 'http://localhost:8000', 'content-type': 'application/json' }, 200, null],
    [{ 'sec-fetch-site': 'same-origin', origin: 'http://proxy.test', 'content-type': 'application/json' }, 200, null],
    [{ origin: 'http://localhost:8000', 'content-type': 'application/x-ndjson; charset=utf-8' }, 200, null],
    [{ origin: 'http://app.test', 'sec-fetch-site': 'cross-site', 'content-type': 'application/json' }, 200, null],
    [{ 'sec-fetch-site': 'cross-site', 'content-type': 'application/json' }, 403, 'origin_not_allowed'],
    [{ 'sec-fetch-site': 'same-site', origin: 'http://localhost:3000' }, 403, 'origin_not_allowed'],
    [{ origin: 'http://evil.test', 'content-type': 'text/plain' }, 403, 'origin_not_allowed'],
    [{ origin: 'http://localhost:3000' }, 403, 'origin_not_allowed'],
    [{ origin: 'null' }, 403, 'origin_not_allowed'],
    [{ origin: 'http://localhost:8000', 'content-type': 'text/plain' }, 415, 'unsupported_media_type'],
    [{ 'sec-fetch-site': 'same-origin', 'content-type': 'multipart/form-data' }, 415, 'unsupported_media_type'],
  ])('%j is a %i %s', async (headers: Record<string, string>, status, code) => {
    const { send, observability } = edge({ corsOrigins: ['http://app.test'] })
    const response = await send(GOOD, headers)
    expect(response.status).toBe(status)
    if (code === null) return
    expect(await errorOf(response)).toMatchObject({ type: 'invalid_request_error', code })
    const trace = observability.store.get(response.headers.get('x-trace-id') ?? '', { keyId: '', isAdmin: true })
    expect(trace).toMatchObject([{ ending: status === 403 ? 'unauthorized' : 'validation', status }])
  })

  it('reach a server on loopback under its own names only', async () => {
    const get = async (url: string, options: Parameters<typeof edge>[0] = {}) =>
      (await edge(options).app.request(url)).status
    for (const host of ['localhost', '127.0.0.1:8000', '127.1.2.3', '[::1]:8000', 'mini.localhost']) {
      expect(await get(`http://${host}/v1/models`), host).toBe(200)
    }
    expect(await get('http://evil.test/v1/models')).toBe(403)
    expect(await get('http://127.0.0.1.evil.test/v1/models')).toBe(403)
    expect(await get('http://evil.test/health')).toBe(200)
    expect(await get('http://app.test/v1/models', { corsOrigins: ['https://app.test'] })).toBe(200)
    expect(await get('http://anything.test/v1/models', { host: '0.0.0.0' })).toBe(403)
    expect(await get('http://192.168.1.5:8000/v1/models', { host: '0.0.0.0' })).toBe(200)
  })
})
