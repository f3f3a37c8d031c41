/** The decode timeline as a chart: one bar per step (or group of steps), as high as its duration. */
import { type DecodeTimeline, percentile } from '../../observability/decode-timeline.ts'
import { formatMs } from './trace-view.ts'

const WIDTH = 1000
const HEIGHT = 140

/** Durations of decode steps in order, with median and 95th percentile. */
export function StepChart({ timeline }: { readonly timeline: DecodeTimeline }) {
  const { micros, numSteps, groupSize } = timeline
  if (micros.length === 0) return null
  const sorted = [...micros].sort((a, b) => a - b)
  const max = Math.max(sorted.at(-1) ?? 1, 1)
  const median = percentile(sorted, 0.5)
  const p95 = percentile(sorted, 0.95)
  const y = (us: number) => HEIGHT - (us / max) * (HEIGHT - 6)
  const label = `Durations of ${numSteps} decode steps: median ${formatMs(median / 1000)}, 95th percentile ${formatMs(p95 / 1000)}, longest ${formatMs(max / 1000)}`
  return (
    <figure class="steps">
      <figcaption>
        {numSteps} decode steps{groupSize > 1 ? `, averaged ${groupSize} at a time` : ''}: p50 {formatMs(median / 1000)}
        , p95 {formatMs(p95 / 1000)}, max {formatMs(max / 1000)}
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={label}
        data-steps={micros.join(' ')}
      >
        <path class="area" d={stepPath(micros, y, true)} />
        <path class="line" d={stepPath(micros, y, false)} />
        <line class="median" x1="0" x2={WIDTH} y1={y(median)} y2={y(median)} />
        <line class="p95" x1="0" x2={WIDTH} y1={y(p95)} y2={y(p95)} />
      </svg>
      <output class="readout" aria-live="polite"></output>
    </figure>
  )
}

function stepPath(micros: readonly number[], y: (us: number) => number, isClosed: boolean): string {
  const tread = WIDTH / micros.length
  const parts = micros.map((us, i) => {
    const height = y(us).toFixed(1)
    return `${i === 0 && !isClosed ? 'M' : 'L'}${(i * tread).toFixed(2)} ${height}L${((i + 1) * tread).toFixed(2)} ${height}`
  })
  return isClosed ? `M0 ${HEIGHT}${parts.join('')}L${WIDTH} ${HEIGHT}Z` : parts.join('')
}
