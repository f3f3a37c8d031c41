/** Who gets in, and who goes first: keys that are missing or wrong, addresses that others reach, and keys that want everything. */
import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

/** With keys. What a test does to it, the tests behind have to live with; the last one ends it. */
let keyed: ServerProcess
/** Without keys, on an address that others reach. */
let open: ServerProcess
beforeAll(async () => {
  const keys = ['--api-key', 'a', '--api-key', 'b', '--admin-key', 'root']
  const insecure = ['--host', '0.0.0.0', '--insecure', '--cors-origin', 'http://app.test']
  ;[keyed, open] = await Promise.all([
    ServerProcess.start([...keys, '--max-num-seqs', '4', '--max-queued-requests', '16']),
    ServerProcess.start(insecure),
  ])
})
afterAll(async () => {
  await Promise.all([keyed?.stop(), open?.stop()])
})

/** A start that fails: its exit code and what it said. */
async function refused(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const server = new ServerProcess(args, env)
  const { code } = await server.exited
  return { code, stderr: server.stderr }
}

const bearer = (key: string) => ({ authorization: `Bearer ${key}` })

describe('a start', () => {
  it.concurrent.each(['', ' ', ',', ' , '])('with the key %j from the environment is refused', async (key) => {
    const { code, stderr } = await refused([], { MINISERVE_API_KEY: key })
    expect(code).toBe(2)
    expect(stderr).toMatch(/^(?:miniserve: )?MINISERVE_API_KEY: expected a key, found a blank value/m)
  })

  it('on an address that others reach wants a key, or --insecure', async () => {
    const [{ code, stderr }, withAdmin] = await Promise.all([
      refused(['--host', '0.0.0.0']),
      refused(['--host', '0.0.0.0', '--admin-key', 'root']),
    ])
    expect(code).toBe(1)
    expect(stderr).toMatch(/--host 0\.0\.0\.0: expected a key .*--insecure/)
    expect(withAdmin.code).toBe(1)
  })
})

/** fetch sets the Host header itself. */
const statusUnder = (server: ServerProcess, host: string) =>
  new Promise<number | undefined>((resolve, reject) => {
    const url = new URL('/v1/models', server.url.replace('0.0.0.0', '127.0.0.1'))
    request(url, { headers: { host } }, (response) => resolve(response.resume().statusCode))
      .on('error', reject)
      .end()
  })

it('without keys answers to addresses, not to names that somebody pointed at it', async () => {
  const port = new URL(open.url).port
  for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example'])
    expect(await statusUnder(open, `${host}:${port}`), host).toBe(403)
  for (const host of ['localhost', '127.0.0.1', '192.168.1.5', '[::1]', 'app.test'])
    expect(await statusUnder(open, `${host}:${port}`), host).toBe(200)
})

describe('two keys', () => {
  const LONG = { prompt: 'a b c', max_tokens: 150, ignore_eos: true, n: 4 }

  it('take turns, whatever priority one of them wishes for, and leave each other room in the queue', async () => {
    const order: string[] = []
    const run = async (name: string, key: string, body: object) => {
      const response = await keyed.post('/v1/completions', { ...LONG, ...body }, bearer(key))
      expect(response.status).toBe(200)
      await response.text()
      order.push(name)
    }
    const flood = ['a1', 'a2', 'a3'].map((name) => run(name, 'a', { priority: -1000 }))
    for (;;) {
      const text = await (await keyed.get('/metrics', bearer('root'))).text()
      if (/^miniserve_num_requests_waiting 8$/m.test(text)) break
    }
    // Four run and eight wait: a key has half of the queue.
    const refusal = await keyed.post('/v1/completions', { ...LONG, n: 1 }, bearer('a'))
    expect(refusal.status).toBe(429)
    expect(await refusal.json()).toMatchObject({ error: { code: 'key_queue_full' } })
    const other = run('b', 'b', { n: 1, max_tokens: 1 })
    await Promise.all([...flood, other])
    expect(order[0]).toBe('b')
  })
})

it("the caller's X-Request-Id is on the answer, in the first line, on the span, and finds the trace", async () => {
  const server = keyed
  const body = { prompt: 'x', max_tokens: 1 }
  const response = await server.post('/v1/completions', body, { ...bearer('a'), 'x-request-id': 'order-4711' })
  await response.text()
  expect(response.headers.get('x-request-id')).toBe('order-4711')
  const line = await server.waitForLog((at) => at.msg === 'request.received' && at['caller_request_id'] !== undefined)
  expect(line).toMatchObject({ caller_request_id: 'order-4711' })
  const found = (await (await server.get('/v1/traces?request_id=order-4711', bearer('a'))).json()) as {
    traces: unknown[]
  }
  expect(found.traces).toMatchObject([{ trace_id: response.headers.get('x-trace-id') }])
  const trace = await (await server.get(`/v1/traces/${response.headers.get('x-trace-id')}`, bearer('a'))).text()
  expect(trace).toContain('http.request.header.x-request-id')
})

it('wrong keys are logged, slowed down and never locked out of the right one', async () => {
  const server = keyed
  const form = (key: string) =>
    fetch(`${server.url}/traces/sign-in`, { method: 'POST', body: new URLSearchParams({ key }), redirect: 'manual' })
  expect((await form('wrong')).status).toBe(401)
  expect(await server.waitForLog(({ msg }) => msg === 'sign_in.refused')).toMatchObject({ level: 'warn', attempts: 1 })
  for (let i = 1; i < 10; i++) expect((await server.get('/v1/models', bearer(`wrong ${i}`))).status).toBe(401)
  const slow = await server.get('/v1/models', bearer('wrong again'))
  expect([slow.status, slow.headers.get('retry-after')]).toEqual([429, '60'])
  expect((await form('a')).status).toBe(429)
  expect((await server.get('/v1/models', bearer('a'))).status).toBe(200)
  expect((await server.get('/v1/models', { ...bearer('sdk default'), 'x-api-key': 'b' })).status).toBe(200)
  expect(server.logs.filter(({ msg }) => msg === 'key.refused')).toHaveLength(9)
})

it('SIGHUP lets what runs finish', async () => {
  const server = keyed
  const body = { prompt: 'x', max_tokens: 400, ignore_eos: true, stream: true }
  const running = await server.post('/v1/completions', body, bearer('a'))
  server.signal('SIGHUP')
  expect(await running.text()).toContain('[DONE]')
  expect(await server.exited).toEqual({ code: 0, signal: null })
})
