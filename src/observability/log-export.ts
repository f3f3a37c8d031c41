/**
 * Log lines as OTLP log records, where OTEL_LOGS_EXPORTER=otlp asks for them: the lines of the log file, redacted and worded as they are
 * there. They wait in a bounded queue while a collector is away; what does not fit is dropped and counted.
 */
import { ROOT_CONTEXT, trace as traceApi, TraceFlags } from '@opentelemetry/api'
import { type AnyValueMap, SeverityNumber } from '@opentelemetry/api-logs'
import { getNumberFromEnv } from '@opentelemetry/core'
import type { Resource } from '@opentelemetry/resources'
import { BatchLogRecordProcessor, LoggerProvider, type LogRecordExporter } from '@opentelemetry/sdk-logs'
import { SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import { createLogExporter, isExported } from './otlp-exporter.ts'
import { ExportCounter, type ExportCounts, PatientExporter } from './patient-exporter.ts'

/** Defaults of OTEL_BLRP_MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE and _SCHEDULE_DELAY. */
const QUEUE_SIZE = 8192
const BATCH_SIZE = 512
const BATCH_DELAY_MS = 1000
/** Longer than the exporter's own limit, so that its reason is heard. */
const EXPORT_TIMEOUT_MS = 11_000

const SEVERITIES: Readonly<Record<string, SeverityNumber>> = {
  trace: SeverityNumber.TRACE,
  debug: SeverityNumber.DEBUG,
  info: SeverityNumber.INFO,
  warn: SeverityNumber.WARN,
  error: SeverityNumber.ERROR,
  fatal: SeverityNumber.FATAL,
}

export interface LogExport {
  /** Takes a line of the log: JSON. */
  write(line: string): void
  counts(): ExportCounts
  flush(): Promise<void>
  /** Sends what is queued; the rest counts as dropped. */
  shutdown(): Promise<void>
}

interface LogExportParts {
  readonly serviceVersion: string
  readonly resource: Resource
  /** What is wrong with the settings, or with an export. */
  readonly report: (detail: string) => void
}

/** null: not configured, or the endpoint is not a URL. */
export function createLogExport({ serviceVersion, resource, report }: LogExportParts): LogExport | null {
  if (!isExported('logs', 'none', report)) return null
  let exporter: LogRecordExporter
  try {
    exporter = createLogExporter(report)
  } catch {
    report('the OTLP endpoint of logs is not a URL: they are not exported')
    return null
  }
  const setting = (name: string, fallback: number) => {
    const value = getNumberFromEnv(`OTEL_BLRP_${name}`)
    return value !== undefined && value > 0 ? value : fallback
  }
  const counter = new ExportCounter()
  const maxQueueSize = setting('MAX_QUEUE_SIZE', QUEUE_SIZE)
  const patient = new PatientExporter(exporter, counter, 'log records', report)
  const processor = new BatchLogRecordProcessor({
    exporter: {
      export: (records, done) => patient.export(records, done),
      forceFlush: () => patient.forceFlush(),
      shutdown: () => patient.shutdown(),
    },
    maxQueueSize,
    maxExportBatchSize: Math.min(setting('MAX_EXPORT_BATCH_SIZE', BATCH_SIZE), maxQueueSize),
    scheduledDelayMillis: setting('SCHEDULE_DELAY', BATCH_DELAY_MS),
    exportTimeoutMillis: setting('EXPORT_TIMEOUT', EXPORT_TIMEOUT_MS),
  })
  const provider = new LoggerProvider({ resource, processors: [processor] })
  const logger = provider.getLogger(SCOPE_NAME, serviceVersion, { schemaUrl: SCHEMA_URL })
  return {
    write(line) {
      counter.created += 1
      if (counter.isClosed || counter.numWaiting >= maxQueueSize) {
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

/** One line as a record: the event's name is the body, the ids are the record's own, fields are attributes. */
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
