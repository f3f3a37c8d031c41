/** OTLP over gRPC with this project's encoder. Retries, timeouts, headers and TLS are OpenTelemetry's (OTEL_EXPORTER_OTLP_*). */
import { OTLPExporterBase } from '@opentelemetry/otlp-exporter-base'
import { convertLegacyOtlpGrpcOptions, createOtlpGrpcExportDelegate } from '@opentelemetry/otlp-grpc-exporter-base'
import { type ISerializer, ProtobufTraceSerializer, TraceExporterMetricsHelper } from '@opentelemetry/otlp-transformer'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { encodeTraceRequest } from './otlp-encoder.ts'

type Response = ReturnType<typeof ProtobufTraceSerializer.deserializeResponse>

const serializer: ISerializer<ReadableSpan[], Response> = {
  serializeRequest: encodeTraceRequest,
  deserializeResponse: (bytes) => ProtobufTraceSerializer.deserializeResponse(bytes),
}

/** Exports to an endpoint such as http://127.0.0.1:4317 (https: with TLS). Dials on the first export. */
export function createOtlpExporter(url: string, timeoutMillis: number): SpanExporter {
  return new OTLPExporterBase(
    createOtlpGrpcExportDelegate(
      convertLegacyOtlpGrpcOptions({ url, timeoutMillis }, 'TRACES'),
      serializer,
      'otlp_grpc_span_exporter',
      TraceExporterMetricsHelper,
      undefined,
      'TraceExportService',
      '/opentelemetry.proto.collector.trace.v1.TraceService/Export',
    ),
  )
}
