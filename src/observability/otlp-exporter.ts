/**
 * OpenTelemetry's own OTLP exporters, over gRPC, HTTP with protobuf or HTTP with JSON. Headers, compression, certificates, time limits and
 * retries are theirs (OTEL_EXPORTER_OTLP_*). This is the one place where this project's encoder of spans is put into them: the SDK's sends a
 * double that happens to be whole as an integer, and Tempo keeps the two in different columns.
 */
import { createRequire } from 'node:module'
import { getBooleanFromEnv, getStringFromEnv } from '@opentelemetry/core'
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

/** Called for a setting that cannot be used as given. */
type Report = (detail: string) => void

interface Encoder {
  serializeRequest(spans: ReadableSpan[]): Uint8Array
}

const encodeJson = (spans: readonly ReadableSpan[]): Uint8Array =>
  new TextEncoder().encode(JSON.stringify(spansToOtlp(spans)))

/** A variable of the standard for one signal. */
const ofSignal = (signal: Signal, name: string) =>
  getStringFromEnv(`OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_${name}`)

/** The same for the signal, else for all of them. */
const setting = (signal: Signal, name: string) =>
  ofSignal(signal, name) ?? getStringFromEnv(`OTEL_EXPORTER_OTLP_${name}`)

/**
 * Whether OTEL_TRACES_EXPORTER, OTEL_LOGS_EXPORTER or OTEL_METRICS_EXPORTER asks for OTLP. `unset`: what applies where it is not set.
 * OTEL_SDK_DISABLED is asked for the signals that have no setting of their own.
 */
export function isExported(signal: Signal, unset: 'otlp' | 'none', report: Report): boolean {
  if (signal !== 'traces' && getBooleanFromEnv('OTEL_SDK_DISABLED')) return false
  const variable = `OTEL_${signal.toUpperCase()}_EXPORTER`
  const name = getStringFromEnv(variable) ?? unset
  if (name === 'otlp' || name === 'none') return name === 'otlp'
  report(`${variable}: expected otlp or none, found another; ${unset} is used`)
  return unset === 'otlp'
}

/** How the packages of a protocol's exporters end. */
const PACKAGE_SUFFIX: Readonly<Record<Protocol, string>> = {
  grpc: 'grpc',
  'http/protobuf': 'proto',
  'http/json': 'http',
}

/** The exporters' classes: the same names and options in the packages of every protocol. */
interface Exporters {
  readonly OTLPTraceExporter: new (options: { url: string }) => OTLPTraceExporter
  readonly OTLPLogExporter: new (options: { url: string }) => OTLPLogExporter
  readonly OTLPMetricExporter: new (options: { url: string }) => OTLPMetricExporter
}

const require = createRequire(import.meta.url)

/** Of the nine packages only what a server exports by is loaded: the others would make every start longer. */
function load(kind: 'trace' | 'logs' | 'metrics', protocol: Protocol): Exporters {
  return require(`@opentelemetry/exporter-${kind}-otlp-${PACKAGE_SUFFIX[protocol]}`) as Exporters
}

/**
 * An exporter of spans to an endpoint. It dials on the first export.
 * @throws TypeError where the endpoint is no URL.
 */
export function createSpanExporter(endpoint: string, report: Report): SpanExporter {
  const { url, protocol } = targetOf('traces', endpoint, report)
  const exporter = new (load('trace', protocol).OTLPTraceExporter)({ url })
  return withEncoder(exporter, protocol === 'http/json' ? encodeJson : encodeTraceRequest)
}

/** An exporter of log records. @throws TypeError where the configured endpoint is no URL. */
export function createLogExporter(report: Report): LogRecordExporter {
  const { url, protocol } = targetOf('logs', null, report)
  return new (load('logs', protocol).OTLPLogExporter)({ url })
}

/** An exporter of metrics. @throws TypeError where the configured endpoint is no URL. */
export function createMetricExporter(report: Report): PushMetricExporter {
  const { url, protocol } = targetOf('metrics', null, report)
  return new (load('metrics', protocol).OTLPMetricExporter)({ url })
}

/**
 * Where a signal goes, and how.
 * @param given the endpoint as configured; null: the standard's variables, and its default, a collector on this machine. Over HTTP, the
 * base of all signals gets the signal's path. One without a scheme is http, or with OTEL_EXPORTER_OTLP_INSECURE=false https.
 */
function targetOf(
  signal: Signal,
  given: string | null,
  report: Report,
): { readonly url: string; readonly protocol: Protocol } {
  const name = setting(signal, 'PROTOCOL') ?? 'grpc'
  const protocol = PROTOCOLS.find((known) => known === name) ?? 'grpc'
  if (protocol !== name) {
    report(`OTEL_EXPORTER_OTLP_PROTOCOL: expected one of ${PROTOCOLS.join(', ')}, found another; grpc is used`)
  }
  const base = getStringFromEnv('OTEL_EXPORTER_OTLP_ENDPOINT')
  const fallback = protocol === 'grpc' ? 'http://localhost:4317' : 'http://localhost:4318'
  const endpoint = given ?? setting(signal, 'ENDPOINT') ?? fallback
  const url = new URL(withScheme(signal, endpoint))
  if (protocol === 'grpc') return { url: withScheme(signal, endpoint), protocol }
  // The signal's own variable is used as it is; to the base of all signals the path is added.
  const isBase = endpoint === base && ofSignal(signal, 'ENDPOINT') === undefined
  if (isBase || url.pathname === '/') url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/${signal}`
  return { url: url.href, protocol }
}

function withScheme(signal: Signal, endpoint: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(endpoint)) return endpoint
  return `${setting(signal, 'INSECURE')?.toLowerCase() === 'false' ? 'https' : 'http'}://${endpoint}`
}

/** Puts an encoder into an exporter. Throws where an update of the package has moved its serializer, rather than send other types. */
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
