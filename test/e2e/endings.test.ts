/**
 * The table of endings against the real server process: each way a request can end leaves exactly one root, ended once, with the row's
 * status, event and stream tail.
 */
import { createServer, request as httpRequest, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EndingName, endingRow } from '../../src/observability/endings.ts'
import { OtlpReceiver, type ReceivedSpan } from './otlp-receiver.ts'
import { readFrames, ServerProcess } from './server-process.ts'

let receiver: OtlpReceiver
let server: ServerProcess

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  server = await ServerProcess.start([
    '--otlp-traces-endpoint',
    receiver.url,
    '--api-key',
    'k',
    '--max-request-bytes',
    '100000',
  ])
})

afterAll(async () => {
  await server?.stop()
  await receiver?.close()
})

const KEY = { authorization: 'Bearer k' }
const LONG = { prompt: 'The river', max_tokens: 2000, ignore_eos: true }

/** The one root of a trace, held against its row. */
async function expectEnding(traceId: string, ending: EndingName, sent: number | null): Promise<ReceivedSpan> {
  const root = await receiver.until(
    () => receiver.spans.find((span) => span.traceId === traceId && span.name === 'http.handler') ?? null,
  )
  const row = endingRow(ending, sent)
  expect(receiver.spans.filter((span) => span.traceId === traceId && span.name === 'http.handler')).toHaveLength(1)
  expect(Number(String(root.attributes['http.status_code']?.intValue))).toBe(row.statusCode ?? sent)
  expect(root.status).toBe(row.spanStatus === 'error' ? 'STATUS_CODE_ERROR' : 'STATUS_CODE_UNSET')
  expect(root.attributes['error.type']?.stringValue ?? null).toBe(row.errorType)
  const last = root.events.filter((event) => event.name === 'request.departed' || event.name === 'request.aborted')
  expect(last.map((event) => event.name)).toEqual([row.event])
  expect(last[0]?.attributes['reason']?.stringValue ?? null).toBe(row.reason)
  const known = new Set(receiver.spans.filter((span) => span.traceId === traceId).map((span) => span.spanId))
  const orphans = receiver.spans.filter(
    (span) => span.traceId === traceId && span !== root && !known.has(span.parentSpanId),
  )
  expect(orphans).toEqual([])
  return root
}

const traceOf = (response: Response) => response.headers.get('x-trace-id') ?? ''

/** Running requests and open roots, as /metrics tells them. */
async function gauge(name: string): Promise<number> {
  const text = await (await server.get('/metrics', KEY)).text()
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(text)?.[1])
}

describe('refusals', () => {
  it.each([
    ['a wrong type', '/v1/completions', { prompt: 7 }, 400],
    ['a broken body', '/v1/completions', '{"prompt": ', 400],
    ['another model', '/v1/completions', { prompt: 'x', model: 'gpt-5' }, 404],
    ['a prompt longer than the context', '/v1/completions', { prompt: Array.from({ length: 20_000 }, () => 5) }, 400],
    ['a body over the bound', '/v1/completions', { prompt: 'x'.repeat(100_001) }, 413],
    ['a chat without messages', '/v1/chat/completions', { messages: [] }, 400],
  ])('%s', async (_, path, body, status) => {
    const response = await server.post(path, body, KEY)
    expect(response.status).toBe(status)
    const { error } = (await response.json()) as { error: { message: string; type: string } }
    expect(error.type).toBe('invalid_request_error')
    const root = await expectEnding(traceOf(response), 'validation', status)
    expect(root.attributes['llm.tokens.out']).toBeUndefined()
  })

  it('an unknown key', async () => {
    const response = await server.post('/v1/completions', { prompt: 'x' }, { authorization: 'Bearer wrong' })
    expect(response.status).toBe(401)
    await expectEnding(traceOf(response), 'unauthorized', 401)
  })
})

describe('clients that go away', () => {
  it('in the stream', async () => {
    const abort = new AbortController()
    const response = await server.post('/v1/completions', { ...LONG, stream: true }, KEY, abort.signal)
    const reader = response.body?.getReader()
    await reader?.read()
    abort.abort()
    await expectEnding(traceOf(response), 'client_disconnect', 200)
    expect(await gauge('miniserve_num_requests_running')).toBe(0)
  })

  it('before the headers', async () => {
    const abort = new AbortController()
    const traceId = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1'
    const headers = { ...KEY, traceparent: `00-${traceId}-00f067aa0ba902b7-01` }
    const request = server.post('/v1/completions', LONG, headers, abort.signal).catch((error: unknown) => error)
    await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'prefill.done')
    abort.abort()
    await request
    await expectEnding(traceId, 'client_disconnect', null)
    expect(await gauge('miniserve_num_requests_running')).toBe(0)
  })
})

it('clients that go away while their body is read', async () => {
  const traceId = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa2'
  const headers = { ...KEY, traceparent: `00-${traceId}-00f067aa0ba902b7-01`, 'content-length': '1000' }
  const request = httpRequest(`${server.url}/v1/completions`, { method: 'POST', headers })
  request.on('error', () => {})
  request.write('{"prompt":')
  await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'request.received')
  request.destroy()
  await expectEnding(traceId, 'client_disconnect', null)
})

describe('failures', () => {
  it('a deadline, before the headers and in the stream', async () => {
    const slow = await ServerProcess.start([
      '--otlp-traces-endpoint',
      receiver.url,
      '--request-timeout',
      '0.3',
      '--device',
      'reference',
    ])
    try {
      const whole = await slow.post('/v1/completions', LONG)
      expect(whole.status).toBe(504)
      expect(whole.headers.get('x-should-retry')).toBe('false')
      await expectEnding(traceOf(whole), 'deadline', 504)
      const stream = await slow.post('/v1/completions', { ...LONG, stream: true })
      const frames = await readFrames(stream)
      expect(frames.at(-1)).toBe('[DONE]')
      expect(frames.at(-2)).toMatchObject({ error: { code: 'deadline' } })
      await expectEnding(traceOf(stream), 'deadline', 200)
    } finally {
      await slow.stop()
    }
  })

  it('an engine that fails, before the headers and in the stream', async () => {
    const upstream = await brokenUpstream()
    const { port } = upstream.address() as AddressInfo
    const remote = await ServerProcess.start([
      '--otlp-traces-endpoint',
      receiver.url,
      '--engine-url',
      `http://127.0.0.1:${port}/v1`,
    ])
    try {
      const whole = await remote.post('/v1/completions', { prompt: 'fail' })
      expect(whole.status).toBe(502)
      await expectEnding(traceOf(whole), 'engine_error', 502)
      const stream = await remote.post('/v1/completions', { prompt: 'break', stream: true })
      const frames = await readFrames(stream)
      expect(frames.at(-1)).toBe('[DONE]')
      expect(frames.at(-2)).toMatchObject({ error: { type: 'server_error' } })
      await expectEnding(traceOf(stream), 'engine_error', 200)
    } finally {
      await remote.stop()
      upstream.close()
    }
  })
})

describe('shutdown', () => {
  it('lets a running stream finish, refuses what is new, flushes the exporter and exits with 0', async () => {
    const own = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url])
    const response = await own.post('/v1/completions', {
      prompt: 'The river',
      max_tokens: 200,
      ignore_eos: true,
      stream: true,
    })
    own.signal('SIGTERM')
    const frames = await readFrames(response)
    expect(frames.at(-1)).toBe('[DONE]')
    expect(frames.at(-2)).toMatchObject({ usage: { completion_tokens: 200 } })
    expect(await own.exited).toEqual({ code: 0, signal: null })
    await expectEnding(traceOf(response), 'success', 200)
  })

  it('ends what passes the bound with an error frame', async () => {
    const own = await ServerProcess.start([
      '--otlp-traces-endpoint',
      receiver.url,
      '--shutdown-timeout',
      '0.2',
      '--device',
      'reference',
    ])
    const response = await own.post('/v1/completions', { ...LONG, stream: true })
    own.signal('SIGTERM')
    const frames = await readFrames(response)
    expect(frames.at(-2)).toMatchObject({ error: { code: 'shutdown' } })
    expect(frames.at(-1)).toBe('[DONE]')
    expect((await own.exited).code).toBe(0)
    await expectEnding(traceOf(response), 'shutdown', 200)
  })
})

it('leaves no span open after a hundred requests that end in every way', async () => {
  const endings = await Promise.all(
    Array.from({ length: 100 }, async (_, i) => {
      const abort = new AbortController()
      const body =
        i % 5 === 0 ? { prompt: 7 } : { prompt: `Request ${i}`, max_tokens: 1 + (i % 9), stream: i % 2 === 0 }
      const response = await server.post('/v1/completions', body, i % 7 === 0 ? {} : KEY, abort.signal)
      if (i % 4 === 0) abort.abort()
      else await response.text()
      return traceOf(response)
    }),
  )
  for (const traceId of endings) {
    await receiver.until(
      () => receiver.spans.find((span) => span.traceId === traceId && span.name === 'http.handler') ?? null,
    )
  }
  expect(await gauge('miniserve_num_requests_running')).toBe(0)
  expect(await gauge('miniserve_num_requests_waiting')).toBe(0)
  await server.stop()
  const stopped = server.logs.find((line) => line.msg === 'server.stopped')
  expect(stopped).toMatchObject({ open_requests: 0, open_spans: 0, open_engine: 0 })
})

/** An upstream that answers 500, or begins a stream and breaks it. */
async function brokenUpstream(): Promise<Server> {
  const upstream = createServer((request, response) => {
    if (request.url?.endsWith('/models')) {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'up', object: 'model', max_model_len: 100 }] }))
      return
    }
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      if (body.includes('fail')) {
        response.statusCode = 500
        response.end('no')
        return
      }
      response.setHeader('content-type', 'text/event-stream')
      response.write(
        `data: ${JSON.stringify({ id: 'a', object: 'text_completion', choices: [{ index: 0, text: 'x', finish_reason: null }] })}\n\n`,
      )
      setImmediate(() => response.destroy())
    })
  })
  await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve))
  return upstream
}
