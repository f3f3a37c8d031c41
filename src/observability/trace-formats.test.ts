import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { play, storedTree, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { convertTraceFile, validateTraceFile } from './trace-files.ts'
import { eachSpan, type OtlpSpan, type OtlpTraces, spansToOtlp } from './otlp.ts'
import { parseTraces, parseTraceText, TRACE_FORMATS, writeTraces } from './trace-formats.ts'
import { validateTraces } from './validate.ts'

let observability: TestObservability
let traces: OtlpTraces

beforeAll(async () => {
  observability = testObservability()
  const headers = { traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', tracestate: 'vendor=1' }
  const served = await play(observability, 'formatting', {
    rag: true,
    input: { headers },
    plan: { stepMicros: [2000, 2000] },
  })
  served.trace.finish({ ending: 'success', status: 200 })
  const failed = await play(observability, 'decoding')
  failed.trace.finish({ ending: 'device_lost', status: 503, error: new TypeError('x') })
  failed.finishEngine('error')
  traces = spansToOtlp([served, failed].flatMap(({ trace }) => storedTree(observability, trace.traceId).spans))
})
afterAll(() => observability.shutdown(100))

/** Through a file: as JSON text. */
const reread = (value: unknown) => parseTraceText(JSON.stringify(value))

const toMicros = (nanos: string) => `${nanos.slice(0, -3)}000`

/** What Jaeger's microseconds leave of a span. */
function inMicros(span: OtlpSpan): OtlpSpan {
  return {
    ...span,
    startTimeUnixNano: toMicros(span.startTimeUnixNano),
    endTimeUnixNano: toMicros(span.endTimeUnixNano),
    events: span.events.map((event) => ({ ...event, timeUnixNano: toMicros(event.timeUnixNano) })),
  }
}

const spansOf = (value: OtlpTraces) => [...eachSpan(value)].sort((a, b) => a.span.spanId.localeCompare(b.span.spanId))

describe('trace formats', () => {
  it.each(['otlp', 'tempo', 'grafana'] as const)('gives back exactly what went into %s', (format) => {
    expect(reread(writeTraces(traces, format))).toEqual(traces)
  })

  it('gives back what microseconds leave of it from jaeger', () => {
    const back = spansOf(reread(writeTraces(traces, 'jaeger')))
    const before = spansOf(traces)
    expect(back.map(({ span }) => span)).toEqual(before.map(({ span }) => inMicros(span)))
    expect(back.map(({ scope }) => scope)).toEqual(before.map(({ scope }) => scope))
    expect(back[0]?.resource.attributes).toEqual(expect.arrayContaining([...(before[0]?.resource.attributes ?? [])]))
  })

  it.each(TRACE_FORMATS.flatMap((from) => TRACE_FORMATS.map((to) => [from, to] as const)))(
    'converts %s to %s',
    (from, to) => {
      const there = reread(writeTraces(traces, from))
      expect(spansOf(reread(writeTraces(there, to)))).toHaveLength(spansOf(traces).length)
    },
  )

  it('writes what each tool reads', () => {
    const tempo = JSON.stringify(writeTraces(traces, 'tempo'))
    expect(tempo).toContain('"kind":"SPAN_KIND_SERVER"')
    expect(tempo).toContain('"code":"STATUS_CODE_ERROR"')
    expect(tempo).toContain(Buffer.from('4bf92f3577b34da6a3ce929d0e0e4736', 'hex').toString('base64'))
    const grafana = writeTraces(traces, 'grafana') as {
      batches: { instrumentationLibrarySpans: { spans: { traceId: string; parentSpanId: string }[] }[] }[]
    }
    expect(grafana.batches[0]?.instrumentationLibrarySpans[0]?.spans[0]?.traceId).toMatch(/^[0-9a-f]{32}$/)
    const otlp = JSON.stringify(writeTraces(traces, 'otlp'))
    expect(otlp).toContain('{"key":"llm.decode.mean_step_ms","value":{"doubleValue":2}}')
    expect(otlp).toContain('{"key":"llm.decode.steps","value":{"intValue":"2"}}')
    expect(JSON.stringify(writeTraces(traces, 'jaeger'))).toContain('"type":"float64","value":2}')
  })

  it('reads OTLP JSON lines, Tempo v2 and numbers where others write strings', () => {
    const lines = `${JSON.stringify(traces)}\n${JSON.stringify(traces)}\n`
    expect(spansOf(parseTraceText(lines))).toHaveLength(spansOf(traces).length * 2)
    expect(parseTraces({ trace: traces, metrics: {} })).toEqual(traces)
    const span = {
      traceId: '1'.repeat(32),
      spanId: '2'.repeat(16),
      name: 'x',
      kind: 2,
      startTimeUnixNano: 1000,
      endTimeUnixNano: 2000,
      attributes: [{ key: 'a', value: { intValue: 3 } }],
    }
    const [read] = spansOf(parseTraces({ resourceSpans: [{ scopeSpans: [{ spans: [span] }] }] }))
    expect(read?.span).toMatchObject({
      startTimeUnixNano: '1000',
      attributes: [{ key: 'a', value: { intValue: '3' } }],
      parentSpanId: '',
    })
  })

  it.each([
    ['{"a":1}', 'file: expected resourceSpans (OTLP), batches (Tempo, Grafana) or data (Jaeger), found a'],
    ['not json', 'line 1: expected JSON'],
    ['{"resourceSpans":[{}]}', 'resourceSpans[0].scopeSpans: expected an array, found undefined'],
    [
      '{"batches":[{"scopeSpans":[{"spans":[{"name":"x","traceId":"abc"}]}]}]}',
      'batches[0].scopeSpans[0].spans[0].traceId: expected an id of 16 bytes',
    ],
  ])('says what is wrong with %s', (text, message) => {
    expect(() => parseTraceText(text)).toThrow(message)
  })
})

describe('the validator', () => {
  it.each(TRACE_FORMATS)('finds nothing wrong with our own traces as %s', (format) => {
    expect(validateTraces(reread(writeTraces(traces, format)), 'contract')).toEqual([])
  })

  /** Breaks the first span of a name and tells which rules it breaks. */
  function rulesAfter(name: string, change: (span: OtlpSpan) => Partial<OtlpSpan> | null): string[] {
    let isDone = false
    const broken = {
      resourceSpans: traces.resourceSpans.map((rs) => ({
        ...rs,
        scopeSpans: rs.scopeSpans.map((ss) => ({
          ...ss,
          spans: ss.spans.flatMap((span) => {
            if (isDone || span.name !== name) return [span]
            isDone = true
            const changed = change(span)
            return changed ? [{ ...span, ...changed }] : []
          }),
        })),
      })),
    }
    return validateTraces(broken, 'contract').map((breach) => breach.rule)
  }
  const withAttribute = (key: string, value: OtlpSpan['attributes'][number]['value']) => (span: OtlpSpan) => ({
    attributes: [...span.attributes.filter((attribute) => attribute.key !== key), { key, value }],
  })
  const without = (key: string) => (span: OtlpSpan) => ({
    attributes: span.attributes.filter((attribute) => attribute.key !== key),
  })

  it('takes a negative seed, which is no count', () => {
    expect(rulesAfter('http.handler', withAttribute('gen_ai.request.seed', { intValue: '-5' }))).toEqual([])
  })

  it.each([
    ['a count as text', 'llm.prefill', withAttribute('llm.tokens.in', { stringValue: '12' }), 'attribute.type'],
    [
      'a whole double as int',
      'llm.decode',
      withAttribute('llm.decode.mean_step_ms', { intValue: '2' }),
      'attribute.type',
    ],
    ['NaN', 'llm.decode', withAttribute('llm.decode.mean_step_ms', { doubleValue: Number.NaN }), 'attribute.type'],
    ['a negative count', 'llm.prefill', withAttribute('llm.queue.us', { intValue: '-1' }), 'attribute.value'],
    [
      'an unknown reason',
      'llm.prefill',
      withAttribute('llm.cache.miss_reason', { stringValue: 'bad luck' }),
      'attribute.value',
    ],
    [
      'an attribute of its own in our namespace',
      'llm.decode',
      withAttribute('llm.mood', { stringValue: 'x' }),
      'attribute.unknown',
    ],
    ['a missing attribute', 'tokenize.input', without('tokenizer.name'), 'attribute.missing'],
    ['a missing alias', 'http.handler', without('http.response.status_code'), 'attribute.missing'],
    ['sums that do not add up', 'llm.prefill', withAttribute('llm.cache.hits', { intValue: '5' }), 'sum'],
    ['different counts of the output', 'llm.decode', withAttribute('llm.tokens.out', { intValue: '99' }), 'sum'],
    ['a missing stage', 'format.output', () => null, 'span.missing'],
    ['a missing rerank', 'rerank', () => null, 'span.missing'],
    ['an orphan', 'llm.prefill', () => ({ parentSpanId: 'ab'.repeat(8) }), 'orphan'],
    ['an unknown span', 'llm.decode', () => ({ name: 'llm.queue' }), 'span.unknown'],
    [
      'a child outside its parent',
      'tokenize.input',
      (span: OtlpSpan) => ({ startTimeUnixNano: String(BigInt(span.startTimeUnixNano) - 10n ** 9n) }),
      'interval',
    ],
    [
      'an end before its start',
      'tokenize.input',
      (span: OtlpSpan) => ({ endTimeUnixNano: String(BigInt(span.startTimeUnixNano) - 1n) }),
      'interval',
    ],
    ['the wrong kind', 'http.handler', () => ({ kind: 3 }), 'kind'],
    [
      'two ends',
      'http.handler',
      (span: OtlpSpan) => ({ events: [...span.events, ...span.events.slice(-1)] }),
      'ending',
    ],
    ['no end', 'http.handler', (span: OtlpSpan) => ({ events: span.events.slice(0, 1) }), 'ending'],
    ['an end that fits no row', 'http.handler', () => ({ status: { code: 2 } }), 'ending'],
    ['no first token', 'llm.decode', () => ({ events: [] }), 'event.missing'],
    [
      'an unknown event',
      'llm.decode',
      (span: OtlpSpan) => ({ events: [...span.events, { timeUnixNano: '1', name: 'token', attributes: [] }] }),
      'event.unknown',
    ],
    ['no root', 'http.handler', () => null, 'orphan'],
    ['a zero id', 'http.handler', () => ({ traceId: '0'.repeat(32) }), 'id.trace'],
  ])('finds %s', (_, name, change, rule) => {
    expect(rulesAfter(name, change)).toContain(rule)
  })

  it("leaves other people's spans alone, in a trace of several services", () => {
    const other: OtlpSpan = {
      traceId: '4bf92f3577b34da6a3ce929d0e0e4736',
      spanId: '00f067aa0ba902b7',
      parentSpanId: '',
      name: 'GET /',
      kind: 3,
      startTimeUnixNano: '1',
      endTimeUnixNano: '2',
      attributes: [{ key: 'llm.odd', value: { stringValue: 'x' } }],
      events: [],
      links: [],
      status: { code: 0 },
    }
    const mixed = {
      resourceSpans: [
        ...traces.resourceSpans,
        { resource: { attributes: [] }, scopeSpans: [{ scope: { name: 'gateway' }, spans: [other] }] },
      ],
    }
    expect(validateTraces(mixed, 'contract')).toEqual([])
    expect(
      validateTraces({ resourceSpans: mixed.resourceSpans.slice(-1) }, 'contract').map((breach) => breach.rule),
    ).toEqual(['root.missing'])
  })
})

describe('trace files', () => {
  it.each([
    ['{', 'line 1: expected JSON, found something else'],
    ['7', 'expected an object, found number'],
    ['{"resourceSpans":[{}]}', 'resourceSpans[0].scopeSpans: expected an array, found undefined'],
  ])('names the file that it cannot read: %s', (text, message) => {
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-trace-'))
    try {
      const file = join(folder, 'trace.json')
      writeFileSync(file, text)
      for (const read of [() => convertTraceFile(file, 'otlp'), () => validateTraceFile(file, null)]) {
        expect(read).toThrow(`${file}: ${message}`)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('validates and converts, and names a breach in one line', () => {
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-trace-'))
    try {
      const file = join(folder, 'trace.json')
      writeFileSync(file, JSON.stringify(writeTraces(traces, 'tempo')))
      expect(validateTraceFile(file, 'contract')).toEqual({ ok: true, breaches: [] })
      const jaeger = join(folder, 'jaeger.json')
      writeFileSync(jaeger, convertTraceFile(file, 'jaeger'))
      expect(validateTraceFile(jaeger, 'steps')).toEqual({ ok: true, breaches: [] })
      writeFileSync(
        file,
        JSON.stringify(traces).replace(
          '"llm.stop_reason","value":{"stringValue":"length"}',
          '"llm.stop_reason","value":{"stringValue":"eos"}',
        ),
      )
      const { ok, breaches } = validateTraceFile(file, 'contract')
      expect(ok).toBe(false)
      expect(breaches).toHaveLength(1)
      expect(breaches[0]).toMatch(
        /^[0-9a-f]{32} [0-9a-f]{16} llm\.decode: attribute\.value: llm\.stop_reason: expected one of stop, length, abort, error, found eos$/,
      )
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

/** One streamed request with retrieval, at the steps level, as a Tempo 3.0 gave it back by the two of its routes. */
describe('a trace as Tempo returns it', () => {
  const fileOf = (version: string) =>
    fileURLToPath(new URL(`../../experiments/34-traces/tempo-api-${version}.json`, import.meta.url))
  const read = (version: string) => parseTraceText(readFileSync(fileOf(version), 'utf8'))

  it.each(['v1', 'v2'])('of /api/%s keeps the contract, also in every other form', (version) => {
    expect(validateTraceFile(fileOf(version), null)).toEqual({ ok: true, breaches: [] })
    const before = spansOf(read(version)).map(({ span }) => span)
    expect(before).toHaveLength(10)
    for (const format of TRACE_FORMATS) {
      const converted = parseTraceText(convertTraceFile(fileOf(version), format))
      expect(validateTraces(converted, 'steps')).toEqual([])
      const expected = format === 'jaeger' ? before.map(inMicros) : before
      expect(spansOf(converted).map(({ span }) => span)).toEqual(expected)
    }
  })

  it('is the same by both', () => {
    expect(spansOf(read('v1')).map(({ span }) => span)).toEqual(spansOf(read('v2')).map(({ span }) => span))
  })

  it('that breaks the contract is named', () => {
    const text = readFileSync(fileOf('v2'), 'utf8').replace(
      '{"key":"llm.decode.steps","value":{"intValue"',
      '{"key":"llm.decode.steps","value":{"stringValue"',
    )
    expect(validateTraces(parseTraceText(text), 'steps').map(({ span, rule }) => [span, rule])).toEqual([
      ['llm.decode', 'attribute.type'],
    ])
  })
})
