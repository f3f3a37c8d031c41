/** Upstreams as they are met in the field, and worse: what reaches the client, and that nothing waits, leaks or quotes. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { collect, request } from '../../test/engine/requests.ts'
import type { Engine } from '../engine/request.ts'
import { createRemoteEngine } from './connect.ts'

const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup()
})

type Answer = (response: ServerResponse, incoming: IncomingMessage) => void

/** A server on loopback that lists a model, and answers POSTs as told. @returns its address and the paths and headers it saw. */
async function upstream(answer: Answer, { host = '127.0.0.1', model = 'tiny' } = {}) {
  const seen: IncomingMessage[] = []
  const server = createServer((incoming, response) => {
    seen.push(incoming)
    incoming.resume()
    if (incoming.method === 'POST') answer(response, incoming)
    else response.end(JSON.stringify({ data: [{ id: model }] }))
  })
  server.listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  cleanups.push(async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return { port, seen }
}

async function engineAt(
  urls: readonly string[],
  options: { idleTimeoutMs?: number; apiKey?: string } = {},
): Promise<Engine> {
  const { idleTimeoutMs, apiKey = null } = options
  const idle = idleTimeoutMs === undefined ? {} : { idleTimeoutMs }
  const engine = await createRemoteEngine({ urls, apiKey, model: null, ...idle })
  cleanups.unshift(() => engine.close())
  return engine
}

async function engineWith(answer: Answer, options: { idleTimeoutMs?: number } = {}): Promise<Engine> {
  const { port } = await upstream(answer)
  return engineAt([`http://127.0.0.1:${port}`], options)
}

const frame = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const piece = (text: string, reason: string | null = null) => ({ choices: [{ index: 0, text, finish_reason: reason }] })
const whole = `${frame(piece('he'))}${frame(piece('llo', 'stop'))}data: [DONE]\n\n`
const failureOf = async (
  engine: Engine,
): Promise<{ code?: string; message: string; retryAfterSeconds?: number | null }> =>
  collect(engine, request({})).then(
    () => expect.unreachable('it was answered'),
    (error: Error) => error as Error & { code?: string },
  )

describe('answers that are answers', () => {
  it.each<[string, Answer]>([
    ['compressed', (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(whole))],
    [
      'with trailers',
      (response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream', trailer: 'x-sum' })
        response.write(whole)
        response.addTrailers({ 'x-sum': '1' })
        response.end()
      },
    ],
    [
      'with [DONE] twice and more behind it',
      (response) => response.end(`${whole}data: [DONE]\n\n${frame({ error: 'late' })}`),
    ],
    ['that stays open after [DONE]', (response) => response.write(whole)],
    [
      'with a null usage, null choices and null deltas',
      (response) =>
        response.end(
          frame({ choices: null, usage: null }) +
            frame({ choices: [{ index: 0, delta: null, text: null, finish_reason: null }], usage: null }) +
            whole,
        ),
    ],
    [
      'with content in parts',
      (response) =>
        response.end(
          frame({ choices: [{ delta: { content: [{ type: 'text', text: 'hello' }] }, finish_reason: 'stop' }] }),
        ),
    ],
    [
      'under a content type with parameters',
      (response) => response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' }).end(whole),
    ],
    ['behind a byte order mark', (response) => response.end(`\uFEFF${whole}`)],
    [
      'whole, from a server that does not stream',
      (response) =>
        response
          .writeHead(200, { 'content-type': 'application/json; charset=utf-8' })
          .end(JSON.stringify({ choices: [{ index: 0, message: { content: 'hello' }, finish_reason: 'stop' }] })),
    ],
  ])('%s', async (_, answer) => {
    const { texts, reasons } = await collect(await engineWith(answer), request({}))
    expect({ texts, reasons }).toEqual({ texts: ['hello'], reasons: ['stop'] })
  })

  it('with bytes that are no UTF-8 has characters in their place', async () => {
    const bytes = Buffer.from(frame(piece('a?b', 'stop')))
    bytes[bytes.indexOf('?')] = 0xff
    const { texts } = await collect(await engineWith((response) => response.end(bytes)), request({}))
    expect(texts).toEqual(['a\uFFFDb'])
  })

  it('that shows life while it waits is waited for', async () => {
    let timer: NodeJS.Timeout | undefined
    const engine = await engineWith(
      (response) => {
        let numPings = 0
        timer = setInterval(() => {
          if (numPings++ < 40) response.write(': waiting\n\n')
          else {
            clearInterval(timer)
            response.end(whole)
          }
        }, 20)
      },
      { idleTimeoutMs: 600 },
    )
    expect((await collect(engine, request({}))).texts).toEqual(['hello'])
  })

  it.each(['reasoning_content', 'reasoning'])('keeps thoughts sent as %s apart', async (name) => {
    const engine = await engineWith((response) =>
      response.end(frame({ choices: [{ delta: { [name]: 'hm' }, finish_reason: null }] }) + whole),
    )
    const { events, texts } = await collect(engine, request({}))
    expect(events.flatMap((event) => (event.type === 'token' && event.reasoning ? [event.reasoning] : []))).toEqual([
      'hm',
    ])
    expect(texts).toEqual(['hello'])
  })
})

describe('answers that are none', () => {
  const json =
    (value: unknown): Answer =>
    (response) =>
      void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
  it.each<[string, Answer, string]>([
    [
      'a page',
      (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>CANARY'),
      'upstream_error',
    ],
    ['an error under 200', json({ error: { message: 'CANARY', code: 'broken' } }), 'upstream_error'],
    ['too many requests under 200', json({ error: { message: 'CANARY', code: 429 } }), 'queue_full'],
    ['an error as a text', json({ error: 'CANARY' }), 'upstream_error'],
    ['a list', json(['CANARY']), 'upstream_error'],
    [
      'JSON cut short',
      (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('{"CANARY'),
      'upstream_error',
    ],
    [
      'gzip that is none',
      (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end('CANARY'),
      'upstream_error',
    ],
    [
      'gzip cut short',
      (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(whole).subarray(0, 40)),
      'upstream_error',
    ],
    [
      'a length that lies',
      (response) => {
        response.writeHead(200, { 'content-length': '9999' })
        response.write(frame(piece('a')))
        setImmediate(() => response.destroy())
      },
      'upstream_error',
    ],
    ['a failed end', (response) => response.end(frame(piece('a', 'error'))), 'upstream_error'],
    ['nothing', (response) => response.end(), 'upstream_error'],
    ['no content', (response) => response.writeHead(204).end(), 'upstream_error'],
    ['a line of 10 MB', (response) => response.end(`data: "${'x'.repeat(10_000_000)}"\n\n`), 'upstream_error'],
    ['numbers for events', (response) => response.end('data: 1\n\ndata: [1]\n\ndata: "CANARY"\n\n'), 'upstream_error'],
  ])('%s', async (_, answer, code) => {
    const failure = await failureOf(await engineWith(answer))
    expect(failure).toMatchObject({ name: 'EngineError', code })
    expect(failure.message).not.toContain('CANARY')
  })

  it.each([
    ['17', 17],
    ['1.5', 2],
    [new Date(Date.now() - 60_000).toUTCString(), 0],
    ['Fri, 31 Dec 9999 23:59:59 GMT', 86_400],
    ['99999999', 86_400],
    ['soon', null],
  ])('429 with Retry-After %s', async (header, seconds) => {
    const failure = await failureOf(
      await engineWith((response) => response.writeHead(429, { 'retry-after': header }).end()),
    )
    expect(failure).toMatchObject({ code: 'queue_full' })
    expect(failure.retryAfterSeconds).toBe(seconds)
  })

  it('a Retry-After of a date is the time until then', async () => {
    const date = new Date(Date.now() + 90_000).toUTCString()
    const failure = await failureOf(
      await engineWith((response) => response.writeHead(503, { 'retry-after': date }).end()),
    )
    expect(failure.retryAfterSeconds).toBeGreaterThan(80)
    expect(failure.retryAfterSeconds).toBeLessThanOrEqual(90)
  })

  it('bytes that are no HTTP', async () => {
    const sockets = new Set<Socket>()
    let isListing = true
    const server = createTcpServer((socket) => {
      sockets.add(socket.on('error', () => {}))
      socket.once('data', () => {
        const body = JSON.stringify({ data: [{ id: 'tiny' }] })
        socket.end(isListing ? `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}` : 'CANARY\r\n\r\n')
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    cleanups.push(async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    })
    const engine = await engineAt([`http://127.0.0.1:${(server.address() as AddressInfo).port}`])
    isListing = false
    const failure = await failureOf(engine)
    expect(failure).toMatchObject({ code: 'upstream_error' })
    expect(failure.message).not.toContain('CANARY')
  })
})

describe('addresses', () => {
  const hello: Answer = (response) => void response.end(whole)

  it.each(['', '/', '/v1', '/v1/', '/proxy/engine', '/proxy/engine/v1//'])('may end in "%s"', async (path) => {
    const { port, seen } = await upstream(hello)
    const engine = await engineAt([`http://127.0.0.1:${port}${path}`])
    await collect(engine, request({}))
    const prefix = path.startsWith('/proxy') ? '/proxy/engine' : ''
    expect(seen.map(({ url }) => url)).toEqual([`${prefix}/v1/models`, `${prefix}/v1/completions`])
  })

  it('may be of IPv6', async () => {
    const { port } = await upstream(hello, { host: '::1' })
    expect((await collect(await engineAt([`http://[::1]:${port}`]), request({}))).texts).toEqual(['hello'])
  })

  it('may have a name and a password, which go into a header and nowhere else', async () => {
    const { port, seen } = await upstream((response) => response.writeHead(500).end())
    const urls: string[] = []
    const engine = await engineAt([`http://me:p%40ss%@127.0.0.1:${port}/v1`])
    const onUpstreamCall = (url: string) => {
      urls.push(url)
      return { headers: {}, run: <T>(send: () => T) => send(), end: () => {} }
    }
    await expect(collect(engine, request({ onUpstreamCall }))).rejects.toThrow(/status 500/)
    expect(urls).toEqual([`http://127.0.0.1:${port}/v1/completions`])
    const expected = `Basic ${Buffer.from('me:p%40ss%').toString('base64')}`
    expect(seen.map(({ headers }) => headers.authorization)).toEqual([expected, expected])
    const gone = createRemoteEngine({ urls: ['http://me:CANARY@127.0.0.1:9'], apiKey: null, model: null })
    await expect(gone).rejects.not.toThrow(/CANARY/)
  })

  it('that lead nowhere are said with their reason', async () => {
    const at = (url: string) => createRemoteEngine({ urls: [url], apiKey: null, model: null })
    await expect(at('http://does-not-exist.invalid')).rejects.toThrow(/ENOTFOUND|EAI_AGAIN/)
    await expect(at('http://127.0.0.1:9')).rejects.toThrow(/ECONNREFUSED|bad port/)
    const { port } = await upstream(hello)
    await expect(at(`https://127.0.0.1:${port}`)).rejects.toThrow(/ERR_SSL|EPROTO/)
    const tls = createTlsServer().listen(0, '127.0.0.1')
    await once(tls, 'listening')
    cleanups.push(async () => {
      tls.close()
      await once(tls, 'close')
    })
    await expect(at(`https://127.0.0.1:${(tls.address() as AddressInfo).port}`)).rejects.toThrow(
      /cannot be asked for its models \(/,
    )
  })

  it('of engines with different models are refused by name', async () => {
    const [a, b] = [await upstream(hello, { model: 'one' }), await upstream(hello, { model: 'two' })]
    const both = engineAt([`http://127.0.0.1:${a.port}`, `http://127.0.0.1:${b.port}`])
    await expect(both).rejects.toThrow(/expected model one, found two; name one with --served-model-name/)
  })
})

describe('an upstream that flaps', () => {
  it('costs no request while another is well', async () => {
    let numCalls = 0
    const flapping = await upstream((response) => {
      if (numCalls++ % 2 === 0) response.socket?.destroy()
      else response.end(whole)
    })
    const well = await upstream((response) => response.end(whole))
    const engine = await engineAt([flapping, well].map(({ port }) => `http://127.0.0.1:${port}`))
    const answers = await Promise.all(
      Array.from({ length: 24 }, (_, i) => collect(engine, request({ prompts: [{ text: `question ${i}` }] }))),
    )
    expect(answers.map(({ texts }) => texts[0])).toEqual(Array.from({ length: 24 }, () => 'hello'))
    expect(engine.stats().numRunning).toBe(0)
  })
})
