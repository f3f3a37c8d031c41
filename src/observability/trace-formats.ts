/**
 * Converts traces between four file formats. The canonical one is OTLP JSON (otlp.ts). Tempo's API writes `batches` with base64 ids and enum
 * names. Grafana downloads and imports `batches` with instrumentationLibrarySpans. Jaeger has its own JSON with microseconds.
 */
import {
  isDouble,
  type OtlpAttribute,
  type OtlpResourceSpans,
  type OtlpSpan,
  type OtlpTraces,
  type OtlpValue,
  SPAN_KINDS,
  STATUS_CODES,
} from './otlp.ts'
import { fromJaeger, toJaeger } from './trace-format-jaeger.ts'
import { asArray, FILE, isRecord, optionalString, asRecord, TraceFormatError, type JsonRecord } from './trace-json.ts'

export type TraceFormat = 'otlp' | 'tempo' | 'grafana' | 'jaeger'
export const TRACE_FORMATS: readonly TraceFormat[] = ['otlp', 'tempo', 'grafana', 'jaeger']

/** Converts the canonical format to another one. */
export function writeTraces(traces: OtlpTraces, format: TraceFormat): unknown {
  switch (format) {
    case 'otlp':
      return traces
    case 'tempo':
      return toTempo(traces)
    case 'grafana':
      return toGrafana(traces)
    case 'jaeger':
      return toJaeger(traces)
    default:
      throw new Error(`expected a trace format of ${TRACE_FORMATS.join(', ')}, found "${String(format)}"`)
  }
}

/** Like GET /api/traces/{id} of Tempo: base64 ids, enum names, no zero or empty values. */
function toTempo(traces: OtlpTraces): unknown {
  return {
    batches: traces.resourceSpans.map(({ resource, scopeSpans, ...schema }) => ({
      ...schema,
      resource,
      scopeSpans: scopeSpans.map(({ scope, spans, ...schema }) => ({
        ...schema,
        scope,
        spans: spans.map((span) => ({
          traceId: toBase64(span.traceId),
          spanId: toBase64(span.spanId),
          ...(span.parentSpanId ? { parentSpanId: toBase64(span.parentSpanId) } : {}),
          ...(span.traceState ? { traceState: span.traceState } : {}),
          name: span.name,
          kind: SPAN_KINDS[span.kind] ?? SPAN_KINDS[0],
          startTimeUnixNano: span.startTimeUnixNano,
          endTimeUnixNano: span.endTimeUnixNano,
          ...unlessEmpty('attributes', span.attributes),
          ...unlessEmpty(
            'events',
            span.events.map(({ attributes, ...event }) => ({ ...event, ...unlessEmpty('attributes', attributes) })),
          ),
          ...unlessEmpty(
            'links',
            span.links.map((link) => ({
              traceId: toBase64(link.traceId),
              spanId: toBase64(link.spanId),
              ...unlessEmpty('attributes', link.attributes),
            })),
          ),
          status: {
            ...(span.status.code ? { code: STATUS_CODES[span.status.code] } : {}),
            ...(span.status.message ? { message: span.status.message } : {}),
          },
        })),
      })),
    })),
  }
}

const unlessEmpty = (key: string, list: readonly unknown[]): object => (list.length > 0 ? { [key]: list } : {})
const toBase64 = (hex: string): string => Buffer.from(hex, 'hex').toString('base64')

/** The format of Grafana's "Import trace" and of its download button. */
function toGrafana(traces: OtlpTraces): unknown {
  return {
    batches: traces.resourceSpans.map(({ resource, scopeSpans, ...schema }) => ({
      ...schema,
      resource: { ...resource, droppedAttributesCount: 0 },
      instrumentationLibrarySpans: scopeSpans.map(({ scope, spans, ...schema }) => ({
        ...schema,
        instrumentationLibrary: { name: scope.name, version: scope.version ?? '' },
        spans: spans.map((span) => ({
          ...span,
          traceState: span.traceState ?? '',
          // The import shows this value as it is, so the name is better than a number.
          kind: SPAN_KINDS[span.kind] ?? SPAN_KINDS[0],
          droppedAttributesCount: 0,
          droppedEventsCount: 0,
          droppedLinksCount: 0,
        })),
      })),
    })),
  }
}

/**
 * Reads any of the formats from the text of a file: one JSON value, or OTLP's JSON lines.
 * @throws TraceFormatError naming the path, what was expected and found
 */
export function parseTraceText(text: string): OtlpTraces {
  const values: unknown[] = []
  try {
    values.push(JSON.parse(text))
  } catch {
    for (const [i, line] of text.split('\n').entries()) {
      if (line.trim() === '') continue
      try {
        values.push(JSON.parse(line))
      } catch {
        throw new TraceFormatError(`line ${i + 1}`, 'JSON', 'something else')
      }
    }
  }
  return { resourceSpans: values.flatMap((value) => parseTraces(value).resourceSpans) }
}

/** Reads any of the four formats. @throws TraceFormatError */
export function parseTraces(value: unknown): OtlpTraces {
  if (Array.isArray(value)) return { resourceSpans: value.flatMap((item) => parseTraces(item).resourceSpans) }
  const root = asRecord(value, FILE)
  // Tempo's /api/v2/traces wraps the trace.
  if (isRecord(root.trace)) return parseTraces(root.trace)
  if (Array.isArray(root.data)) return fromJaeger(root)
  const batches = root.resourceSpans ?? root.batches
  if (!Array.isArray(batches)) {
    throw new TraceFormatError(
      FILE,
      'resourceSpans (OTLP), batches (Tempo, Grafana) or data (Jaeger)',
      Object.keys(root).join(', ') || 'nothing',
    )
  }
  return {
    resourceSpans: batches.map((batch, i) =>
      parseBatch(batch, `${root.resourceSpans ? 'resourceSpans' : 'batches'}[${i}]`),
    ),
  }
}

/** Grafana writes whole doubles as integers. The contract knows which attributes are doubles. */
const restored = (span: OtlpSpan): OtlpSpan => ({
  ...span,
  attributes: span.attributes.map(({ key, value }) =>
    value.intValue !== undefined && isDouble(key)
      ? { key, value: { doubleValue: Number(value.intValue) } }
      : { key, value },
  ),
})

function parseBatch(value: unknown, path: string): OtlpResourceSpans {
  const batch = asRecord(value, path)
  const resource = isRecord(batch.resource) ? batch.resource : {}
  const scopes = batch.scopeSpans ?? batch.instrumentationLibrarySpans
  return {
    resource: { attributes: parseAttributes(resource.attributes, `${path}.resource.attributes`) },
    ...schemaOf(batch),
    scopeSpans: asArray(scopes, `${path}.scopeSpans`).map((item, i) => {
      const where = `${path}.scopeSpans[${i}]`
      const entry = asRecord(item, where)
      const scope = entry.scope ?? entry.instrumentationLibrary
      const { name, version } = isRecord(scope) ? scope : {}
      return {
        scope: { name: optionalString(name), ...(typeof version === 'string' && version ? { version } : {}) },
        spans: asArray(entry.spans, `${where}.spans`).map((item, j) => {
          const span = parseSpan(item, `${where}.spans[${j}]`)
          return batch.instrumentationLibrarySpans ? restored(span) : span
        }),
        ...schemaOf(entry),
      }
    }),
  }
}

const schemaOf = ({ schemaUrl }: JsonRecord) => (typeof schemaUrl === 'string' && schemaUrl !== '' ? { schemaUrl } : {})

function parseSpan(value: unknown, path: string): OtlpSpan {
  const span = asRecord(value, path)
  if (typeof span.name !== 'string') throw new TraceFormatError(`${path}.name`, 'a string', typeof span.name)
  const status = isRecord(span.status) ? span.status : {}
  return {
    traceId: parseId(span.traceId, 16, `${path}.traceId`),
    spanId: parseId(span.spanId, 8, `${path}.spanId`),
    parentSpanId: span.parentSpanId ? parseId(span.parentSpanId, 8, `${path}.parentSpanId`) : '',
    ...(typeof span.traceState === 'string' && span.traceState ? { traceState: span.traceState } : {}),
    name: span.name,
    kind: parseEnum(span.kind, SPAN_KINDS, `${path}.kind`),
    startTimeUnixNano: parseNanos(span.startTimeUnixNano, `${path}.startTimeUnixNano`),
    endTimeUnixNano: parseNanos(span.endTimeUnixNano, `${path}.endTimeUnixNano`),
    attributes: parseAttributes(span.attributes, `${path}.attributes`),
    events: asArray(span.events ?? [], `${path}.events`).map((item, i) => {
      const event = asRecord(item, `${path}.events[${i}]`)
      return {
        timeUnixNano: parseNanos(event.timeUnixNano, `${path}.events[${i}].timeUnixNano`),
        name: optionalString(event.name),
        attributes: parseAttributes(event.attributes, `${path}.events[${i}].attributes`),
      }
    }),
    links: asArray(span.links ?? [], `${path}.links`).map((item, i) => {
      const link = asRecord(item, `${path}.links[${i}]`)
      return {
        traceId: parseId(link.traceId, 16, `${path}.links[${i}].traceId`),
        spanId: parseId(link.spanId, 8, `${path}.links[${i}].spanId`),
        attributes: parseAttributes(link.attributes, `${path}.links[${i}].attributes`),
      }
    }),
    status: {
      code: parseEnum(status.code, STATUS_CODES, `${path}.status.code`),
      ...(typeof status.message === 'string' && status.message ? { message: status.message } : {}),
    },
  }
}

/** A hexadecimal id, or base64 as in protobuf's JSON. The length tells which. */
function parseId(value: unknown, numBytes: number, path: string): string {
  if (typeof value === 'string') {
    if (value.length === numBytes * 2 && /^[0-9a-f]+$/i.test(value)) return value.toLowerCase()
    const bytes = Buffer.from(value, 'base64')
    if (bytes.length === numBytes) return bytes.toString('hex')
  }
  throw new TraceFormatError(
    path,
    `an id of ${numBytes} bytes, hexadecimal or base64`,
    typeof value === 'string' ? `${value.length} characters` : typeof value,
  )
}

function parseEnum(value: unknown, names: readonly string[], path: string): number {
  if (value === undefined || value === null) return 0
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < names.length) return value
  const found = names.indexOf(String(value))
  if (found < 0) throw new TraceFormatError(path, `one of ${names.join(', ')}`, String(value))
  return found
}

function parseNanos(value: unknown, path: string): string {
  if (typeof value === 'string' && /^\d+$/.test(value)) return value
  if (typeof value === 'number' && value >= 0) return String(BigInt(Math.round(value)))
  throw new TraceFormatError(path, 'nanoseconds since 1970', typeof value)
}

function parseAttributes(value: unknown, path: string): OtlpAttribute[] {
  return asArray(value ?? [], path).map((item, i) => {
    const attribute = asRecord(item, `${path}[${i}]`)
    return { key: optionalString(attribute.key), value: parseValue(attribute.value, `${path}[${i}].value`) }
  })
}

function parseValue(value: unknown, path: string): OtlpValue {
  const given: JsonRecord = isRecord(value) ? value : {}
  if (typeof given.stringValue === 'string') return { stringValue: given.stringValue }
  if (typeof given.boolValue === 'boolean') return { boolValue: given.boolValue }
  if (typeof given.intValue === 'number' || typeof given.intValue === 'string')
    return { intValue: String(given.intValue) }
  if (typeof given.doubleValue === 'number') return { doubleValue: given.doubleValue }
  if (isRecord(given.arrayValue)) {
    const values = asArray(given.arrayValue.values ?? [], `${path}.arrayValue.values`)
    return { arrayValue: { values: values.map((item, i) => parseValue(item, `${path}.arrayValue.values[${i}]`)) } }
  }
  return {}
}
