/**
 * A collector that is away, hangs, is slow or resets connections: requests do not notice, memory stays bounded, the log says so once in
 * 30 s, every span is accounted for, and the server stops within its bound.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterAll, describe, it } from 'vitest'
import { OtlpReceiver } from './otlp-receiver.ts'
import { readFrames, ServerProcess } from './server-process.ts'

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'
const NUM_REQUESTS = isFull ? 2000 : 60
/** Small enough that the requests fill it many times. */
const QUEUE_SIZE = 256
const ENV = {
  OTEL_BSP_SCHEDULE_DELAY: '20',
  OTEL_BSP_MAX_QUEUE_SIZE: String(QUEUE_SIZE),
  // What is kept shows: the collector of garbage may not put its work off.
  NODE_OPTIONS: '--max-old-space-size=96',
}
/** The flush may take 5 s, closing the engine 2 s; the rest is the machine's. */
const STOP_BOUND_MS = 15_000

const sockets = new Set<Socket>()
const closers: (() => unknown)[] = []
afterAll(async () => {
  for (const socket of sockets) socket.destroy()
  for (const close of closers) await close()
})

async function tcp(onConnection: (socket: Socket) => void): Promise<string> {
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    onConnection(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  closers.push(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A real receiver behind a wire that holds every byte back for a while. */
async function slow(): Promise<string> {
  const receiver = await OtlpReceiver.start()
  closers.push(() => receiver.close())
  const { port } = new URL(receiver.url)
  const { connect } = await import('node:net')
  return tcp((socket) => {
    const upstream = connect(Number(port), '127.0.0.1')
    upstream.on('error', () => socket.destroy())
    socket.on('data', (bytes) => setTimeout(() => upstream.write(bytes), 300))
    upstream.pipe(socket)
    socket.on('close', () => upstream.destroy())
  })
}

type Collector = readonly [name: string, url: () => Promise<string>]
/** Each is a server of its own: the full level also has the milder forms of silence and of breaking off. */
const COLLECTORS: readonly Collector[] = [
  ['refuses connections', async () => 'http://127.0.0.1:1'],
  ['accepts and stays silent', () => tcp(() => {})],
  ['breaks off after the first bytes', () => tcp((socket) => socket.once('data', () => socket.destroy()))],
  ...(isFull
    ? ([
        ['is slow', slow],
        ['resets connections', () => tcp((socket) => socket.resetAndDestroy())],
      ] satisfies Collector[])
    : []),
]

const residentBytes = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024

describe.concurrent.each(COLLECTORS)('a collector that %s', (_, collector) => {
  it('does not disturb the server', { timeout: 120_000 }, async ({ expect }) => {
    const startedMs = performance.now()
    const server = await ServerProcess.start(
      ['--otlp-traces-endpoint', await collector(), '--trace-store-size=100'],
      ENV,
    )
    let numSent = 0
    let warmBytes = 0
    const client = async () => {
      while (numSent < NUM_REQUESTS) {
        const i = numSent++
        const stream = i % 2 === 0
        const response = await server.post('/v1/completions', { prompt: `Request ${i}`, max_tokens: 2, stream })
        expect(response.status).toBe(200)
        if (stream) expect((await readFrames(response)).at(-1)).toBe('[DONE]')
        else await response.text()
        if (i === Math.floor(NUM_REQUESTS / 3)) warmBytes = residentBytes(server.pid)
      }
    }
    await Promise.all(Array.from({ length: 8 }, client))
    if (isFull) expect(residentBytes(server.pid) - warmBytes).toBeLessThan(64 * 1024 * 1024)
    // The pages know them all the same.
    const { traces } = (await (await server.get('/v1/traces?limit=1000')).json()) as { traces: unknown[] }
    expect(traces).toHaveLength(Math.min(NUM_REQUESTS, 100))

    const stoppedMs = performance.now()
    expect(await server.stop()).toEqual({ code: 0, signal: null })
    const tookMs = performance.now() - stoppedMs
    expect(tookMs).toBeLessThan(STOP_BOUND_MS)
    const problems = server.logs.filter((line) => line.msg === 'telemetry.problem')
    expect(problems.length).toBeLessThanOrEqual(1 + Math.floor((performance.now() - startedMs) / 30_000))
    const counts = server.logs.find((line) => line.msg === 'telemetry.stopped')
    expect(counts).toMatchObject({ created: NUM_REQUESTS * 5, unsampled: 0, open_requests: 0, open_spans: 0 })
    expect(Number(counts?.['exported']) + Number(counts?.['dropped'])).toBe(NUM_REQUESTS * 5)
  })
})
