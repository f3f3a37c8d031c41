/**
 * Log lines as OTLP log records, with OTEL_LOGS_EXPORTER=otlp: the same redacted lines as in the log file. They wait in a bounded queue
 * while the collector cannot be reached; lines that do not fit are dropped and counted.
 */
import { ROOT_CONTEXT, trace as traceApi, TraceFlags } from '@opentelemetry/api'
import { type AnyValueMap, SeverityNumber } from '@opentelemetry/api-logs'
import type { Resource } from '@opentelemetry/resources'
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs'
import { SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import { batchSettings, createLogExporter } from './otlp-exporter.ts'
import { ExportCounter, type ExportCounts, PatientExporter } from './patient-exporter.ts'

/** Defaults of OTEL_BLRP_MAX_QUEUE_SIZE and OTEL_BLRP_MAX_EXPORT_BATCH_SIZE. */
const QUEUE_SIZE = 8192
const BATCH_SIZE = 512

const SEVERITIES: Readonly<Record<string, SeverityNumber>> = {
  trace: SeverityNumber.TRACE,
  debug: SeverityNumber.DEBUG,
  info: SeverityNumber.INFO,
  warn: SeverityNumber.WARN,
  error: SeverityNumber.ERROR,
  fatal: SeverityNumber.FATAL,
}

export interface LogExport {
  /** Takes one JSON line of the log. */
  write(line: string): void
  counts(): ExportCounts
  flush(): Promise<void>
  /** Sends what is queued; the rest is counted as dropped. */
  shutdown(): Promise<void>
}

interface LogExportParts {
  readonly serviceVersion: string
  readonly resource: Resource
  /** Called with problems of the settings or of an export. */
  readonly report: (detail: string) => void
}

/** Creates the export of log lines. Null if it is not configured, or the endpoint is not a URL. */
export function createLogExport({ serviceVersion, resource, report }: LogExportParts): LogExport | null {
  const exporter = createLogExporter(report)
  if (!exporter) return null
  const counter = new ExportCounter()
  const settings = batchSettings('OTEL_BLRP', QUEUE_SIZE, BATCH_SIZE)
  const patient = new PatientExporter(exporter, counter, 'log records', report)
  const processor = new BatchLogRecordProcessor({ exporter: patient, ...settings })
  const provider = new LoggerProvider({ resource, processors: [processor] })
  const logger = provider.getLogger(SCOPE_NAME, serviceVersion, { schemaUrl: SCHEMA_URL })
  return {
    write(line) {
      counter.created += 1
      if (counter.isClosed || counter.numWaiting >= settings.maxQueueSize) {
        counter.dropped += 1
        return
      }
      counter.queued += 1
      logger.emit(toRecord(line))
    },
    counts: () => counter.counts(),
    flush: async () => {
      await processor.forceFlush()
      await patient.forceFlush()
    },
    shutdown: () => provider.shutdown().finally(() => counter.close()),
  }
}

/** A line as a record: the event name becomes the body, the fields become attributes. */
function toRecord(line: string) {
  const { level, time, msg, trace_id: traceId, span_id: spanId, error, ...fields } = JSON.parse(line) as LineOfLog
  return {
    timestamp: Date.parse(time),
    severityNumber: SEVERITIES[level] ?? SeverityNumber.UNSPECIFIED,
    severityText: level,
    body: msg,
    eventName: msg,
    attributes: { ...(fields as AnyValueMap), ...(error === undefined ? {} : exceptionOf(error)) },
    context:
      traceId === undefined || spanId === undefined
        ? ROOT_CONTEXT
        : traceApi.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: TraceFlags.SAMPLED }),
  }
}

interface LineOfLog {
  readonly level: string
  /** ISO 8601. */
  readonly time: string
  readonly msg: string
  readonly trace_id?: string
  readonly span_id?: string
  readonly error?: {
    readonly type: string
    readonly code?: string
    readonly message?: string
    readonly frames?: readonly string[]
  }
  readonly [field: string]: unknown
}

/** An error under the conventions' names. If it has no message, its code is used. */
const exceptionOf = ({ type, code, message = code, frames }: NonNullable<LineOfLog['error']>): AnyValueMap => ({
  'exception.type': type,
  ...(message === undefined ? {} : { 'exception.message': message }),
  ...(frames === undefined ? {} : { 'exception.stacktrace': frames.join('\n') }),
})
