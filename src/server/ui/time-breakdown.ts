/** Where a request's time went. Every moment belongs to one stage, so the parts add up to the whole. */

export interface Interval {
  readonly stage: string
  readonly startMs: number
  readonly endMs: number
}

interface StageShare {
  readonly stage: string
  readonly ms: number
  /** Share of the whole time, 0 to 1. */
  readonly share: number
}

/** Time that belongs to no stage. */
const REST = 'other'

/**
 * Splits 0..totalMs into parts, in order of first appearance, the rest last. Where stages overlap (a stream is written while it decodes),
 * the time belongs to the stage that comes first in `precedence`.
 */
export function timeBreakdown(
  intervals: readonly Interval[],
  totalMs: number,
  precedence: readonly string[],
): readonly StageShare[] {
  if (totalMs <= 0) return []
  const rank = ({ stage }: Interval) => (precedence.includes(stage) ? precedence.indexOf(stage) : precedence.length)
  const cut = (ms: number) => Math.min(Math.max(ms, 0), totalMs)
  const edges = [...new Set([0, totalMs, ...intervals.flatMap(({ startMs, endMs }) => [cut(startMs), cut(endMs)])])]
  edges.sort((a, b) => a - b)
  const spent = new Map<string, number>()
  for (const [i, from] of edges.slice(0, -1).entries()) {
    const to = edges[i + 1] ?? from
    let owner: Interval | null = null
    for (const interval of intervals) {
      if (interval.startMs > from || interval.endMs < to) continue
      if (owner === null || rank(interval) < rank(owner)) owner = interval
    }
    const stage = owner?.stage ?? REST
    spent.set(stage, (spent.get(stage) ?? 0) + to - from)
  }
  const rest = spent.get(REST) ?? 0
  spent.delete(REST)
  return [...spent, [REST, rest] as const].flatMap(([stage, ms]) =>
    ms > 0 ? [{ stage, ms, share: ms / totalMs }] : [],
  )
}
