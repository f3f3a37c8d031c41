/** The server in an application whose own OpenTelemetry SDK was loaded first. */
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { validateTraces } from '../../src/observability/validate.ts'
import { OtlpReceiver, type ReceivedSpan, toOtlp } from './otlp-receiver.ts'
import { readFrames, ServerProcess } from './server-process.ts'

const SDK = fileURLToPath(new URL('../observability/application-sdk.mjs', import.meta.url))

let receiver: OtlpReceiver
let server: ServerProcess
beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  server = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url], {
    NODE_OPTIONS: `--import ${SDK}`,
    APPLICATION_ENDPOINT: receiver.url,
    OTEL_BSP_SCHEDULE_DELAY: '20',
  })
})
afterAll(async () => {
  await server?.stop()
  await receiver?.close()
})

const named = (spans: readonly ReceivedSpan[], name: string) => spans.find((span) => span.name === name)

it('nests in the application, keeps its own tree whole, and says what it shares', async () => {
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const response = await server.post(
    '/v1/completions',
    { prompt: 'Hello', max_tokens: 3, stream: true },
    { traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
  )
  expect((await readFrames(response)).at(-1)).toBe('[DONE]')
  expect(response.headers.get('x-trace-id')).toBe(traceId)
  const spans = await receiver.trace(traceId, 6)
  const application = named(spans, 'POST /v1/completions')
  const root = named(spans, 'http.handler')
  expect(application).toMatchObject({ parentSpanId: '00f067aa0ba902b7', scope: 'application.http' })
  expect(application?.resource['service.name']?.stringValue).toBe('application')
  expect(root).toMatchObject({ parentSpanId: application?.spanId, scope: 'lynx-cortex.miniserve' })
  expect(root?.resource['service.name']?.stringValue).toBe('miniserve')
  for (const name of ['tokenize.input', 'llm.prefill', 'llm.decode', 'format.output'])
    expect(named(spans, name)?.parentSpanId).toBe(root?.spanId)
  expect(validateTraces(toOtlp(spans), 'contract')).toEqual([])
  expect(server.logs.find((line) => line.msg === 'telemetry.shared')?.['shared']).toEqual([
    'tracer provider',
    'propagator',
    'context manager',
  ])
  expect(server.logs.filter((line) => line.msg === 'telemetry.problem')).toEqual([])
})

it('shows its trace whole on its own pages, though the application has spans above', async () => {
  const response = await server.post('/v1/completions', { prompt: 'Hello', max_tokens: 3 })
  const traceId = response.headers.get('x-trace-id')
  await response.text()
  expect(await (await server.get(`/v1/traces/${traceId}/validate`)).json()).toMatchObject({ ok: true, breaches: [] })
})
