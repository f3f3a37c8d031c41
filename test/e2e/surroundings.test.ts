/** Faults around the server (fault-rows.ts): a disk, descriptors, a clock, engines behind it. The real process meets each. */
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { Agent, createServer, request } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { FAULTS } from './fault-rows.ts'
import { ServerProcess } from './server-process.ts'

/** util-linux's prlimit sets limits of a process that runs; without it a full disk and lost descriptors cannot be provoked. */
const hasLimits = spawnSync('prlimit', ['--version']).status === 0
const limit = (server: ServerProcess, name: string, value: string) =>
  execFileSync('prlimit', ['--pid', String(server.pid), `--${name}=${value}:`])

const SHORT = { prompt: 'The river', max_tokens: 3 }

const document = (id: string, words: number) => ({
  id,
  text: `# ${id}\n\n${Array.from({ length: words }, (_, i) => `${id}word${i % 997} tells of the ${id} harbour`).join('. ')}.`,
})

async function found(server: ServerProcess, query: string): Promise<string[]> {
  const response = await server.post('/v1/rag/query', { index: 'notes', query })
  expect(response.status).toBe(200)
  const { documents } = (await response.json()) as { documents: { id: string }[] }
  return documents.map(({ id }) => id)
}

it.runIf(hasLimits)(FAULTS.diskFull.fault, { timeout: 60_000 }, async () => {
  const server = await ServerProcess.start(['--log-file', ''])
  try {
    const store = (documents: readonly object[]) => server.post('/v1/rag/documents', { index: 'notes', documents })
    expect((await store([document('first', 20)])).status).toBe(200)
    // No file may grow beyond this: a write fails, as it does on a full disk.
    limit(server, 'fsize', '4096')
    const refused = await store([document('second', 4000)])
    expect(refused.status).toBeGreaterThanOrEqual(500)
    expect(await refused.json()).toMatchObject({ error: { message: expect.stringMatching(/index|stor|disk|file/i) } })
    expect(await found(server, 'firstword1 harbour')).toContain('first')
    expect((await server.post('/v1/completions', SHORT)).status).toBe(200)
    limit(server, 'fsize', 'unlimited')
    expect((await store([document('second', 4000)])).status).toBe(200)
    expect(await found(server, 'secondword1 harbour')).toContain('second')
    expect(await found(server, 'firstword1 harbour')).toContain('first')
  } finally {
    expect(await server.stop()).toEqual({ code: 0, signal: null })
  }
})

it.runIf(hasLimits)(FAULTS.descriptors.fault, { timeout: 60_000 }, async () => {
  const server = await ServerProcess.start(['--log-file', ''])
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const ask = () =>
    new Promise<number | undefined>((resolve, reject) => {
      const headers = { 'content-type': 'application/json' }
      const call = request(`${server.url}/v1/completions`, { method: 'POST', agent, headers }, (response) => {
        response.resume().once('end', () => resolve(response.statusCode))
      })
      call.once('error', reject)
      call.end(JSON.stringify(SHORT))
    })
  const sockets: Socket[] = []
  try {
    expect(await ask()).toBe(200)
    const numOpen = readdirSync(`/proc/${server.pid}/fd`).length
    limit(server, 'nofile', String(numOpen + 2))
    const { hostname, port } = new URL(server.url)
    for (let i = 0; i < 30; i++) {
      const socket = connect(Number(port), hostname)
      socket.on('error', () => undefined)
      sockets.push(socket)
      await Promise.race([once(socket, 'connect'), once(socket, 'close')])
    }
    expect(await ask()).toBe(200)
    for (const socket of sockets) socket.destroy()
    limit(server, 'nofile', '1024')
    const fresh = await server.post('/v1/completions', SHORT, { connection: 'close' })
    expect(fresh.status).toBe(200)
    await fresh.text()
  } finally {
    for (const socket of sockets) socket.destroy()
    agent.destroy()
    expect(await server.stop()).toEqual({ code: 0, signal: null })
  }
})

it(FAULTS.clock.fault, { timeout: 60_000 }, async () => {
  const clock = fileURLToPath(new URL('./faults/clock.mjs', import.meta.url))
  const server = await ServerProcess.start(['--device', 'reference', '--request-timeout', '60'], {
    NODE_OPTIONS: `--import ${clock}`,
  })
  try {
    for (const round of ['on', 'back', 'on again']) {
      const startedMs = performance.now()
      const answer = server.post('/v1/completions', { prompt: round, max_tokens: 40, ignore_eos: true, stream: true })
      const response = await answer
      server.signal('SIGUSR2')
      expect(await response.text()).toContain('[DONE]')
      const tookMs = performance.now() - startedMs
      const traceId = response.headers.get('x-trace-id')
      await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'response.sent')
      const trace = await server.get(`/v1/traces/${traceId}`)
      const { resourceSpans } = (await trace.json()) as {
        resourceSpans: { scopeSpans: { spans: { startTimeUnixNano: string; endTimeUnixNano: string }[] }[] }[]
      }
      const spans = resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans: all }) => all))
      expect(spans.length).toBeGreaterThanOrEqual(5)
      for (const { startTimeUnixNano, endTimeUnixNano } of spans) {
        const ms = Number(BigInt(endTimeUnixNano) - BigInt(startTimeUnixNano)) / 1e6
        expect(ms).toBeGreaterThanOrEqual(0)
        expect(ms).toBeLessThanOrEqual(tookMs + 1)
      }
    }
  } finally {
    expect(await server.stop()).toEqual({ code: 0, signal: null })
  }
})

it(FAULTS.hangingUpstream.fault, { timeout: 60_000 }, async () => {
  let numWaiting = 0
  const freed: Promise<unknown>[] = []
  const upstream = createServer((call, response) => {
    if (call.url === '/v1/models') {
      response.setHeader('content-type', 'application/json')
      response.end('{"object":"list","data":[{"id":"far","object":"model"}]}')
      return
    }
    numWaiting++
    freed.push(once(response, 'close'))
  })
  upstream.listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/v1`
  const server = await ServerProcess.start(['--engine-url', url, '--request-timeout', '0.5'])
  try {
    const response = await server.post('/v1/completions', SHORT)
    expect(response.status).toBe(504)
    expect(await response.json()).toMatchObject({ error: { message: expect.stringContaining('time limit') } })
    expect(numWaiting).toBeGreaterThan(0)
    await Promise.all(freed)
    expect((await server.get('/health')).status).toBe(200)
  } finally {
    expect(await server.stop()).toEqual({ code: 0, signal: null })
    upstream.closeAllConnections()
    upstream.close()
  }
})
