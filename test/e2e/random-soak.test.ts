/**
 * Random requests that end in every way, against the real server process: 300 in `npm test`, thousands in `test:full`, 10,000 in `soak`.
 * Whatever happens, each ends once, and nothing is left: no running request, no open span, no block, no growing memory.
 */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { OtlpReceiver } from './otlp-receiver.ts'
import { ServerProcess } from './server-process.ts'

const NUM_REQUESTS = { default: 300, full: 3000, soak: 10_000 }[process.env['MINISERVE_TEST_LEVEL'] ?? 'default'] ?? 300
const CONCURRENCY = 24

let receiver: OtlpReceiver
let server: ServerProcess

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  // A small pool and a short queue: preemptions and refusals happen.
  server = await ServerProcess.start([
    '--otlp-traces-endpoint',
    receiver.url,
    '--max-num-seqs=12',
    '--num-kv-blocks=128',
    '--max-queued-requests=20',
    '--max-model-len=512',
    // Full long before memory is first read.
    '--trace-store-size=300',
  ])
})

afterAll(async () => {
  await server?.stop()
  await receiver?.close()
})

/** mulberry32: the same requests in every run. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

const residentBytes = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024

async function metric(name: string): Promise<number> {
  const text = await (await server.get('/metrics')).text()
  const values = [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].map(([, value]) =>
    Number(value),
  )
  return values.reduce((sum, value) => sum + value, 0)
}

/** One random request; how it looked from the client. */
async function request(i: number): Promise<'done' | 'refused' | 'invalid' | 'left'> {
  const draw = random(i)
  const kind = draw()
  const abort = new AbortController()
  const words = Math.floor(draw() * 60) + 1
  const body =
    kind < 0.06
      ? { prompt: 17 }
      : {
          prompt: `Request ${i % 20} ${'and so on '.repeat(words)}`,
          max_tokens: Math.floor(draw() * 48),
          n: draw() < 0.15 ? 3 : 1,
          temperature: draw() < 0.5 ? 0 : 1,
          ignore_eos: draw() < 0.5,
          stream: draw() < 0.6,
          ...(draw() < 0.2 ? { stop: ['e'] } : {}),
          ...(draw() < 0.1 ? { logprobs: 2 } : {}),
        }
  if ('max_tokens' in body && body.max_tokens === 0) body.stream = false
  const leavesAfter = kind > 0.75 ? Math.floor(draw() * 6) : Infinity
  try {
    if (leavesAfter === 0) setImmediate(() => abort.abort())
    const response = await server.post('/v1/completions', body, {}, abort.signal)
    if (response.status === 400) return 'invalid'
    if (response.status === 429) return 'refused'
    expect(response.status).toBe(200)
    const reader = response.body?.getReader()
    for (let chunk = 0; ; chunk++) {
      if (chunk >= leavesAfter) {
        abort.abort()
        return 'left'
      }
      if ((await reader?.read())?.done !== false) return 'done'
    }
  } catch (error) {
    if (abort.signal.aborted) return 'left'
    throw error
  }
}

it(
  `${NUM_REQUESTS} random requests leave nothing behind`,
  async () => {
    const outcomes = { done: 0, refused: 0, invalid: 0, left: 0 }
    let next = 0
    let warmBytes = 0
    const worker = async () => {
      while (next < NUM_REQUESTS) {
        const i = next++
        if (i === Math.floor(NUM_REQUESTS / 4)) warmBytes = residentBytes(server.pid)
        outcomes[await request(i)]++
      }
    }
    await Promise.all(Array.from({ length: CONCURRENCY }, worker))
    // On a busy machine most are refused: their queue is short.
    expect(outcomes.done).toBeGreaterThan(NUM_REQUESTS / 10)
    expect(outcomes.left).toBeGreaterThan(0)

    const last = await server.post('/v1/completions', { prompt: 'The end', max_tokens: 2 })
    expect(last.status).toBe(200)
    expect(await metric('miniserve_num_requests_running')).toBe(0)
    expect(await metric('miniserve_num_requests_waiting')).toBe(0)
    expect(await metric('miniserve_trace_leaks_total')).toBe(0)
    if (NUM_REQUESTS >= 3000) expect(residentBytes(server.pid) - warmBytes).toBeLessThan(96 * 1024 * 1024)

    await server.stop()
    const stopped = server.logs.find((line) => line.msg === 'server.stopped')
    expect(stopped).toMatchObject({ open_requests: 0, open_spans: 0, open_engine: 0 })
    // Every span that was made has arrived, or was counted as lost or let go; nothing else was received.
    const counts = server.logs.find((line) => line.msg === 'telemetry.stopped')
    expect(counts).toMatchObject({ open_requests: 0, open_spans: 0 })
    const [created, exported, dropped, unsampled] = ['created', 'exported', 'dropped', 'unsampled'].map((name) =>
      Number(counts?.[name]),
    )
    expect(created).toBe(exported! + dropped! + unsampled!)
    expect(receiver.spans).toHaveLength(exported!)
    expect(dropped).toBe(0)
    // Every request that reached a handler has one root; a client can be gone before the server read a byte.
    const roots = receiver.spans.filter((span) => span.name === 'http.handler')
    expect(new Set(roots.map((span) => span.traceId)).size).toBe(roots.length)
    expect(roots.length).toBeGreaterThanOrEqual(outcomes.done + outcomes.refused + outcomes.invalid)
    for (const root of roots) {
      const ends = root.events.filter((event) => event.name === 'request.departed' || event.name === 'request.aborted')
      expect(ends).toHaveLength(1)
    }
    const ids = new Set(receiver.spans.map((span) => span.spanId))
    const orphans = receiver.spans.filter((span) => span.parentSpanId !== '' && !ids.has(span.parentSpanId))
    expect(orphans).toEqual([])
  },
  // Ten minutes bound the whole soak; a quiet machine needs two.
  Math.min(NUM_REQUESTS * 200 + 60_000, 540_000),
)
