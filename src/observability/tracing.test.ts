/** Collectors that are away, hang, reset or are slow: requests unaffected, memory bounded, few log lines, shutdown within its bound. */
import { createServer, type Server, type Socket } from 'node:net'
import type { AddressInfo } from 'node:net'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { afterEach, describe, expect, it } from 'vitest'
import { OtlpReceiver } from '../../test/e2e/otlp-receiver.ts'
import { open, play, testObservability, type TestObservability } from '../../test/observability/scenario.ts'

const closers: (() => Promise<unknown> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A TCP server in the collector's place. */
async function fakeCollector(
  onSocket: (socket: Socket) => void,
): Promise<{ readonly url: string; readonly connected: Promise<void> }> {
  const sockets = new Set<Socket>()
  let resolve: () => void = () => {}
  const connected = new Promise<void>((done) => {
    resolve = done
  })
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    onSocket(socket)
    resolve()
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', () => done()))
  closers.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((done) => server.close(done))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, connected }
}

async function serve(observability: TestObservability, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const { trace } = await play(observability, 'formatting')
    trace.finish({ ending: 'success', status: 200 })
  }
}

const problems = (observability: TestObservability) =>
  observability.lines.filter((line) => line.msg === 'telemetry.problem')
const balance = ({ created, exported, dropped, unsampled }: ReturnType<TestObservability['spanCounts']>) =>
  created - exported - dropped - unsampled

async function timed(work: Promise<unknown>): Promise<number> {
  const startMs = performance.now()
  await work
  return performance.now() - startMs
}

describe('a collector in trouble', () => {
  it('that refuses costs one log line, no request, and a short shutdown', async () => {
    const { url } = await fakeCollector(() => {})
    await closers.pop()?.()
    const observability = testObservability({ otlpEndpoint: url })
    await serve(observability, 20)
    await observability.flush()
    await serve(observability, 20)
    expect(await timed(observability.shutdown(1000))).toBeLessThan(1500)
    expect(problems(observability).length).toBeLessThanOrEqual(1)
    expect(observability.spanCounts()).toEqual({ created: 200, exported: 0, dropped: 200, unsampled: 0 })
    expect(observability.store.size).toBe(40)
  })

  it('that hangs is given up at the bound', async () => {
    const { url } = await fakeCollector(() => {})
    const observability = testObservability({ otlpEndpoint: url })
    await serve(observability, 20)
    expect(await timed(observability.shutdown(300))).toBeLessThan(1000)
    expect(observability.spanCounts()).toEqual({ created: 100, exported: 0, dropped: 100, unsampled: 0 })
  })

  it('that resets every connection loses spans, counted, and nothing else', async () => {
    const { url } = await fakeCollector((socket) => socket.resetAndDestroy())
    const observability = testObservability({ otlpEndpoint: url })
    await serve(observability, 20)
    expect(await timed(observability.shutdown(500))).toBeLessThan(1500)
    expect(problems(observability).length).toBeLessThanOrEqual(1)
    expect(observability.spanCounts()).toMatchObject({ created: 100, exported: 0, dropped: 100 })
  })

  it('that answers slowly bounds the queue; what does not fit is counted', async () => {
    const pending: (() => void)[] = []
    const slow: SpanExporter = {
      export(_spans: ReadableSpan[], done) {
        pending.push(() => done({ code: 0 }))
      },
      shutdown: async () => {},
    }
    const queueSize = 256
    const observability = testObservability({ exporter: slow, exportQueueSize: queueSize, logLevel: 'silent' })
    const trees = 200
    for (let i = 0; i < trees; i++) {
      const trace = open(observability)
      for (let stage = 0; stage < 5; stage++) trace.openStage('rerank', trace.context)?.end()
      trace.finish({ ending: 'validation', status: 400 })
    }
    const { created, dropped } = observability.spanCounts()
    expect(created).toBe(trees * 6)
    // The queue and one batch in flight are all that waits.
    expect(created - dropped).toBeLessThanOrEqual(queueSize * 2)
    expect(dropped).toBeGreaterThan(0)
    await observability.shutdown(200)
    expect(balance(observability.spanCounts())).toBe(0)
    for (const release of pending) release()
    expect(balance(observability.spanCounts())).toBe(0)
  })
})

it('dials nobody when no endpoint is set, and logs nothing about it', async () => {
  const observability = testObservability()
  await serve(observability, 3)
  await observability.shutdown(100)
  expect(observability.spanCounts()).toEqual({ created: 15, exported: 0, dropped: 0, unsampled: 15 })
  expect(problems(observability)).toEqual([])
})

it('takes a burst of requests through the exporter without a drop', async () => {
  const receiver = await OtlpReceiver.start()
  closers.push(() => receiver.close())
  const observability = testObservability({ otlpEndpoint: String(receiver.url), logLevel: 'silent' })
  await Promise.all(
    Array.from({ length: 300 }, async () => {
      const { trace } = await play(observability, 'formatting')
      trace.finish({ ending: 'success', status: 200 })
    }),
  )
  await observability.shutdown(20_000)
  expect(observability.spanCounts()).toEqual({ created: 1500, exported: 1500, dropped: 0, unsampled: 0 })
  expect(new Set(receiver.spans.map((span) => span.spanId)).size).toBe(1500)
  expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
})
