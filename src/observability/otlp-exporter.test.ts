/** Spans, log records and metrics over each of OTLP's protocols, to a real receiver, as the standard's variables say. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, connect, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { gunzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { OtlpReceiver } from '../../test/e2e/otlp-receiver.ts'
import { batchSettings, createLogExporter, createMetricExporter, createSpanExporter } from './otlp-exporter.ts'
import { play, testObservability, type TestObservability } from '../../test/observability/scenario.ts'

const PROTOCOLS = ['grpc', 'http/protobuf', 'http/json'] as const
const ALL_SIGNALS = { OTEL_LOGS_EXPORTER: 'otlp', OTEL_METRICS_EXPORTER: 'otlp', OTEL_METRIC_EXPORT_INTERVAL: '600000' }

let receiver: OtlpReceiver
let observability: TestObservability
const closers: (() => unknown)[] = []
beforeEach(async () => {
  receiver = await OtlpReceiver.start()
})
afterEach(async () => {
  await observability.shutdown(1000)
  for (const close of closers.splice(0)) await close()
  await receiver.close()
  vi.unstubAllEnvs()
})

/** A server with these variables set. */
function start(env: Readonly<Record<string, string>>, options: Parameters<typeof testObservability>[0] = {}): void {
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  observability = testObservability(options)
}

async function serve(): Promise<string> {
  const { trace } = await play(observability, 'formatting', { plan: { stepMicros: [2000, 2000] } })
  trace.finish({ ending: 'success', status: 200 })
  await observability.flush()
  return trace.traceId
}

const problems = () => observability.lines.filter((line) => line.msg === 'telemetry.problem')

describe.each(PROTOCOLS)('over %s', (protocol) => {
  const baseOf = () => (protocol === 'grpc' ? receiver.url : receiver.httpUrl)

  it('all three signals arrive, of one resource', async () => {
    const endpoint = baseOf()
    start(
      { ...ALL_SIGNALS, OTEL_EXPORTER_OTLP_PROTOCOL: protocol, OTEL_EXPORTER_OTLP_ENDPOINT: endpoint },
      { otlpEndpoint: endpoint },
    )
    const traceId = await serve()
    const spans = await receiver.trace(traceId, 5)
    const decode = spans.find(({ name }) => name === 'llm.decode')
    expect(decode?.attributes['llm.decode.mean_step_ms']).toMatchObject({ doubleValue: 2 })

    const ofRequest = observability.lines.filter((line) => line.trace_id === traceId)
    const records = await receiver.until(() => {
      const found = receiver.logs.filter((record) => record.traceId === traceId)
      return found.length === ofRequest.length ? found : null
    })
    expect(records.map(({ body, severity, spanId }) => [body, severity, spanId])).toEqual(
      ofRequest.map(({ msg, level, span_id: spanId }) => [msg, level, spanId]),
    )
    expect(records.map(({ time }) => Number(time / 1_000_000n))).toEqual(
      ofRequest.map(({ time }) => Date.parse(String(time))),
    )
    const sent = records.find(({ body }) => body === 'response.sent')
    expect(sent?.attributes['route']?.stringValue).toBe('/v1/completions')
    expect(String(sent?.attributes['status']?.intValue)).toBe('200')

    const point = (name: string) => receiver.points.find((found) => found.name === name)
    await receiver.until(() => point('miniserve_requests_total') ?? null)
    expect(point('miniserve_requests_total')).toMatchObject({
      kind: 'sum',
      isMonotonic: true,
      value: 1,
      labels: { route: '/v1/completions', status: '200', ending: 'success' },
    })
    expect(point('miniserve_generation_tokens_total')).toMatchObject({ value: 3, labels: { model_name: 'tiny' } })
    expect(point('miniserve_trace_store_traces')).toMatchObject({ kind: 'gauge', value: 1 })
    const duration = point('gen_ai.server.request.duration')
    expect(duration).toMatchObject({
      kind: 'histogram',
      value: 1,
      labels: {
        'gen_ai.operation.name': 'text_completion',
        'gen_ai.provider.name': 'miniserve',
        'gen_ai.request.model': 'tiny',
      },
    })
    expect(duration?.bucketCounts).toHaveLength((duration?.explicitBounds.length ?? 0) + 1)
    expect(duration?.bucketCounts.reduce((a, b) => a + b, 0)).toBe(1)
    const steps = point('miniserve_inter_token_latency_seconds')
    expect(steps).toMatchObject({ value: 2, sum: 0.004 })

    const instances = [spans[0]?.resource, records[0]?.resource, duration?.resource].map(
      (resource) => resource?.['service.instance.id']?.stringValue,
    )
    expect(new Set(instances).size).toBe(1)
    expect(instances[0]).toMatch(/^[0-9a-f-]{36}$/)
    expect(problems()).toEqual([])
  })

  it('takes headers and compression from the standard variables', async () => {
    start(
      {
        ...ALL_SIGNALS,
        OTEL_EXPORTER_OTLP_PROTOCOL: protocol,
        OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20abc,x-tenant=one',
        // The receiver reads compressed bodies of gRPC alone; below, a proxy in front of it does the others.
        ...(protocol === 'grpc' ? { OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip' } : {}),
        OTEL_EXPORTER_OTLP_ENDPOINT: baseOf(),
      },
      { otlpEndpoint: baseOf() },
    )
    const traceId = await serve()
    await receiver.trace(traceId, 5)
    await receiver.until(() => (receiver.logs.length > 0 && receiver.points.length > 0) || null)
    const kinds = receiver.requests.map(({ path }) => /trace|logs|metrics/.exec(path)?.[0])
    expect(new Set(kinds)).toEqual(new Set(['trace', 'logs', 'metrics']))
    for (const { headers } of receiver.requests)
      expect(headers).toMatchObject({ authorization: 'Bearer abc', 'x-tenant': 'one' })
  })
})

describe('over TLS', () => {
  let folder: string
  let certificate: { readonly key: Buffer; readonly cert: Buffer }
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'miniserve-tls-'))
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
    const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
    execFileSync('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', key, '-out', cert], { stdio: 'ignore' })
    certificate = { key: readFileSync(key), cert: readFileSync(cert) }
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  async function listen(server: Server): Promise<string> {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    closers.push(() => server.close())
    return `https://localhost:${(server.address() as AddressInfo).port}`
  }

  /** Ends TLS in front of the receiver's gRPC. */
  const grpcProxy = () =>
    listen(
      createTlsServer({ ...certificate, ALPNProtocols: ['h2'] }, (socket) => {
        const upstream = connect(Number(new URL(receiver.url).port), '127.0.0.1')
        socket.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
        upstream.on('error', () => socket.destroy())
        socket.pipe(upstream).pipe(socket)
      }),
    )

  /** Ends TLS and unpacks in front of the receiver's HTTP; keeps how bodies were packed. */
  const httpProxy = (encodings: unknown[]) =>
    listen(
      createHttpsServer(certificate, async (request, response) => {
        const chunks: Buffer[] = []
        for await (const chunk of request) chunks.push(chunk as Buffer)
        encodings.push(request.headers['content-encoding'])
        const answer = await fetch(new URL(request.url ?? '/', receiver.httpUrl), {
          method: 'POST',
          headers: { 'content-type': String(request.headers['content-type']) },
          body: gunzipSync(Buffer.concat(chunks)),
        })
        response.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()))
      }),
    )

  it.each(PROTOCOLS)('%s trusts the certificate that is named, and packs', async (protocol) => {
    const encodings: unknown[] = []
    const endpoint = protocol === 'grpc' ? await grpcProxy() : await httpProxy(encodings)
    start(
      {
        ...ALL_SIGNALS,
        OTEL_EXPORTER_OTLP_PROTOCOL: protocol,
        OTEL_EXPORTER_OTLP_CERTIFICATE: join(folder, 'cert.pem'),
        OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip',
        OTEL_EXPORTER_OTLP_ENDPOINT: endpoint,
      },
      { otlpEndpoint: endpoint },
    )
    const traceId = await serve()
    await receiver.trace(traceId, 5)
    await receiver.until(() => (receiver.logs.length > 0 && receiver.points.length > 0) || null)
    expect(new Set(encodings)).toEqual(new Set(protocol === 'grpc' ? [] : ['gzip']))
    expect(problems()).toEqual([])
  })

  it('without that certificate says so, and goes on', async () => {
    const endpoint = await grpcProxy()
    start({ OTEL_LOGS_EXPORTER: 'otlp', OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }, { otlpEndpoint: endpoint })
    await serve()
    expect(receiver.spans).toEqual([])
    expect(
      problems()
        .map(({ detail }) => detail)
        .join('\n'),
    ).toMatch(/could not be exported/)
  })
})

it.each(['x-api-key=sk-SECRET%0A', 'bad SECRET=1', 'a$SECRET=1'])(
  'the headers %j cannot be used: each signal is reported without them and not exported',
  (headers) => {
    vi.stubEnv('OTEL_EXPORTER_OTLP_HEADERS', headers)
    start(ALL_SIGNALS)
    const reports: string[] = []
    const report = (detail: string) => void reports.push(detail)
    expect([createSpanExporter(receiver.url, report), createLogExporter(report), createMetricExporter(report)]).toEqual(
      [null, null, null],
    )
    expect(reports).toEqual(
      ['traces', 'logs', 'metrics'].map(
        (signal) => `the settings of the OTLP exporter of ${signal} cannot be used: they are not exported`,
      ),
    )
    expect(JSON.stringify(observability.lines)).not.toContain('SECRET')
  },
)

it('a size of the queue that the code gives wins over the variable, and the variable over the default', () => {
  start({ OTEL_BSP_MAX_QUEUE_SIZE: '16' })
  expect(batchSettings('OTEL_BSP', 64, 32)).toMatchObject({ maxQueueSize: 16, maxExportBatchSize: 16 })
  expect(batchSettings('OTEL_BSP', 64, 32, 8)).toMatchObject({ maxQueueSize: 8, maxExportBatchSize: 8 })
})

describe('the opt-ins', () => {
  it('are off without being asked for, also with an endpoint', async () => {
    start({ OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url }, { otlpEndpoint: receiver.url })
    await receiver.trace(await serve(), 5)
    expect(receiver.requests.map(({ path }) => path).filter((path) => !path.includes('trace'))).toEqual([])
  })

  it('work with tracing off, each at its own endpoint', async () => {
    start(
      {
        ...ALL_SIGNALS,
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: `${receiver.httpUrl}/v1/logs`,
        OTEL_EXPORTER_OTLP_LOGS_PROTOCOL: 'http/json',
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: receiver.url.replace('http://', ''),
      },
      { traceDetail: 'off' },
    )
    await serve()
    await receiver.until(() => (receiver.logs.length > 0 && receiver.points.length > 0) || null)
    expect(receiver.requests.map(({ path }) => path).sort()).toEqual([
      '/opentelemetry.proto.collector.metrics.v1.MetricsService/Export',
      '/v1/logs',
    ])
  })

  it('name a word that is neither otlp nor none, and stay off', async () => {
    start({ OTEL_LOGS_EXPORTER: 'console', OTEL_METRICS_EXPORTER: 'prometheus' })
    expect(problems().map(({ detail }) => detail)).toEqual([
      'OTEL_LOGS_EXPORTER: expected otlp or none, found another; none is used',
      'OTEL_METRICS_EXPORTER: expected otlp or none, found another; none is used',
    ])
  })

  it('survive a collector that is away: lines wait in their bound, and the rest is counted', async () => {
    start({
      ...ALL_SIGNALS,
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
      OTEL_BLRP_MAX_QUEUE_SIZE: '16',
      OTEL_BLRP_SCHEDULE_DELAY: '5',
    })
    for (let i = 0; i < 20; i++) await serve()
    const text = async () => (await observability.metrics.render(undefined)).body
    const dropped = async () =>
      Number(/^miniserve_log_records_total\{outcome="dropped"\} (\d+)$/m.exec(await text())?.[1])
    expect(await dropped()).toBe(observability.lines.length - 16)
    await observability.shutdown(500)
    expect(await dropped()).toBe(observability.lines.length)
    // One line for the spans' kind of trouble would be one too many: nothing was asked of them.
    expect(problems().length).toBeLessThanOrEqual(2)
  })
})
