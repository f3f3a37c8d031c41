/** The standard's variables that are not the exporter's: sampler, limits, whether anything is exported. */
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-base'
import { afterEach, expect, it, vi } from 'vitest'
import { play, storedTree, testObservability, type TestObservability } from '../../test/observability/scenario.ts'

let observability: TestObservability
afterEach(async () => {
  await observability.shutdown(100)
  vi.unstubAllEnvs()
})

/** One request on a server with these variables set. */
async function serve(
  env: Readonly<Record<string, string>>,
  options: Parameters<typeof testObservability>[0] = { exporter: new InMemorySpanExporter() },
) {
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  observability = testObservability(options)
  const { trace } = await play(observability, 'formatting')
  trace.finish({ ending: 'success', status: 200 })
  await observability.flush()
  return storedTree(observability, trace.traceId).spans
}

const problems = () => observability.lines.filter(({ msg }) => msg === 'telemetry.problem').map(({ detail }) => detail)

it.each([
  ['always_on', '', 5],
  ['always_off', '', 0],
  ['traceidratio', '0', 0],
  ['parentbased_traceidratio', '1', 5],
  ['parentbased_always_off', '', 0],
])('OTEL_TRACES_SAMPLER=%s with %s exports %i spans, and the store has all', async (sampler, share, numExported) => {
  const spans = await serve({ OTEL_TRACES_SAMPLER: sampler, OTEL_TRACES_SAMPLER_ARG: share })
  expect(spans).toHaveLength(5)
  expect(observability.spanCounts()).toMatchObject({ exported: numExported, unsampled: 5 - numExported })
  expect(problems()).toEqual([])
})

it.each([
  [{ OTEL_TRACES_SAMPLER: 'jaeger_remote' }, /^OTEL_TRACES_SAMPLER: expected one of/],
  [{ OTEL_TRACES_SAMPLER: 'traceidratio', OTEL_TRACES_SAMPLER_ARG: '7' }, /^OTEL_TRACES_SAMPLER_ARG: expected a share/],
])('%j is named, and everything exported', async (env, complaint) => {
  await serve(env)
  expect(observability.spanCounts()).toMatchObject({ exported: 5 })
  expect(problems()).toEqual([expect.stringMatching(complaint)])
})

it('limits of attributes hold where they are set', async () => {
  const spans = await serve({ OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT: '10', OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: '7' })
  const root = spans.find(({ name }) => name === 'http.handler')
  expect(root?.attributes['http.route']).toBe('/v1/comple')
  expect(Object.keys(root?.attributes ?? {})).toHaveLength(7)
})

it('OTEL_TRACES_EXPORTER=none sends nothing although there is an endpoint; another word is named', async () => {
  await serve({ OTEL_TRACES_EXPORTER: 'none' }, { otlpEndpoint: 'http://127.0.0.1:1' })
  expect(observability.spanCounts()).toEqual({ created: 5, exported: 0, dropped: 0, unsampled: 5 })
  expect(problems()).toEqual([])
  await observability.shutdown(100)
  await serve({ OTEL_TRACES_EXPORTER: 'zipkin' }, { otlpEndpoint: 'http://127.0.0.1:1' })
  expect(problems()).toContain('OTEL_TRACES_EXPORTER: expected otlp or none, found another; otlp is used')
})
