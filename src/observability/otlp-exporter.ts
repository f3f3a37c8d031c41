/**
 * OpenTelemetry's own OTLP exporters, over gRPC, HTTP with protobuf or HTTP with JSON. Endpoint, headers, compression, certificates, time
 * limits and retries are theirs (OTEL_EXPORTER_OTLP_*). This is the one place where this project's encoder is put into them: the SDK's
 * sends a double that happens to be whole as an integer, and Tempo keeps the two in different columns.
 */
import { getStringFromEnv } from '@opentelemetry/core'
import { OTLPTraceExporter as GrpcExporter } from '@opentelemetry/exporter-trace-otlp-grpc'
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { encodeTraceRequest } from './otlp-encoder.ts'
import { spansToOtlp } from './otlp.ts'

export const OTLP_PROTOCOLS = ['grpc', 'http/protobuf', 'http/json'] as const
export type OtlpProtocol = (typeof OTLP_PROTOCOLS)[number]

interface Encoder {
  serializeRequest(spans: ReadableSpan[]): Uint8Array
}

const encodeJson = (spans: readonly ReadableSpan[]): Uint8Array =>
  new TextEncoder().encode(JSON.stringify(spansToOtlp(spans)))

/** What OTEL_EXPORTER_OTLP_TRACES_PROTOCOL and OTEL_EXPORTER_OTLP_PROTOCOL ask for; grpc for one that there is none of, and for none. */
export function otlpProtocol(onProblem: (detail: string) => void): OtlpProtocol {
  const name =
    getStringFromEnv('OTEL_EXPORTER_OTLP_TRACES_PROTOCOL') ?? getStringFromEnv('OTEL_EXPORTER_OTLP_PROTOCOL') ?? 'grpc'
  const found = OTLP_PROTOCOLS.find((protocol) => protocol === name)
  if (!found) {
    onProblem(`OTEL_EXPORTER_OTLP_PROTOCOL: expected one of ${OTLP_PROTOCOLS.join(', ')}, found another; grpc is used`)
  }
  return found ?? 'grpc'
}

/**
 * An exporter to an endpoint. It dials on the first export.
 * @param endpoint as configured; over HTTP, one without a path gets the standard's, v1/traces. One without a scheme is http, or with
 * OTEL_EXPORTER_OTLP_INSECURE=false https.
 * @throws TypeError where it is no URL.
 */
export function createOtlpExporter(endpoint: string, protocol: OtlpProtocol, timeoutMillis: number): SpanExporter {
  const url = withScheme(endpoint)
  if (protocol === 'grpc') return withEncoder(new GrpcExporter({ url, timeoutMillis }), encodeTraceRequest)
  const target = new URL(url)
  const isBase =
    endpoint === getStringFromEnv('OTEL_EXPORTER_OTLP_ENDPOINT') &&
    getStringFromEnv('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT') === undefined
  // The signal's own variable is used as it is; to the base of all signals the path is added.
  if (isBase || target.pathname === '/') target.pathname = `${target.pathname.replace(/\/$/, '')}/v1/traces`
  return protocol === 'http/protobuf'
    ? withEncoder(new ProtobufExporter({ url: target.href, timeoutMillis }), encodeTraceRequest)
    : withEncoder(new JsonExporter({ url: target.href, timeoutMillis }), encodeJson)
}

function withScheme(endpoint: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(endpoint)) return endpoint
  const isInsecure = (
    getStringFromEnv('OTEL_EXPORTER_OTLP_TRACES_INSECURE') ?? getStringFromEnv('OTEL_EXPORTER_OTLP_INSECURE')
  )?.toLowerCase()
  return `${isInsecure === 'false' ? 'https' : 'http'}://${endpoint}`
}

/** Puts an encoder into an exporter. Throws where an update of the package has moved its serializer, rather than send other types. */
export function withEncoder(
  exporter: SpanExporter,
  encode: (spans: readonly ReadableSpan[]) => Uint8Array,
): SpanExporter {
  const delegate: unknown = Reflect.get(exporter, '_delegate')
  const serializer: unknown =
    typeof delegate === 'object' && delegate !== null ? Reflect.get(delegate, '_serializer') : undefined
  if (!isSerializer(serializer)) {
    throw new Error(
      'the OTLP exporter keeps its serializer elsewhere than version 0.223.0 does: otlp-exporter.ts has to follow',
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
