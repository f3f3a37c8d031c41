/** Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0.0 (counters without _total in their metadata, exemplars, # EOF). */
type Labels = Readonly<Record<string, string | number | undefined>>

/** A metric in the form of prom-client's getMetricsAsJSON. */
export interface MetricFamily {
  readonly name: string
  readonly help: string
  /** counter, gauge or histogram. prom-client declares a number here, but it is a string. */
  readonly type: unknown
  readonly values: readonly { readonly labels: Labels; readonly value: number }[]
}

interface Exemplar {
  readonly labelSet: Labels
  readonly value: number
  /** Seconds since 1970. */
  readonly timestamp: number
}

/** The text of `/metrics`. @param mayName whether an exemplar may show a trace id: whoever knows it can add spans to the trace */
export function renderMetrics(
  metrics: readonly MetricFamily[],
  isOpenMetrics: boolean,
  mayName: (traceId: string) => boolean = () => true,
): string {
  const lines: string[] = []
  for (const metric of metrics) {
    const family = isOpenMetrics && isCounter(metric) ? metric.name.replace(/_total$/, '') : metric.name
    lines.push(`# HELP ${family} ${escapeHelp(metric.help)}`, `# TYPE ${family} ${String(metric.type)}`)
    for (const sample of metric.values) {
      const name = 'metricName' in sample && typeof sample.metricName === 'string' ? sample.metricName : metric.name
      let line = `${name}${formatLabels(sample.labels)} ${formatNumber(sample.value)}`
      const exemplar = 'exemplar' in sample ? sample.exemplar : null
      if (isOpenMetrics && isExemplar(exemplar) && mayName(String(exemplar.labelSet['trace_id']))) {
        line += ` # ${formatLabels(exemplar.labelSet)} ${formatNumber(exemplar.value)} ${exemplar.timestamp}`
      }
      lines.push(line)
    }
  }
  if (isOpenMetrics) lines.push('# EOF')
  return `${lines.join('\n')}\n`
}

/** A family in which all keys but one are summed up as `others`. Families without key_id stay the same. */
export function hideKeys(family: MetricFamily, ownKeyId: string): MetricFamily {
  if (!family.values.some(({ labels }) => labels['key_id'] !== undefined)) return family
  const sums = new Map<string, { readonly labels: Labels; readonly value: number }>()
  for (const { labels, value } of family.values) {
    const shown = { ...labels, key_id: labels['key_id'] === ownKeyId ? ownKeyId : 'others' }
    const series = JSON.stringify(Object.entries(shown).sort(([a], [b]) => (a < b ? -1 : 1)))
    sums.set(series, { labels: shown, value: value + (sums.get(series)?.value ?? 0) })
  }
  return { ...family, values: [...sums.values()] }
}

const isCounter = (metric: MetricFamily): boolean => String(metric.type) === 'counter'

const isExemplar = (value: unknown): value is Exemplar =>
  typeof value === 'object' && value !== null && 'labelSet' in value && 'timestamp' in value

function formatLabels(labels: Labels): string {
  const parts = Object.entries(labels).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}="${escapeLabel(name === 'le' ? formatNumber(value) : String(value))}"`],
  )
  return parts.length === 0 ? '' : `{${parts.join(',')}}`
}

function formatNumber(value: string | number): string {
  if (value === Infinity) return '+Inf'
  if (value === -Infinity) return '-Inf'
  return String(value)
}

const escapeHelp = (value: string): string => value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
const escapeLabel = (value: string): string => escapeHelp(value).replaceAll('"', '\\"')
