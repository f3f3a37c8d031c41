/** Spans as OTLP JSON: hexadecimal ids, enums and 64-bit numbers as OTLP's JSON mapping of protobuf writes them. */
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { DOUBLE_ATTRIBUTES } from './contract.ts'
import { isOpenInferenceDouble } from './open-inference.ts'

export interface OtlpValue {
  readonly stringValue?: string
  readonly boolValue?: boolean
  /** A string, because it may have 64 bits. */
  readonly intValue?: string
  readonly doubleValue?: number
  readonly arrayValue?: { readonly values: readonly OtlpValue[] }
}

export interface OtlpAttribute {
  readonly key: string
  readonly value: OtlpValue
}

export interface OtlpEvent {
  readonly timeUnixNano: string
  readonly name: string
  readonly attributes: readonly OtlpAttribute[]
}

export interface OtlpLink {
  readonly traceId: string
  readonly spanId: string
  readonly attributes: readonly OtlpAttribute[]
}

export interface OtlpSpan {
  /** 32 hexadecimal digits. */
  readonly traceId: string
  /** 16 hexadecimal digits. */
  readonly spanId: string
  /** Empty on a root. */
  readonly parentSpanId: string
  readonly traceState?: string
  readonly name: string
  /** 1 internal, 2 server, 3 client, 4 producer, 5 consumer. */
  readonly kind: number
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: readonly OtlpAttribute[]
  readonly events: readonly OtlpEvent[]
  readonly links: readonly OtlpLink[]
  /** code: 0 unset, 1 ok, 2 error. */
  readonly status: { readonly code: number; readonly message?: string }
}

export interface OtlpScopeSpans {
  readonly scope: { readonly name: string; readonly version?: string }
  readonly spans: readonly OtlpSpan[]
  readonly schemaUrl?: string
}

export interface OtlpResourceSpans {
  readonly resource: { readonly attributes: readonly OtlpAttribute[] }
  readonly schemaUrl?: string
  readonly scopeSpans: readonly OtlpScopeSpans[]
}

export interface OtlpTraces {
  readonly resourceSpans: readonly OtlpResourceSpans[]
}

export const SPAN_KINDS = [
  'SPAN_KIND_UNSPECIFIED',
  'SPAN_KIND_INTERNAL',
  'SPAN_KIND_SERVER',
  'SPAN_KIND_CLIENT',
  'SPAN_KIND_PRODUCER',
  'SPAN_KIND_CONSUMER',
] as const
export const STATUS_CODES = ['STATUS_CODE_UNSET', 'STATUS_CODE_OK', 'STATUS_CODE_ERROR'] as const

const declaredDoubles = new Set<string>()

/** Declares attributes outside the contract that are always exported as doubles. */
export function declareDoubles(names: readonly string[]): void {
  for (const name of names) declaredDoubles.add(name)
}

/** Whether an attribute is always exported as a double, even if its value is whole. */
export const isDouble = (name: string): boolean =>
  DOUBLE_ATTRIBUTES.has(name) || declaredDoubles.has(name) || isOpenInferenceDouble(name)

/** Spans by resource and scope. */
export function groupSpans(spans: readonly ReadableSpan[]) {
  const groups = new Map<ReadableSpan['resource'], Map<ReadableSpan['instrumentationScope'], ReadableSpan[]>>()
  for (const span of spans) {
    const scopes = groups.get(span.resource) ?? new Map<ReadableSpan['instrumentationScope'], ReadableSpan[]>()
    groups.set(span.resource, scopes)
    const members = scopes.get(span.instrumentationScope)
    if (members) members.push(span)
    else scopes.set(span.instrumentationScope, [span])
  }
  return groups
}

/** Spans of this process in the canonical form. */
export const spansToOtlp = (spans: readonly ReadableSpan[]): OtlpTraces => ({
  resourceSpans: [...groupSpans(spans)].map(([resource, scopes]) => ({
    resource: { attributes: toOtlpAttributes(resource.attributes) },
    ...(resource.schemaUrl ? { schemaUrl: resource.schemaUrl } : {}),
    scopeSpans: [...scopes].map(([{ name, version, schemaUrl }, members]) => ({
      scope: { name, ...(version ? { version } : {}) },
      spans: members.map(toOtlpSpan),
      ...(schemaUrl ? { schemaUrl } : {}),
    })),
  })),
})

function toOtlpSpan(span: ReadableSpan): OtlpSpan {
  const { traceId, spanId, traceState } = span.spanContext()
  const state = traceState?.serialize()
  return {
    traceId,
    spanId,
    parentSpanId: span.parentSpanContext?.spanId ?? '',
    ...(state ? { traceState: state } : {}),
    name: span.name,
    kind: span.kind + 1,
    startTimeUnixNano: nanos(span.startTime),
    endTimeUnixNano: nanos(span.endTime),
    attributes: toOtlpAttributes(span.attributes),
    events: span.events.map((event) => ({
      timeUnixNano: nanos(event.time),
      name: event.name,
      attributes: toOtlpAttributes(event.attributes ?? {}),
    })),
    links: span.links.map((link) => ({
      traceId: link.context.traceId,
      spanId: link.context.spanId,
      attributes: toOtlpAttributes(link.attributes ?? {}),
    })),
    status: { code: span.status.code, ...(span.status.message ? { message: span.status.message } : {}) },
  }
}

const nanos = ([seconds, rest]: readonly [number, number]): string =>
  String(BigInt(seconds) * 1_000_000_000n + BigInt(rest))

function toOtlpAttributes(attributes: ReadableSpan['attributes']): OtlpAttribute[] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined || value === null ? [] : [{ key, value: toOtlpValue(value, isDouble(key)) }],
  )
}

function toOtlpValue(value: unknown, asDouble: boolean): OtlpValue {
  if (typeof value === 'boolean') return { boolValue: value }
  if (typeof value === 'number') {
    return !asDouble && Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value }
  }
  if (Array.isArray(value)) return { arrayValue: { values: value.map((item) => toOtlpValue(item, asDouble)) } }
  return { stringValue: String(value) }
}

/** Every span with its resource and scope. */
export function* eachSpan(
  traces: OtlpTraces,
): Generator<{ readonly span: OtlpSpan; readonly scope: string; readonly resource: OtlpResourceSpans['resource'] }> {
  for (const { resource, scopeSpans } of traces.resourceSpans) {
    for (const { scope, spans } of scopeSpans) for (const span of spans) yield { span, scope: scope.name, resource }
  }
}

/** A value as a JavaScript value. */
export function plainValue(value: OtlpValue): string | number | boolean | readonly unknown[] | null {
  if (value.intValue !== undefined) return Number(value.intValue)
  if (value.arrayValue) return value.arrayValue.values.map(plainValue)
  return value.stringValue ?? value.doubleValue ?? value.boolValue ?? null
}
