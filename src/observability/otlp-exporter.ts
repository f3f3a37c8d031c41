/**
 * OpenTelemetry's own OTLP exporters, over gRPC, HTTP with protobuf or HTTP with JSON. They handle headers, compression, certificates, time
 * limits and retries (OTEL_EXPORTER_OTLP_*). Only the encoder of spans is replaced: the SDK's sends whole doubles as integers, and Tempo
 * stores the two in different columns.
 */
import { createRequire } from 'node:module'
import { getBooleanFromEnv, getNumberFromEnv, getStringFromEnv } from '@opentelemetry/core'
import type { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-http'
import type { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-http'
import type { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import type { LogRecordExporter } from '@opentelemetry/sdk-logs'
import type { PushMetricExporter } from '@opentelemetry/sdk-metrics'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { encodeTraceRequest } from './otlp-encoder.ts'
import { spansToOtlp } from './otlp.ts'

type Signal = 'traces' | 'logs' | 'metrics'

const PROTOCOLS = ['grpc', 'http/protobuf', 'http/json'] as const
type Protocol = (typeof PROTOCOLS)[number]

/** Called with a setting that cannot be used. */
type Report = (detail: string) => void

interface Encoder {
  serializeRequest(spans: ReadableSpan[]): Uint8Array
}

const encodeJson = (spans: readonly ReadableSpan[]): Uint8Array =>
  new TextEncoder().encode(JSON.stringify(spansToOtlp(spans)))

/** A variable of the standard for one signal. */
const ofSignal = (signal: Signal, name: string) =>
  getStringFromEnv(`OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_${name}`)

/** The same for the signal, else for all signals. */
const setting = (signal: Signal, name: string) =>
  ofSignal(signal, name) ?? getStringFromEnv(`OTEL_EXPORTER_OTLP_${name}`)

/** A number of the standard's variables; the fallback if it is not set or not positive. */
export function positiveFromEnv(name: string, fallback: number): number {
  const value = getNumberFromEnv(name)
  return value !== undefined && value > 0 ? value : fallback
}

/**
 * Settings of a batch processor.
 * @param prefix OTEL_BSP for spans, OTEL_BLRP for log records.
 * @param queueSize items that may wait, if no variable says otherwise
 * @param given items that may wait, whatever the variable says
 */
export function batchSettings(prefix: 'OTEL_BSP' | 'OTEL_BLRP', queueSize: number, batchSize: number, given?: number) {
  const maxQueueSize = given ?? positiveFromEnv(`${prefix}_MAX_QUEUE_SIZE`, queueSize)
  return {
    maxQueueSize,
    maxExportBatchSize: Math.min(positiveFromEnv(`${prefix}_MAX_EXPORT_BATCH_SIZE`, batchSize), maxQueueSize),
    scheduledDelayMillis: positiveFromEnv(`${prefix}_SCHEDULE_DELAY`, 1000),
    // Longer than the exporter's own time limit, so that the exporter's reason is reported.
    exportTimeoutMillis: positiveFromEnv(`${prefix}_EXPORT_TIMEOUT`, 11_000),
  }
}

/**
 * Whether OTEL_TRACES_EXPORTER, OTEL_LOGS_EXPORTER or OTEL_METRICS_EXPORTER asks for OTLP. Traces are exported by default; logs and
 * metrics are not, and never with OTEL_SDK_DISABLED.
 */
function isExported(signal: Signal, report: Report): boolean {
  if (signal !== 'traces' && getBooleanFromEnv('OTEL_SDK_DISABLED')) return false
  const byDefault = signal === 'traces' ? 'otlp' : 'none'
  const variable = `OTEL_${signal.toUpperCase()}_EXPORTER`
  const name = getStringFromEnv(variable) ?? byDefault
  if (name === 'otlp' || name === 'none') return name === 'otlp'
  report(`${variable}: expected otlp or none, found another; ${byDefault} is used`)
  return byDefault === 'otlp'
}

/** How the package names of a protocol's exporters end. */
const PACKAGE_SUFFIX: Readonly<Record<Protocol, string>> = {
  grpc: 'grpc',
  'http/protobuf': 'proto',
  'http/json': 'http',
}

/** The exporters' classes: the packages of all protocols use the same names and options. */
interface Exporters {
  readonly OTLPTraceExporter: new (options: { url: string }) => OTLPTraceExporter
  readonly OTLPLogExporter: new (options: { url: string }) => OTLPLogExporter
  readonly OTLPMetricExporter: new (options: { url: string }) => OTLPMetricExporter
}

const require = createRequire(import.meta.url)

/** Only the package that is used is loaded: loading all nine would slow down every start. */
function load(signal: Signal, protocol: Protocol): Exporters {
  const kind = signal === 'traces' ? 'trace' : signal
  return require(`@opentelemetry/exporter-${kind}-otlp-${PACKAGE_SUFFIX[protocol]}`) as Exporters
}

/**
 * Creates an exporter. gRPC's refuse headers that are no metadata, with an error that quotes them: it is not repeated, because headers
 * contain keys.
 * @returns null, after a report, if the settings cannot be used
 */
function built<E>(signal: Signal, create: () => E, report: Report): E | null {
  try {
    return create()
  } catch {
    report(`the settings of the OTLP exporter of ${signal} cannot be used: they are not exported`)
    return null
  }
}

/**
 * An exporter of spans to an endpoint. It connects on the first export. Null if spans are not exported; settings that cannot be used are
 * reported.
 * @throws Error if an update of the package has moved its serializer
 */
export function createSpanExporter(endpoint: string, report: Report): SpanExporter | null {
  const target = targetOf('traces', endpoint, report)
  if (!target) return null
  const { OTLPTraceExporter } = load('traces', target.protocol)
  const exporter = built('traces', () => new OTLPTraceExporter(target), report)
  return exporter && withEncoder(exporter, target.protocol === 'http/json' ? encodeJson : encodeTraceRequest)
}

/** An exporter of log records. Null if they are not exported; settings that cannot be used are reported. */
export function createLogExporter(report: Report): LogRecordExporter | null {
  const target = targetOf('logs', null, report)
  if (!target) return null
  const { OTLPLogExporter } = load('logs', target.protocol)
  return built('logs', () => new OTLPLogExporter(target), report)
}

/** An exporter of metrics. Null if they are not exported; settings that cannot be used are reported. */
export function createMetricExporter(report: Report): PushMetricExporter | null {
  const target = targetOf('metrics', null, report)
  if (!target) return null
  const { OTLPMetricExporter } = load('metrics', target.protocol)
  return built('metrics', () => new OTLPMetricExporter(target), report)
}

interface Target {
  readonly url: string
  readonly protocol: Protocol
}

/**
 * Where a signal is sent, and how; null: it is not exported.
 * @param given the configured endpoint; null: the standard's variables, else a collector on this machine. Over HTTP, the path of the
 * signal is added to the base of all signals. Without a scheme, it is http, or https with OTEL_EXPORTER_OTLP_INSECURE=false.
 */
function targetOf(signal: Signal, given: string | null, report: Report): Target | null {
  if (!isExported(signal, report)) return null
  const name = setting(signal, 'PROTOCOL') ?? 'grpc'
  const protocol = PROTOCOLS.find((known) => known === name) ?? 'grpc'
  if (protocol !== name) {
    report(`OTEL_EXPORTER_OTLP_PROTOCOL: expected one of ${PROTOCOLS.join(', ')}, found another; grpc is used`)
  }
  const base = getStringFromEnv('OTEL_EXPORTER_OTLP_ENDPOINT')
  const fallback = protocol === 'grpc' ? 'http://localhost:4317' : 'http://localhost:4318'
  const endpoint = given ?? setting(signal, 'ENDPOINT') ?? fallback
  const address = withScheme(signal, endpoint)
  if (!URL.canParse(address)) {
    report(`the OTLP endpoint of ${signal} is not a URL: they are not exported`)
    return null
  }
  if (protocol === 'grpc') return { url: address, protocol }
  const url = new URL(address)
  // The signal's own variable is used as it is. The path is added to the base of all signals.
  const isBase = endpoint === base && ofSignal(signal, 'ENDPOINT') === undefined
  if (isBase || url.pathname === '/') url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/${signal}`
  return { url: url.href, protocol }
}

function withScheme(signal: Signal, endpoint: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(endpoint)) return endpoint
  return `${setting(signal, 'INSECURE')?.toLowerCase() === 'false' ? 'https' : 'http'}://${endpoint}`
}

/**
 * Puts an encoder into an exporter.
 * @throws Error if an update of the package has moved its serializer, so that no attribute changes its type unnoticed
 */
function withEncoder(exporter: SpanExporter, encode: (spans: readonly ReadableSpan[]) => Uint8Array): SpanExporter {
  const delegate: unknown = Reflect.get(exporter, '_delegate')
  const serializer: unknown =
    typeof delegate === 'object' && delegate !== null ? Reflect.get(delegate, '_serializer') : undefined
  if (!isSerializer(serializer)) {
    throw new Error(
      'the OTLP exporter no longer has its serializer where version 0.223.0 had it; update otlp-exporter.ts',
    )
  }
  const encoder: Encoder = { ...serializer, serializeRequest: encode }
  Reflect.set(delegate as object, '_serializer', encoder)
  return exporter
}

const isSerializer = (value: unknown): value is Encoder =>
  typeof value === 'object' &&
  value !== null &&
  'serializeRequest' in value &&
  typeof value.serializeRequest === 'function' &&
  'deserializeResponse' in value
