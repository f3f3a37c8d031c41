/** Metrics of the server's own health: spans, stored traces, event loop, process. */
import type { IntervalHistogram } from 'node:perf_hooks'
import type { Instruments } from './instruments.ts'
import type { ExportCounts } from './patient-exporter.ts'
import type { TraceStore } from './trace-store.ts'

export interface ServerMetricsParts {
  readonly spanCounts: () => ExportCounts
  readonly logCounts: () => ExportCounts
  /** Lines that stdout and the log file could not take. */
  readonly droppedLines: () => { readonly stdout: number; readonly file: number }
  readonly traceStore: Pick<TraceStore, 'size' | 'bytes'>
  /** Must be enabled. */
  readonly loopDelay: IntervalHistogram
}

/** Adds the metrics of spans, log export, trace store, event loop and process to the registry. */
export function addServerMetrics(
  instruments: Instruments,
  { spanCounts, logCounts, droppedLines, traceStore, loopDelay }: ServerMetricsParts,
): void {
  for (const outcome of ['created', 'exported', 'dropped', 'unsampled'] as const) {
    instruments.mirror(
      `miniserve_spans_${outcome}_total`,
      `Spans ${outcome}; created = exported + dropped + unsampled`,
      () => spanCounts()[outcome],
    )
  }
  instruments.mirrors(
    'miniserve_log_records_total',
    'Log records for OTLP by outcome, exported or dropped (OTEL_LOGS_EXPORTER=otlp)',
    ['outcome'],
    () => {
      const { exported, dropped } = logCounts()
      return Object.entries({ exported, dropped }).map(([outcome, value]) => ({ labels: { outcome }, value }))
    },
  )
  instruments.mirrors(
    'miniserve_log_lines_dropped_total',
    'Log lines dropped because their output, stdout or file, could not be written for too long',
    ['output'],
    () => Object.entries(droppedLines()).map(([output, value]) => ({ labels: { output }, value })),
  )
  instruments.gauge('miniserve_trace_store_traces', 'Traces in memory', () => traceStore.size)
  instruments.gauge('miniserve_trace_store_bytes', 'Estimated size of the traces in memory', () => traceStore.bytes)
  instruments.gauge(
    'miniserve_event_loop_lag_p99_seconds',
    '99th percentile of the event loop delay since the last scrape',
    () => {
      const p99 = loopDelay.percentile(99) / 1e9
      loopDelay.reset()
      return Number.isFinite(p99) ? p99 : 0
    },
  )
  instruments.gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss())
  instruments.gauge(
    'process_start_time_seconds',
    'Start of the process since 1970',
    () => performance.timeOrigin / 1000,
  )
  instruments.mirror('process_cpu_seconds_total', 'User and system CPU time', () => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  })
}
