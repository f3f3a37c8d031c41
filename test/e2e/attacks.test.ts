/** Requests that mean harm, against the real process: each is answered or refused in time, and others are served meanwhile. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { json } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { RawConnection, rawExchange } from './raw-connection.ts'
import { ServerProcess } from './server-process.ts'

const MAX_BYTES = 16 * 2 ** 20
/** The default heap of a small machine is 2 GB; a request may not come near it. */
const MAX_RSS_MIB = 1200

let server: ServerProcess
beforeAll(async () => {
  server = await ServerProcess.start(['--max-queued-requests', '64'])
})
afterAll(async () => {
  await server?.stop()
})

/** Peak memory of the server so far. */
const peakMiB = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))?.[1]) / 1024

async function gauge(name: string): Promise<number> {
  const text = await (await server.get('/metrics')).text()
  return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(text)?.[1])
}

/** Sends a request while /health is asked, and answers, without a pause. */
async function besideHealth<T>(request: Promise<T>): Promise<T> {
  const over = new AbortController()
  const answered = request.finally(() => over.abort())
  do expect((await server.get('/health')).status).toBe(200)
  while (!over.signal.aborted)
  return answered
}

const post = (path: string, body: string) =>
  rawExchange(
    server.url,
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )

/** Over node:http, whose request and socket fail loudly when the server closes while they write. */
async function send(agent: http.Agent, method: string, path: string, body?: string) {
  const request = http.request(server.url + path, { agent, method, headers: { 'content-type': 'application/json' } })
  request.end(body)
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return { status: response.statusCode, port: response.socket.localPort, body: await json(response) }
}

it('a body that is refused before its end is read to its end: the client has its answer and keeps its connection', async () => {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  try {
    // Small enough to be sent, on a busy machine too, before the connection of a client that does not stop is closed.
    const refused = await send(agent, 'POST', '/v1/completions', wide('prompt', '[]', 2 ** 20))
    const next = await send(agent, 'GET', '/v1/models')
    expect([refused.status, next.status]).toEqual([400, 200])
    expect(next.port).toBe(refused.port)
  } finally {
    agent.destroy()
  }
})

it('arguments of an earlier call that are nested without end are text; parameters of a tool have to be an object', async () => {
  const call = {
    id: '1',
    type: 'function',
    function: { name: 'f', arguments: '['.repeat(20_000) + ']'.repeat(20_000) },
  }
  const user = { role: 'user', content: 'x' }
  const messages = [user, { role: 'assistant', tool_calls: [call] }, { role: 'tool', tool_call_id: '1', content: 'y' }]
  const long = await server.post('/v1/chat/completions', { messages, max_tokens: 1 })
  expect(await long.json()).toMatchObject({ error: { code: 'context_length_exceeded' } })
  const [deep] = messages.slice(1)
  const short = { ...call, function: { name: 'f', arguments: '['.repeat(500) + ']'.repeat(500) } }
  const shown = await server.post('/v1/chat/completions', { messages: [user, { ...deep, tool_calls: [short] }, messages[2]], max_tokens: 1 }) // prettier-ignore
  expect(shown.status).toBe(200)
  const tools = [{ type: 'function', function: { name: 'f', parameters: 'none' } }]
  const refused = await server.post('/v1/chat/completions', { messages: [user], tools })
  expect(await refused.json()).toMatchObject({ error: { param: 'tools.0.function.parameters' } })
})

/** `unit` as often as it fits into a list of the largest body. */
const wide = (field: string, unit: string, numBytes = MAX_BYTES) =>
  `{"${field}":[${`${unit},`.repeat(Math.floor((numBytes - 200) / (unit.length + 1)))}${unit}]}`

describe('a body of the largest size that is one list', () => {
  it.each([
    ['/v1/completions', 'prompt', '[]'],
    ['/v1/completions', 'prompt', '-1'],
    ['/v1/completions', 'prompt', '""'],
    ['/v1/chat/completions', 'messages', '{}'],
    ['/v1/chat/completions', 'tools', '{}'],
    ['/v1/responses', 'input', '{}'],
    ['/v1/messages', 'messages', '[]'],
    ['/v1/embeddings', 'input', '[]'],
    ['/v1/rerank', 'documents', '{}'],
    ['/v1/rag/documents', 'documents', '{}'],
    ['/tokenize', 'messages', '{}'],
    ['/detokenize', 'tokens', '1'],
  ])('%s {"%s": [%s, …]} is refused while others are served', async (path, field, unit) => {
    const answer = await besideHealth(post(path, wide(field, unit)))
    expect(answer.status).toBe(400)
    expect(answer.body).toMatch(/"message":"\w+\S*: expected /)
  })

  // Few enough to be parsed: the schema has to give up at the first item.
  it.each([
    ['/v1/completions', 'prompt', '[]'],
    ['/v1/completions', 'stop', '{}'],
    ['/v1/completions', 'stop_token_ids', '-1'],
    ['/v1/chat/completions', 'messages', '[]'],
    ['/v1/responses', 'input', '{}'],
    ['/v1/messages', 'messages', '{}'],
    ['/v1/messages/count_tokens', 'messages', '{}'],
    ['/v1/embeddings', 'input', '{}'],
    ['/v1/rerank', 'query', '1'],
    ['/detokenize', 'tokens', '-1'],
  ])('%s {"%s": [%s, …]} of 100,000 items as well', async (path, field, unit) => {
    const answer = await besideHealth(post(path, wide(field, unit, 100_000 * (unit.length + 1))))
    expect(answer.status).toBe(400)
    expect(answer.body).toContain(`"message":"${field}`)
  })
})

it('many keys, deep nests and long strings are refused or answered, too', async () => {
  const keys = Array.from({ length: 200_000 }, (_, i) => `"k${i}":0`).join()
  for (const [body, status] of [
    [`{"prompt":"x","max_tokens":1,${keys}}`, 400],
    [`{"prompt":"x","logit_bias":{${keys.slice(0, 900_000).replace(/,[^,]*$/, '')}}}`, 400],
    [`{"prompt":"x","tools":${'['.repeat(8_000_000)}`, 400],
    [`{"prompt":"${'x'.repeat(MAX_BYTES - 20)}"}`, 400],
    [`{"prompt":"${'\\u00e9'.repeat(2_000_000)}"}`, 400],
    [`{"prompt":"x","user":"${'\\\\'.repeat(8_000_000)}","max_tokens":1}`, 200],
  ] as const) {
    const answer = await besideHealth(post('/v1/completions', body))
    expect(answer.status, answer.body.slice(0, 200)).toBe(status)
  }
})

it('memory stays bounded over all of it', () => {
  expect(peakMiB()).toBeLessThan(MAX_RSS_MIB)
})

describe('pipelined requests', () => {
  const body = JSON.stringify({ prompt: 'a b c', max_tokens: 8000, ignore_eos: true })
  const one = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`

  it('end with their connection', async () => {
    const connection = await RawConnection.open(server.url)
    connection.write(one.repeat(20))
    while ((await gauge('miniserve_num_requests_running')) < 20);
    connection.close()
    while ((await gauge('miniserve_num_requests_running')) + (await gauge('miniserve_num_requests_waiting')) > 0);
  })

  it('are bounded on one connection', async () => {
    const connection = await RawConnection.open(server.url)
    const health = 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'
    connection.write(one.repeat(40) + health)
    const log = await server.waitForLog((line) => line.msg === 'request.refused' && line['status'] === 429)
    expect(log).toMatchObject({ reason: 'overloaded' })
    connection.close()
    while ((await gauge('miniserve_num_requests_running')) + (await gauge('miniserve_num_requests_waiting')) > 0);
  })
})

describe('a path with dot segments', () => {
  it.each([
    ['DELETE', '/v1/rag/documents/%2e%2e/indexes/victim'],
    ['DELETE', '/v1/rag/documents/..%2f../../indexes/victim'],
    ['GET', '/health/%2E%2e/v1/traces'],
    ['GET', '/health/../v1/traces'],
    ['GET', '/v1/./models'],
    ['GET', 'http://localhost/health/../v1/traces'],
  ])('%s %s is refused', async (method, target) => {
    const answer = await rawExchange(server.url, `${method} ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    expect(answer.status).toBe(400)
    expect(answer.body).toContain('segment')
  })

  it('dots elsewhere are a name like any other', async () => {
    const answer = await rawExchange(
      server.url,
      'GET /v1/rag/documents/a..b/.hidden?index=../x HTTP/1.1\r\nHost: localhost\r\n\r\n',
    )
    expect(answer.body).not.toContain('segment')
  })

  it('as the id of a document neither', async () => {
    const documents = ['.', '..'].map((id) => ({ id, text: 'some text' }))
    const answer = await server.post('/v1/rag/documents', { index: 'dots', documents })
    expect(await answer.json()).toMatchObject({ accepted: 0, rejected: [{}, {}] })
  })
})

it('a body is invited when it is wanted, and not before', async () => {
  const head = (length: number) =>
    `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: ${length}\r\n\r\n`
  const refused = await rawExchange(server.url, head(2 * MAX_BYTES))
  expect(refused.status).toBe(413)
  expect(refused.head).toMatch(/^connection: close/im)
  const connection = await RawConnection.open(server.url)
  const body = JSON.stringify({ prompt: 'x', max_tokens: 1 })
  connection.write(head(body.length))
  expect(await connection.until((text) => text.includes('\r\n\r\n'))).toBe('HTTP/1.1 100 Continue\r\n\r\n')
  connection.write(body)
  expect(await connection.until((text) => text.includes('"choices"'))).toContain('HTTP/1.1 200 OK')
  connection.close()
})

it('questions to the tokenizer are bounded in memory', async () => {
  const held = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const connection = await RawConnection.open(server.url)
      connection.write(
        `POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${MAX_BYTES}\r\n\r\n{"prompt":"${'x'.repeat(MAX_BYTES - 100)}`,
      )
      return connection
    }),
  )
  // Those that are let in wait for the rest of their body; one at least is not.
  const refused = await Promise.race(held.map((connection) => connection.answer()))
  expect(refused.status).toBe(429)
  expect((await server.get('/health')).status).toBe(200)
  for (const connection of held) connection.close()
})
