/** The data that the trace page shows for one tree, computed from its spans. */
import { levelOf, SPAN_TABLE } from '../../observability/contract.ts'
import { type DecodeTimeline, decodeTimeline } from '../../observability/decode-timeline.ts'
import {
  type OtlpAttribute,
  type OtlpSpan,
  type OtlpTraces,
  eachSpan,
  plainValue,
  spansToOtlp,
} from '../../observability/otlp.ts'
import type { StoredTrace } from '../../observability/stored-trace.ts'
import { type Breach, validateTraces } from '../../observability/validate.ts'
import { type Interval, timeBreakdown } from './time-breakdown.ts'

/** What the page shows for one tree. */
export type TraceView = ReturnType<typeof traceView>
export type SpanRow = ReturnType<typeof toRow>
export type LogView = TraceView['logs'][number]
export type AttributeView = ReturnType<typeof toAttribute>

/** Rows, logs, breaches and time shares of one tree. Times are milliseconds since its root began. */
export function traceView(trace: StoredTrace) {
  const otlp = spansToOtlp(trace.spans)
  const spans = [...eachSpan(otlp)].map(({ span }) => span)
  const level = levelOf(spans.map(({ name }) => name))
  const breaches = validateTraces(otlp, level)
  const root = spans.find((span) => span.spanId === trace.rootSpanId) ?? spans[0]
  const originNanos = BigInt(root?.startTimeUnixNano ?? 0)
  const rows = root ? toRows(root, spans, originNanos, breaches) : []
  return {
    trace,
    /** Length of the time axis: the latest end of any span. */
    axisMs: Math.max(...rows.map((row) => row.startMs + row.durationMs), 0.001),
    rows,
    /** Where the root's time went. */
    parts: timeBreakdown(stagesOf(rows), rows[0]?.durationMs ?? 0, PRECEDENCE),
    /** The calling service's span; null: the caller sent no trace context. */
    callerSpanId: root?.parentSpanId || null,
    logs: trace.logLines.flatMap((line) => toLog(line, trace, spans)),
    breaches,
    level,
    resource: (otlp.resourceSpans[0]?.resource.attributes ?? []).map(toAttribute),
    facts: factsOf(trace, otlp),
  }
}

/** Stages in order of precedence: work before waiting. */
const PRECEDENCE = ['prefill', 'decode', 'rag', 'tokenize', 'kv', 'format', 'queue']

/** The stages of the root, and the queue before the first scheduled step. */
function stagesOf(rows: readonly SpanRow[]): readonly Interval[] {
  return rows.flatMap((row) => {
    if (row.depth !== 1) return []
    const own = { stage: row.family, startMs: row.startMs, endMs: row.startMs + row.durationMs }
    const queueMs = Number(row.attributes.find(({ key }) => key === 'llm.queue.us')?.value ?? 0) / 1000
    return queueMs > 0 ? [{ stage: 'queue', startMs: row.startMs - queueMs, endMs: row.startMs }, own] : [own]
  })
}

/** Depth first in order of start; spans whose parent is missing are shown below the root. */
function toRows(
  root: OtlpSpan,
  spans: readonly OtlpSpan[],
  originNanos: bigint,
  breaches: readonly Breach[],
): SpanRow[] {
  const ids = new Set(spans.map((span) => span.spanId))
  const children = new Map<string, OtlpSpan[]>()
  for (const span of spans) {
    if (span === root) continue
    const parent = ids.has(span.parentSpanId) ? span.parentSpanId : root.spanId
    children.set(parent, [...(children.get(parent) ?? []), span])
  }
  const rows: SpanRow[] = []
  const visit = (span: OtlpSpan, depth: number) => {
    rows.push(toRow(span, depth, originNanos, breaches))
    const below = [...(children.get(span.spanId) ?? [])].sort((a, b) =>
      Number(BigInt(a.startTimeUnixNano) - BigInt(b.startTimeUnixNano)),
    )
    for (const child of below) visit(child, depth + 1)
  }
  visit(root, 0)
  return rows
}

function toRow(span: OtlpSpan, depth: number, originNanos: bigint, breaches: readonly Breach[]) {
  const since = (nanos: string) => Number(BigInt(nanos) - originNanos) / 1e6
  const startMs = since(span.startTimeUnixNano)
  // The timeline is shown as a chart.
  const ordered = orderAttributes(span).filter(({ key }) => key !== 'llm.decode.timeline')
  const timeline = span.attributes.find(({ key }) => key === 'llm.decode.timeline')?.value.stringValue
  return {
    spanId: span.spanId,
    name: span.name,
    depth,
    /** First part of the name: http, tokenize, rag, llm, ...; picks the colour. */
    family: familyOf(span.name),
    isError: span.status.code === 2,
    errorType: span.attributes.find(({ key }) => key === 'error.type')?.value.stringValue ?? null,
    /** Milliseconds after the root's start. */
    startMs,
    durationMs: since(span.endTimeUnixNano) - startMs,
    attributes: ordered.filter(({ key }) => !isConvention(span.name, key)).map(toAttribute),
    /** Attributes that are named by conventions. */
    conventions: ordered.filter(({ key }) => isConvention(span.name, key)).map(toAttribute),
    events: span.events.map((event) => ({
      name: event.name,
      atMs: since(event.timeUnixNano),
      attributes: event.attributes.map(toAttribute),
    })),
    links: span.links,
    breaches: breaches.filter((breach) => breach.spanId === span.spanId),
    timeline: timeline ? readTimeline(timeline) : null,
  }
}

/** Attributes of the contract first, in its order; those of conventions after them. */
function orderAttributes(span: OtlpSpan): readonly OtlpAttribute[] {
  const names = Object.entries(SPAN_TABLE[span.name]?.attributes ?? {})
  const rank = new Map(names.map(([name, spec], i) => [name, spec.convention ? i + 1000 : i]))
  return [...span.attributes].sort((a, b) => (rank.get(a.key) ?? 2000) - (rank.get(b.key) ?? 2000))
}

/** Whether an attribute is named by a convention: an alias, or marked as such. Unknown names count as the contract's. */
function isConvention(spanName: string, key: string): boolean {
  const specs = SPAN_TABLE[spanName]?.attributes ?? {}
  const own = specs[key]
  if (own) return own.convention === true && key !== 'error.type'
  return Object.values(specs).some((spec) => spec.alias?.includes(key))
}

const familyOf = (name: string): string => {
  const family = name.split('.', 1)[0] ?? ''
  if (family === 'llm') return name === 'llm.prefill' ? 'prefill' : 'decode'
  return { embed: 'rag', vector: 'rag', rerank: 'rag' }[family] ?? family
}

function readTimeline(text: string): DecodeTimeline | null {
  try {
    return decodeTimeline(text)
  } catch {
    // A limit has cut off the timeline. The page shows everything else.
    return null
  }
}

function toAttribute({ key, value }: OtlpAttribute) {
  const plain = plainValue(value)
  return {
    key,
    value: Array.isArray(plain) ? plain.map(String).join(', ') : String(plain),
    type: Object.keys(value)[0]?.replace('Value', '') ?? '',
  }
}

const STORY_KEYS = new Set(['level', 'time', 'msg', 'trace_id', 'span_id'])

function toLog(line: string, trace: StoredTrace, spans: readonly OtlpSpan[]) {
  try {
    const record = JSON.parse(line) as Record<string, unknown>
    const time = Date.parse(String(record.time))
    return [
      {
        atMs: Number.isNaN(time) ? null : Math.max(0, time - trace.startMs),
        level: String(record.level),
        event: String(record.msg),
        spanName: spans.find((span) => span.spanId === record.span_id)?.name ?? null,
        fields: Object.entries(record)
          .filter(([key]) => !STORY_KEYS.has(key))
          .map(([key, value]) => ({
            key,
            value: typeof value === 'string' ? value : JSON.stringify(value),
            type: typeof value,
          })),
      },
    ]
  } catch {
    return []
  }
}

/** The most important numbers of the trace. */
function factsOf(trace: StoredTrace, otlp: OtlpTraces) {
  const value = (span: string, key: string) => {
    const found = [...eachSpan(otlp)].find((entry) => entry.span.name === span)?.span
    const attribute = found?.attributes.find((entry) => entry.key === key)
    return attribute ? plainValue(attribute.value) : null
  }
  const number = (span: string, key: string) => {
    const found = value(span, key)
    return typeof found === 'number' ? found : null
  }
  const facts: { label: string; value: string; isWarning?: boolean }[] = []
  const add = (label: string, text: string | null, isWarning = false) => {
    if (text !== null) facts.push(isWarning ? { label, value: text, isWarning } : { label, value: text })
  }
  add('Duration', formatMs(trace.durationMs))
  if (trace.ttftSeconds !== null) add('First token', formatMs(trace.ttftSeconds * 1000))
  const queue = number('llm.prefill', 'llm.queue.us')
  if (queue !== null) add('Queue', formatMs(queue / 1000))
  const tokensIn = number('llm.prefill', 'llm.tokens.in')
  const hits = number('llm.prefill', 'llm.cache.hits')
  if (tokensIn !== null) add('Prompt', `${tokensIn} tokens`)
  if (hits !== null && tokensIn !== null) {
    const reason = String(value('llm.prefill', 'llm.cache.miss_reason') ?? 'none')
    add('Cache', `${hits} of ${tokensIn} tokens${reason === 'none' ? '' : `, ${reason}`}`)
  }
  const tokensOut = number('http.handler', 'llm.tokens.out')
  if (tokensOut !== null) add('Output', `${tokensOut} tokens`, tokensOut === 0)
  const mean = number('llm.decode', 'llm.decode.mean_step_ms')
  if (mean) add('Step', `${formatMs(mean)} mean`)
  const stop = value('llm.decode', 'llm.stop_reason')
  if (stop !== null) add('Stopped', String(stop))
  if (trace.keptFor !== null) add('Exported because', trace.keptFor)
  return facts
}

/** A duration with a unit that fits. */
export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`
  if (ms >= 10) return `${ms.toFixed(1)} ms`
  if (ms >= 0.1) return `${ms.toFixed(2)} ms`
  return `${Math.round(ms * 1000)} µs`
}
