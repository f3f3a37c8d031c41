/**
 * Which finished traces are exported. The head decision (OTEL_TRACES_SAMPLER, which by default follows the caller's flags) applies; with
 * tail sampling on, it is thinned to a baseline share and what is worth a look is kept besides, also where the caller sampled nothing. The
 * decision falls at the root's end, so it is exact for streams of any length.
 */

export interface SamplingDecision {
  readonly isExported: boolean
  /** Value of sampling.reason; null when the trace is not exported. */
  readonly reason: string | null
}

export interface TailSamplingOptions {
  /** Share of the head-sampled traces exported without a reason of their own, 0 to 1. */
  readonly baseline: number
  /** A first token later than this is kept; null: no bound. */
  readonly ttftMs: number | null
  /** Traces kept a minute for being the slowest so far. */
  readonly slowestPerMinute: number
}

export interface TailCandidate {
  readonly traceId: string
  readonly isHeadSampled: boolean
  readonly isError: boolean
  readonly isAborted: boolean
  readonly tokensOut: number | null
  readonly ttftSeconds: number | null
  readonly durationMs: number
  readonly endEpochMs: number
}

type TailSampler = (candidate: TailCandidate) => SamplingDecision

const KEEP_NONE: SamplingDecision = { isExported: false, reason: null }
const keep = (reason: string): SamplingDecision => ({ isExported: true, reason })

/** `options` null: the head decision alone. */
export function createTailSampler(options: TailSamplingOptions | null): TailSampler {
  const slowest = new SlowestPerMinute(options?.slowestPerMinute ?? 0)
  return (candidate) => {
    if (!options) return candidate.isHeadSampled ? keep('head') : KEEP_NONE
    const isSlow = slowest.offer(candidate.durationMs, candidate.endEpochMs)
    if (candidate.isAborted) return keep('abort')
    if (candidate.isError) return keep('error')
    if (candidate.tokensOut === 0) return keep('empty')
    if (options.ttftMs !== null && (candidate.ttftSeconds ?? 0) * 1000 > options.ttftMs) return keep('ttft')
    if (isSlow) return keep('slowest')
    return candidate.isHeadSampled && shareOf(candidate.traceId) < options.baseline ? keep('baseline') : KEEP_NONE
  }
}

/** A trace id's place in [0, 1): the same on every server that sees the trace. */
const shareOf = (traceId: string): number => Number.parseInt(traceId.slice(-8), 16) / 2 ** 32

class SlowestPerMinute {
  private readonly limit: number
  private minute = -1
  private kept: number[] = []

  constructor(limit: number) {
    this.limit = limit
  }

  /** True when the duration is among the `limit` longest of its minute so far. */
  offer(durationMs: number, endEpochMs: number): boolean {
    const minute = Math.floor(endEpochMs / 60_000)
    if (minute !== this.minute) {
      this.minute = minute
      this.kept = []
    }
    if (this.kept.length < this.limit) {
      this.kept.push(durationMs)
      return true
    }
    const least = Math.min(...this.kept)
    if (this.limit === 0 || durationMs <= least) return false
    this.kept[this.kept.indexOf(least)] = durationMs
    return true
  }
}
