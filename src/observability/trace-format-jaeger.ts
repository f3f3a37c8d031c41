/**
 * Jaeger's JSON. Its times are microseconds, so nanoseconds are lost. Scope, kind, status and arrays become tags, with the names of
 * OpenTelemetry's mapping to Jaeger.
 */
import { SPAN_TABLE } from './contract.ts'
import type {
  OtlpAttribute,
  OtlpLink,
  OtlpResourceSpans,
  OtlpScopeSpans,
  OtlpSpan,
  OtlpTraces,
  OtlpValue,
} from './otlp.ts'
import { asArray, isRecord, type JsonRecord, optionalString, asRecord, TraceFormatError } from './trace-json.ts'

const KINDS = ['unspecified', 'internal', 'server', 'client', 'producer', 'consumer']
const OWN_TAGS: ReadonlySet<string> = new Set([
  'span.kind',
  'otel.scope.name',
  'otel.scope.version',
  'otel.status_code',
  'otel.status_description',
  'error',
  'w3c.tracestate',
])

/** Attributes that are lists. Jaeger has no lists, so they become JSON text. */
const LIST_ATTRIBUTES: ReadonlySet<string> = new Set(
  Object.values(SPAN_TABLE).flatMap((span) =>
    [span.attributes, ...Object.values(span.events).map((event) => event.attributes)].flatMap((specs) =>
      Object.entries(specs).flatMap(([name, spec]) => (spec.type === 'string[]' ? [name, ...(spec.alias ?? [])] : [])),
    ),
  ),
)

interface Tag {
  readonly key: string
  readonly type: 'string' | 'bool' | 'int64' | 'float64'
  readonly value: string | number | boolean
}

/** Converts OTLP JSON to the JSON of Jaeger's query API: `{ data: [{ traceID, spans, processes }] }`. */
export function toJaeger(traces: OtlpTraces): unknown {
  const byTrace = new Map<string, { spans: unknown[]; processes: Record<string, unknown> }>()
  for (const [i, { resource, scopeSpans }] of traces.resourceSpans.entries()) {
    const processID = `p${i + 1}`
    for (const { scope, spans } of scopeSpans) {
      for (const span of spans) {
        const trace = byTrace.get(span.traceId) ?? { spans: [], processes: {} }
        byTrace.set(span.traceId, trace)
        trace.processes[processID] ??= toProcess(resource)
        trace.spans.push(toJaegerSpan(span, scope, processID))
      }
    }
  }
  return {
    data: [...byTrace].map(([traceID, trace]) => ({ traceID, ...trace, warnings: null })),
    total: 0,
    limit: 0,
    offset: 0,
    errors: null,
  }
}

function toProcess(resource: OtlpResourceSpans['resource']): unknown {
  const name = resource.attributes.find(({ key }) => key === 'service.name')?.value.stringValue
  return {
    serviceName: name ?? 'unknown',
    tags: resource.attributes.filter(({ key }) => key !== 'service.name').map(toTag),
  }
}

function toJaegerSpan(span: OtlpSpan, scope: OtlpScopeSpans['scope'], processID: string): unknown {
  const start = micros(span.startTimeUnixNano)
  const string = (key: string, value: string | undefined): Tag[] => (value ? [{ key, type: 'string', value }] : [])
  return {
    traceID: span.traceId,
    spanID: span.spanId,
    operationName: span.name,
    references: [
      ...(span.parentSpanId ? [{ refType: 'CHILD_OF', traceID: span.traceId, spanID: span.parentSpanId }] : []),
      ...span.links.map((link) => ({ refType: 'FOLLOWS_FROM', traceID: link.traceId, spanID: link.spanId })),
    ],
    startTime: start,
    duration: micros(span.endTimeUnixNano) - start,
    tags: [
      ...span.attributes.map(toTag),
      ...string('span.kind', KINDS[span.kind]),
      ...string('otel.scope.name', scope.name),
      ...string('otel.scope.version', scope.version),
      ...string('otel.status_code', [undefined, 'OK', 'ERROR'][span.status.code]),
      ...string('otel.status_description', span.status.message),
      ...string('w3c.tracestate', span.traceState),
      ...(span.status.code === 2 ? [{ key: 'error', type: 'bool', value: true }] : []),
    ],
    logs: span.events.map((event) => ({
      timestamp: micros(event.timeUnixNano),
      fields: [{ key: 'event', type: 'string', value: event.name }, ...event.attributes.map(toTag)],
    })),
    processID,
    warnings: null,
  }
}

const micros = (nanos: string): number => Number(BigInt(nanos) / 1000n)

function toTag({ key, value }: OtlpAttribute): Tag {
  if (value.boolValue !== undefined) return { key, type: 'bool', value: value.boolValue }
  if (value.intValue !== undefined) return { key, type: 'int64', value: Number(value.intValue) }
  if (value.doubleValue !== undefined) return { key, type: 'float64', value: value.doubleValue }
  if (value.arrayValue) {
    return {
      key,
      type: 'string',
      value: JSON.stringify(
        value.arrayValue.values.map((item) => item.stringValue ?? item.intValue ?? item.doubleValue),
      ),
    }
  }
  return { key, type: 'string', value: value.stringValue ?? '' }
}

/** Converts Jaeger's JSON to OTLP JSON. @throws TraceFormatError naming the path, what was expected and found */
export function fromJaeger(root: JsonRecord): OtlpTraces {
  return {
    resourceSpans: asArray(root.data, 'data').flatMap((item, i) => {
      const trace = asRecord(item, `data[${i}]`)
      const processes = isRecord(trace.processes) ? trace.processes : {}
      const spans = asArray(trace.spans, `data[${i}].spans`).map((span, j) => asRecord(span, `data[${i}].spans[${j}]`))
      const byProcess = groupByProcess(spans)
      return [...byProcess].map(([processID, members]) => {
        const process = isRecord(processes[processID]) ? processes[processID] : {}
        return {
          resource: {
            attributes: [
              { key: 'service.name', value: { stringValue: optionalString(process.serviceName) } },
              ...parseTags(process.tags ?? [], `data[${i}].processes.${processID}.tags`),
            ],
          },
          scopeSpans: byScope(members, `data[${i}]`),
        }
      })
    }),
  }
}

const processOf = (span: JsonRecord): string => optionalString(span.processID)

function groupByProcess(spans: readonly JsonRecord[]): Map<string, JsonRecord[]> {
  const groups = new Map<string, JsonRecord[]>()
  for (const span of spans) groups.set(processOf(span), [...(groups.get(processOf(span)) ?? []), span])
  return groups
}

function byScope(spans: readonly JsonRecord[], path: string): OtlpScopeSpans[] {
  const groups = new Map<string, { scope: OtlpScopeSpans['scope']; spans: OtlpSpan[] }>()
  for (const span of spans) {
    const tags = parseTags(span.tags ?? [], `${path}.tags`)
    const tag = (key: string) => tags.find((attribute) => attribute.key === key)?.value
    const name = tag('otel.scope.name')?.stringValue ?? ''
    const version = tag('otel.scope.version')?.stringValue
    const key = `${name}\n${version ?? ''}`
    const group = groups.get(key) ?? { scope: { name, ...(version ? { version } : {}) }, spans: [] }
    groups.set(key, group)
    group.spans.push(parseSpan(span, tags, path))
  }
  return [...groups.values()]
}

function parseSpan(span: JsonRecord, tags: readonly OtlpAttribute[], path: string): OtlpSpan {
  const tag = (key: string) => tags.find((attribute) => attribute.key === key)?.value
  const references = asArray(span.references ?? [], `${path}.references`).map((item) =>
    asRecord(item, `${path}.references`),
  )
  const parent = references.find((reference) => reference.refType === 'CHILD_OF')
  const start = number(span.startTime, `${path}.startTime`)
  const state = tag('w3c.tracestate')?.stringValue
  const message = tag('otel.status_description')?.stringValue
  const code = { OK: 1, ERROR: 2 }[tag('otel.status_code')?.stringValue ?? ''] ?? (tag('error')?.boolValue ? 2 : 0)
  return {
    traceId: optionalString(span.traceID).padStart(32, '0'),
    spanId: optionalString(span.spanID).padStart(16, '0'),
    parentSpanId: parent ? optionalString(parent.spanID) : '',
    ...(state ? { traceState: state } : {}),
    name: optionalString(span.operationName),
    kind: Math.max(0, KINDS.indexOf(tag('span.kind')?.stringValue ?? '')),
    startTimeUnixNano: toNanos(start),
    endTimeUnixNano: toNanos(start + number(span.duration, `${path}.duration`)),
    attributes: tags.filter(({ key }) => !OWN_TAGS.has(key)),
    events: asArray(span.logs ?? [], `${path}.logs`).map((item) => {
      const log = asRecord(item, `${path}.logs`)
      const fields = parseTags(log.fields ?? [], `${path}.logs.fields`)
      return {
        timeUnixNano: toNanos(number(log.timestamp, `${path}.logs.timestamp`)),
        name: fields.find(({ key }) => key === 'event')?.value.stringValue ?? '',
        attributes: fields.filter(({ key }) => key !== 'event'),
      }
    }),
    links: references
      .filter((reference) => reference.refType === 'FOLLOWS_FROM')
      .map((reference): OtlpLink => ({
        traceId: optionalString(reference.traceID),
        spanId: optionalString(reference.spanID),
        attributes: [],
      })),
    status: { code, ...(message ? { message } : {}) },
  }
}

const toNanos = (us: number): string => String(BigInt(Math.round(us)) * 1000n)

function number(value: unknown, path: string): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw new TraceFormatError(path, 'a number', typeof value)
}

function parseTags(value: unknown, path: string): OtlpAttribute[] {
  return asArray(value, path).map((item, i) => {
    const tag = asRecord(item, `${path}[${i}]`)
    return { key: optionalString(tag.key), value: parseTagValue(optionalString(tag.key), tag) }
  })
}

function parseTagValue(key: string, tag: JsonRecord): OtlpValue {
  switch (tag.type) {
    case 'bool':
      return { boolValue: tag.value === true || tag.value === 'true' }
    case 'int64':
      return { intValue: String(tag.value) }
    case 'float64':
      return { doubleValue: Number(tag.value) }
    default:
      return listOf(key, String(tag.value)) ?? { stringValue: String(tag.value) }
  }
}

function listOf(key: string, text: string): OtlpValue | null {
  if (!LIST_ATTRIBUTES.has(key)) return null
  try {
    const values: unknown = JSON.parse(text)
    return Array.isArray(values)
      ? { arrayValue: { values: values.map((item) => ({ stringValue: String(item) })) } }
      : null
  } catch {
    return null
  }
}
