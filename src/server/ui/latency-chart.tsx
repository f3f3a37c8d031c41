/** A histogram of how long the listed requests took. */
import type { StoredTrace } from '../../observability/stored-trace.ts'
import { formatMs } from './trace-view.ts'

interface LatencyBar {
  readonly fromMs: number
  readonly toMs: number
  readonly count: number
  readonly numErrors: number
}

interface Latencies {
  readonly bars: readonly LatencyBar[]
  readonly p50: number
  readonly p95: number
  readonly max: number
}

/** Bars per factor of ten. */
const PER_DECADE = 5
const MAX_BARS = 40

/** Bars on a logarithmic scale, from the shortest request to the longest. `traces`: at least one. */
export function latencies(traces: readonly StoredTrace[]): Latencies {
  const sorted = traces.map(({ durationMs }) => durationMs).sort((a, b) => a - b)
  const slot = (ms: number) => Math.floor(Math.log10(Math.max(ms, 0.1)) * PER_DECADE + 1e-9)
  const bound = (i: number) => Number((10 ** (i / PER_DECADE)).toPrecision(3))
  const [first, last] = [slot(sorted[0] ?? 0), slot(sorted.at(-1) ?? 0)]
  const lowest = Math.max(first, last - MAX_BARS + 1)
  const bars = Array.from({ length: last - lowest + 1 }, (_, i) => {
    const inside = traces.filter(({ durationMs }) => Math.max(slot(durationMs), lowest) === lowest + i)
    return {
      fromMs: bound(lowest + i),
      toMs: bound(lowest + i + 1),
      count: inside.length,
      numErrors: inside.filter(({ isError }) => isError).length,
    }
  })
  const quantile = (q: number) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] ?? 0
  return { bars, p50: quantile(0.5), p95: quantile(0.95), max: sorted.at(-1) ?? 0 }
}

interface LatencyChartProps {
  readonly latencies: Latencies
  readonly filter: Readonly<Record<string, string>>
}

/** A histogram of request durations. Each bar links to the requests in it. */
export function LatencyChart({ latencies: { bars, p50, p95, max }, filter }: LatencyChartProps) {
  const highest = Math.max(...bars.map(({ count }) => count))
  const width = 100 / bars.length
  return (
    <figure class="latencies">
      <svg role="img" aria-label={`Durations: half below ${formatMs(p50)}, 95 % below ${formatMs(p95)}`}>
        {bars.map((bar, i) => {
          const [x, whole] = [`${(i * width + width * 0.05).toFixed(3)}%`, `${(width * 0.9).toFixed(3)}%`]
          const height = (bar.count / highest) * 100
          const failed = (bar.numErrors / highest) * 100
          if (bar.count === 0) return null
          return (
            <a href={pathOf(bar, filter)}>
              <title>
                {bar.count} from {formatMs(bar.fromMs)} to {formatMs(bar.toMs)}
                {bar.numErrors > 0 ? `, ${bar.numErrors} failed` : ''}
              </title>
              <rect class="hit" x={x} y="0" width={whole} height="100%" />
              <rect
                class="bar"
                x={x}
                y={`${(100 - height).toFixed(2)}%`}
                width={whole}
                height={`${height.toFixed(2)}%`}
              />
              <rect
                class="failed"
                x={x}
                y={`${(100 - failed).toFixed(2)}%`}
                width={whole}
                height={`${failed.toFixed(2)}%`}
              />
            </a>
          )
        })}
      </svg>
      <figcaption>
        <span>{formatMs(bars[0]?.fromMs ?? 0)}</span>
        <span>
          half below <b>{formatMs(p50)}</b>, 95 % below <b>{formatMs(p95)}</b>, longest <b>{formatMs(max)}</b>
        </span>
        <span>{formatMs(bars.at(-1)?.toMs ?? 0)}</span>
      </figcaption>
    </figure>
  )
}

function pathOf({ fromMs, toMs }: LatencyBar, filter: Readonly<Record<string, string>>): string {
  const set = Object.entries(filter).filter(([, value]) => value !== '')
  const query = new URLSearchParams({ ...Object.fromEntries(set), min_ms: String(fromMs), max_ms: String(toMs) })
  return `/traces?${String(query)}`
}
