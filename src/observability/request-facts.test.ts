/** What a request's root, its last line and its metrics say of it. */
import { SpanKind } from '@opentelemetry/api'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { open, play, storedTree, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { clientCall } from './context.ts'
import { spansToOtlp } from './otlp.ts'
import { getSpanRegistry } from './span-registry.ts'

let observability: TestObservability
beforeEach(() => {
  observability = testObservability()
})
afterEach(() => observability.shutdown(100))

const spanOf = (traceId: string, name = 'http.handler') =>
  storedTree(observability, traceId).spans.find((span) => span.name === name)
const lastLine = (msg: string) => observability.lines.findLast((line) => line.msg === msg)

it('measures the first chunk from the arrival of the request, of streams alone', async () => {
  const streamed = await play(observability, 'formatting', { isStreamed: true, rag: true })
  const sinceStart = (): number => (performance.now() - streamed.trace.startMs) / 1000
  const before = sinceStart()
  streamed.trace.facts.firstChunk()
  const after = sinceStart()
  streamed.trace.facts.firstChunk()
  streamed.trace.finish({ ending: 'success', status: 200 })
  const seconds = spanOf(streamed.trace.traceId)?.attributes['gen_ai.response.time_to_first_chunk']
  expect(seconds).toBeGreaterThanOrEqual(before)
  expect(seconds).toBeLessThanOrEqual(after)
  const whole = await play(observability, 'formatting')
  whole.trace.finish({ ending: 'success', status: 200 })
  expect(spanOf(whole.trace.traceId)?.attributes).not.toHaveProperty('gen_ai.response.time_to_first_chunk')
  expect(spanOf(whole.trace.traceId)?.attributes['llm.ttft_ms']).toBeGreaterThanOrEqual(0)
})

it('counts tokens and reasons on the last line of every ending, one reason a choice', async () => {
  const { trace, finishEngine } = await play(observability, 'decoding', { plan: { choices: 2, n: 2 } })
  finishEngine('abort')
  trace.finish({ ending: 'client_disconnect', status: null })
  expect(lastLine('request.aborted')).toMatchObject({
    tokens_in: 12,
    tokens_out: 8,
    finish_reasons: ['abort', 'abort'],
  })
  expect(spanOf(trace.traceId)?.attributes).toMatchObject({
    'gen_ai.response.finish_reasons': ['abort', 'abort'],
    'llm.tokens.in': 12,
    'llm.tokens.out': 8,
  })
})

it('names operation, provider and model on roots of retrieval, and no document', () => {
  const trace = open(observability, {
    kind: 'retrieval',
    route: '/v1/rag/documents/{id}',
    path: '/v1/rag/documents/about-my-divorce',
  })
  trace.setGeneration({ operation: 'retrieval', model: 'mini' })
  trace.finish({ ending: 'success', status: 200 })
  expect(spanOf(trace.traceId)?.attributes).toMatchObject({
    'gen_ai.operation.name': 'retrieval',
    'gen_ai.provider.name': 'miniserve',
    'gen_ai.request.model': 'mini',
    'url.path': '/v1/rag/documents/{id}',
  })
})

it('logs and counts a route that nobody has', async () => {
  open(observability, { kind: 'other', route: '*', path: '/nowhere' }).finish({ ending: 'validation', status: 404 })
  expect(lastLine('request.refused')).toMatchObject({ level: 'info', route: '*', status: 404 })
  expect((await observability.metrics.render(undefined)).body).toContain(
    'miniserve_requests_total{route="*",status="404",ending="validation"} 1',
  )
})

it('has a CLIENT span for a query to a database, with the reason of its failure', async () => {
  const trace = open(observability)
  await trace.run(() => clientCall('SELECT chunks', { 'db.system.name': 'postgresql' }, async () => {}))
  const failed = trace.run(() =>
    clientCall('INSERT chunks', { 'db.system.name': 'postgresql' }, async () => {
      throw Object.assign(new Error('no'), { code: '23505' })
    }),
  )
  await expect(failed).rejects.toThrow('no')
  trace.finish({ ending: 'success', status: 200 })
  const parent = trace.spanId
  for (const [name, error] of [
    ['SELECT chunks', undefined],
    ['INSERT chunks', '23505'],
  ] as const) {
    const span = spanOf(trace.traceId, name)
    expect(span).toMatchObject({ kind: SpanKind.CLIENT, parentSpanContext: { spanId: parent } })
    expect(span?.attributes).toMatchObject({
      'db.system.name': 'postgresql',
      ...(error ? { 'error.type': error } : {}),
    })
    expect(span?.status.code).toBe(error ? 2 : 0)
  }
})

it('keeps the doubles of plugins that say so, and hands out its registry', () => {
  const { subscriberHost } = observability
  subscriberHost.declareDoubles(['acme.share'])
  const trace = open(observability)
  trace.run(() => {
    const span = subscriberHost.tracer?.startSpan('acme.work', { attributes: { 'acme.share': 1, 'acme.count': 1 } })
    span?.end()
  })
  trace.finish({ ending: 'success', status: 200 })
  const text = JSON.stringify(spansToOtlp(storedTree(observability, trace.traceId).spans))
  expect(text).toContain('{"key":"acme.share","value":{"doubleValue":1}}')
  expect(text).toContain('{"key":"acme.count","value":{"intValue":"1"}}')
  expect(getSpanRegistry()).toBe(subscriberHost.registry)
})
