/** The span contract, held against the real server process, a real HTTP client and a real OTLP gRPC receiver. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SPAN_TABLE } from '../../src/observability/contract.ts'
import { OtlpReceiver, type ReceivedSpan, type WireValue } from './otlp-receiver.ts'
import { readFrames, ServerProcess } from './server-process.ts'

let receiver: OtlpReceiver
let server: ServerProcess

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  server = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url])
})

afterAll(async () => {
  await server?.stop()
  await receiver?.close()
})

/** Name and parent of each span, as the contract draws the tree. */
const tree = (spans: readonly ReceivedSpan[]) =>
  spans
    .map((span) => `${spans.find((other) => other.spanId === span.parentSpanId)?.name ?? '-'} > ${span.name}`)
    .sort((a, b) => a.localeCompare(b))

const CONTRACT_TREE = [
  '- > http.handler',
  'http.handler > format.output',
  'http.handler > llm.decode',
  'http.handler > llm.prefill',
  'http.handler > tokenize.input',
]

const WIRE_TYPES = {
  string: 'stringValue',
  int: 'intValue',
  double: 'doubleValue',
  boolean: 'boolValue',
  'string[]': 'arrayValue',
} as const

const wireType = (value: WireValue) =>
  Object.keys(value).filter((key) => Reflect.get(value, key) !== undefined && key !== 'value')

/** Breaches of the attribute table on the wire: unknown keys, wrong types, missing values. */
function breaches(span: ReceivedSpan): string[] {
  const table = SPAN_TABLE[span.name]?.attributes ?? {}
  const aliases = new Map(
    Object.values(table).flatMap((spec) => (spec.alias ?? []).map((alias) => [alias, spec] as const)),
  )
  const unknown = Object.entries(span.attributes).flatMap(([key, value]) => {
    const spec = table[key] ?? aliases.get(key)
    if (!spec) return [`${span.name}: ${key} is not in the table`]
    return wireType(value).includes(WIRE_TYPES[spec.type])
      ? []
      : [`${span.name}: ${key} is ${wireType(value).join()}, not ${spec.type}`]
  })
  const missing = Object.entries(table)
    .filter(([key, spec]) => spec.when !== 'optional' && !(key in span.attributes))
    .map(([key]) => `${span.name}: ${key} is missing`)
  return [...unknown, ...missing]
}

async function completed(
  body: object,
): Promise<{ spans: ReceivedSpan[]; response: Response; text: string; traceId: string }> {
  const response = await server.post('/v1/completions', { prompt: 'The river', max_tokens: 8, temperature: 0, ...body })
  const text = await response.text()
  const traceId = response.headers.get('x-trace-id') ?? ''
  return { spans: await receiver.trace(traceId, 5), response, text, traceId }
}

describe.each([{ stream: false }, { stream: true }])('a completion with %j', (body) => {
  it('is exactly the tree, with every attribute of the table in its wire type', async () => {
    const { spans, response } = await completed(body)
    expect(response.status).toBe(200)
    expect(tree(spans)).toEqual(CONTRACT_TREE)
    expect(spans.flatMap(breaches)).toEqual([])
    const root = spans.find((span) => span.name === 'http.handler')
    expect(root?.kind).toBe('SPAN_KIND_SERVER')
    expect(root?.status).toBe('STATUS_CODE_UNSET')
    expect(root?.scope).toBe('lynx-cortex.miniserve')
    expect(root?.resource['service.name']?.stringValue).toBe('miniserve')
  })

  it('keeps children inside their parents and the sums of the contract', async () => {
    const { spans, text } = await completed(body)
    const by = (name: string) => spans.find((span) => span.name === name)
    const int = (name: string, key: string) => Number(String(by(name)?.attributes[key]?.intValue))
    const root = by('http.handler')
    for (const span of spans) {
      if (!root || span === root) continue
      expect(span.start >= root.start && span.end <= root.end, `${span.name} lies inside the root`).toBe(true)
    }
    expect(int('llm.prefill', 'llm.cache.hits') + int('llm.prefill', 'llm.cache.misses')).toBe(
      int('llm.prefill', 'llm.tokens.in'),
    )
    const out = int('http.handler', 'llm.tokens.out')
    expect(int('llm.decode', 'llm.tokens.out')).toBe(out)
    expect(int('format.output', 'llm.tokens.out')).toBe(out)
    const usage = /"completion_tokens":(\d+)/.exec(text)?.[1]
    expect(Number(usage)).toBe(out)
  })

  it('departs exactly once, before [DONE]', async () => {
    const { spans } = await completed(body)
    const names = spans.find((span) => span.name === 'http.handler')?.events.map((event) => event.name) ?? []
    expect(names.filter((name) => name === 'request.departed' || name === 'request.aborted')).toEqual([
      'request.departed',
    ])
    expect(names.indexOf('request.arrived')).toBe(0)
    const first = spans
      .find((span) => span.name === 'llm.decode')
      ?.events.filter((event) => event.name === 'llm.first_token')
    expect(first).toHaveLength(1)
  })
})

it('sends a whole mean as a double', async () => {
  const { spans } = await completed({ max_tokens: 1 })
  const mean = spans.find((span) => span.name === 'llm.decode')?.attributes['llm.decode.mean_step_ms']
  expect(mean?.doubleValue).toBe(0)
  expect(mean?.intValue ?? null).toBeNull()
})

it('records the least values that a request may have', async () => {
  const least = { seed: Number.MIN_SAFE_INTEGER, top_k: -1, top_p: 0, min_p: 0, temperature: 0, min_tokens: 0, n: 1 }
  const body = { ...least, prompt: 'x', max_tokens: 1, logprobs: 0, presence_penalty: -2, frequency_penalty: -2 }
  const response = await server.post('/v1/completions', body)
  expect(response.status).toBe(200)
  const root = (await receiver.trace(response.headers.get('x-trace-id')!, 5)).find(
    ({ name }) => name === 'http.handler',
  )!
  expect(String(root.attributes['gen_ai.request.seed']?.intValue)).toBe(`${Number.MIN_SAFE_INTEGER}`)
  expect(root.attributes).not.toHaveProperty('gen_ai.request.top_k')
  const validation = await server.get(`/v1/traces/${response.headers.get('x-trace-id')}/validate`)
  expect(await validation.json()).toMatchObject({ ok: true, breaches: [] })
  expect(await (await server.get('/metrics')).text()).not.toMatch(/^miniserve_trace_breaches_total\{/m)
})

it('joins the trace of a caller', async () => {
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const response = await server.post(
    '/v1/completions',
    { prompt: 'The river', max_tokens: 2 },
    { traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
  )
  await response.text()
  expect(response.headers.get('x-trace-id')).toBe(traceId)
  const spans = await receiver.trace(traceId, 5)
  expect(spans.find((span) => span.name === 'http.handler')?.parentSpanId).toBe('00f067aa0ba902b7')
})

it('records a trace that its caller chose not to sample, and does not export it', async () => {
  const traceId = '5bf92f3577b34da6a3ce929d0e0e4736'
  const response = await server.post(
    '/v1/completions',
    { prompt: 'The river', max_tokens: 2 },
    { traceparent: `00-${traceId}-00f067aa0ba902b7-00` },
  )
  await response.text()
  const stored = await server.get(`/v1/traces/${traceId}`)
  expect(stored.status).toBe(200)
  const later = await completed({})
  expect(later.spans).toHaveLength(5)
  expect(receiver.spans.filter((span) => span.traceId === traceId)).toEqual([])
})

it('tells its story in the log, every line in the trace and in a span of its tree', async () => {
  const { traceId, spans } = await completed({ stream: true })
  await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'response.sent')
  const lines = server.logs.filter((line) => line.trace_id === traceId)
  expect(lines.map((line) => line.msg)).toEqual([
    'request.received',
    'input.tokenized',
    'prefill.done',
    'decode.done',
    'response.sent',
  ])
  const ids = new Set(spans.map((span) => span.spanId))
  for (const line of lines) expect(ids.has(line.span_id ?? ''), `${line.msg} names a span of the tree`).toBe(true)
})

it('never mixes two overlapping streams', async () => {
  const answers = await Promise.all(
    Array.from({ length: 6 }, async (_, i) => {
      const response = await server.post('/v1/completions', {
        prompt: `Number ${i} says`,
        max_tokens: 24,
        stream: true,
        ignore_eos: true,
      })
      const frames = await readFrames(response)
      return { traceId: response.headers.get('x-trace-id') ?? '', frames }
    }),
  )
  expect(new Set(answers.map((answer) => answer.traceId)).size).toBe(6)
  for (const { traceId, frames } of answers) {
    expect(frames.at(-1)).toBe('[DONE]')
    const ids = new Set(frames.slice(0, -1).map((frame) => (frame as { id: string }).id))
    expect(ids.size).toBe(1)
    const spans = await receiver.trace(traceId, 5)
    expect(tree(spans)).toEqual(CONTRACT_TREE)
    expect(spans.find((span) => span.name === 'http.handler')?.attributes['llm.request.id']?.stringValue).toBe(
      [...ids][0],
    )
    const lines = server.logs.filter((line) => line.trace_id === traceId)
    const spanIds = new Set(spans.map((span) => span.spanId))
    expect(lines.every((line) => spanIds.has(line.span_id ?? ''))).toBe(true)
  }
})
