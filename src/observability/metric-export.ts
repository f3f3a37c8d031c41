/**
 * The metrics of /metrics over OTLP, with OTEL_METRICS_EXPORTER=otlp: the same counters, read at every interval. They are cumulative, so
 * nothing has to be stored while the collector cannot be reached.
 */
import { type HrTime, ValueType } from '@opentelemetry/api'
import { hrTime } from '@opentelemetry/core'
import type { Resource } from '@opentelemetry/resources'
import {
  AggregationTemporality,
  type DataPoint,
  DataPointType,
  type Histogram,
  MeterProvider,
  type MetricData,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import { SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import type { MetricFamily } from './metrics-text.ts'
import { createMetricExporter, positiveFromEnv } from './otlp-exporter.ts'

/** Defaults of OTEL_METRIC_EXPORT_INTERVAL and OTEL_METRIC_EXPORT_TIMEOUT. */
const INTERVAL_MS = 60_000
const TIMEOUT_MS = 30_000

/** Prometheus names have no dots. Over OTLP these metrics have the names of the conventions, without the unit. */
const CONVENTION_METRICS: Readonly<Record<string, string>> = {
  gen_ai_server_request_duration_seconds: 'gen_ai.server.request.duration',
  gen_ai_server_time_to_first_token_seconds: 'gen_ai.server.time_to_first_token',
  gen_ai_server_time_per_output_token_seconds: 'gen_ai.server.time_per_output_token',
}
const CONVENTION_LABELS: Readonly<Record<string, string>> = {
  gen_ai_operation_name: 'gen_ai.operation.name',
  gen_ai_provider_name: 'gen_ai.provider.name',
  gen_ai_request_model: 'gen_ai.request.model',
  error_type: 'error.type',
}

export interface MetricExport {
  flush(): Promise<void>
  /** Sends the last values. */
  shutdown(): Promise<void>
}

interface MetricExportParts {
  readonly serviceVersion: string
  readonly resource: Resource
  readonly read: () => Promise<readonly MetricFamily[]>
  /** Called with problems of the settings. */
  readonly report: (detail: string) => void
}

/** Creates the export of metrics. Null if it is not configured, or the endpoint is not a URL. */
export function createMetricExport({ serviceVersion, resource, read, report }: MetricExportParts): MetricExport | null {
  const exporter = createMetricExporter(report)
  if (!exporter) return null
  const exportIntervalMillis = positiveFromEnv('OTEL_METRIC_EXPORT_INTERVAL', INTERVAL_MS)
  const startTime = hrTime(0)
  const scope = { name: SCOPE_NAME, version: serviceVersion, schemaUrl: SCHEMA_URL }
  const reader = new PeriodicExportingMetricReader({
    exporter,
    exportIntervalMillis,
    exportTimeoutMillis: Math.min(positiveFromEnv('OTEL_METRIC_EXPORT_TIMEOUT', TIMEOUT_MS), exportIntervalMillis),
    metricProducers: [
      {
        collect: async () => {
          const endTime = hrTime()
          const metrics = (await read()).flatMap((family) => toMetricData(family, startTime, endTime) ?? [])
          return { resourceMetrics: { resource, scopeMetrics: [{ scope, metrics }] }, errors: [] }
        },
      },
    ],
  })
  const provider = new MeterProvider({ resource, readers: [reader] })
  return { flush: () => reader.forceFlush(), shutdown: () => provider.shutdown() }
}

/** A family in the SDK's form; null if it has no series yet. */
function toMetricData(family: MetricFamily, startTime: HrTime, endTime: HrTime): MetricData | null {
  if (family.values.length === 0) return null
  const base = {
    descriptor: {
      name: CONVENTION_METRICS[family.name] ?? family.name,
      description: family.help,
      unit: /_seconds(_total)?$/.test(family.name) ? 's' : /_bytes(_total)?$/.test(family.name) ? 'By' : '1',
      valueType: ValueType.DOUBLE,
    },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
  }
  const point = <T>(labels: Labels, value: T): DataPoint<T> => ({
    startTime,
    endTime,
    attributes: attributesOf(labels),
    value,
  })
  if (String(family.type) === 'histogram') {
    const dataPoints = histogramsOf(family).map(([labels, histogram]) => point(labels, histogram))
    return { ...base, dataPointType: DataPointType.HISTOGRAM, dataPoints }
  }
  const dataPoints = family.values.map(({ labels, value }) => point(labels, value))
  return String(family.type) === 'counter'
    ? { ...base, dataPointType: DataPointType.SUM, isMonotonic: true, dataPoints }
    : { ...base, dataPointType: DataPointType.GAUGE, dataPoints }
}

type Labels = MetricFamily['values'][number]['labels']

/** Empty labels are omitted: they do not apply. */
const attributesOf = (labels: Labels): Record<string, string> =>
  Object.fromEntries(
    Object.entries(labels).flatMap(([name, value]) =>
      value === undefined || value === '' ? [] : [[CONVENTION_LABELS[name] ?? name, String(value)]],
    ),
  )

/** The histogram of each series. Prometheus' cumulative buckets become separate counts. */
function histogramsOf(family: MetricFamily): readonly (readonly [Labels, Histogram])[] {
  const series = new Map<string, { labels: Labels; sum: number; readonly below: [bound: number, count: number][] }>()
  for (const sample of family.values) {
    const { le, ...labels } = sample.labels
    const key = JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)))
    const known = series.get(key) ?? { labels, sum: 0, below: [] }
    series.set(key, known)
    const name = 'metricName' in sample ? String(sample.metricName) : ''
    if (name.endsWith('_bucket')) known.below.push([le === '+Inf' ? Infinity : Number(le), sample.value])
    else if (name.endsWith('_sum')) known.sum = sample.value
  }
  return [...series.values()].map(({ labels, sum, below }) => {
    const ordered = below.sort(([a], [b]) => a - b)
    const counts = ordered.map(([, count], i) => count - (ordered[i - 1]?.[1] ?? 0))
    const boundaries = ordered.map(([bound]) => bound).filter((bound) => bound !== Infinity)
    return [labels, { buckets: { boundaries, counts }, sum, count: ordered.at(-1)?.[1] ?? 0 }] as const
  })
}
