/**
 * Decides which finished traces are exported. Without tail sampling it is the head decision (OTEL_TRACES_SAMPLER, which follows the caller's
 * flags by default). With tail sampling, only a baseline share of those is exported, and all notable traces, even if the caller did not
 * sample them. The decision is made when the root ends, so it is exact for streams of any length.
 */

export interface SamplingDecision {
  readonly isExported: boolean
  /** Value of sampling.reason; null when the trace is not exported. */
  readonly reason: string | null
}

export interface TailSamplingOptions {
  /** Share of the head-sampled traces that are exported without another reason, 0 to 1. */
  readonly baseline: number
  /** Traces with a later first token are kept; null: no limit. */
  readonly ttftMs: number | null
  /** Number of the slowest traces that are kept per minute. */
  readonly slowestPerMinute: number
}

/** What the decision about a finished trace depends on. */
export interface TailCandidate {
  readonly traceId: string
  readonly isHeadSampled: boolean
  readonly isError: boolean
  readonly isAborted: boolean
  /** null: not a served generation. */
  readonly tokensOut: number | null
  readonly ttftSeconds: number | null
  readonly durationMs: number
  readonly endEpochMs: number
}

type TailSampler = (candidate: TailCandidate) => SamplingDecision

const KEEP_NONE: SamplingDecision = { isExported: false, reason: null }
const keep = (reason: string): SamplingDecision => ({ isExported: true, reason })

/** Creates the sampler. `options` null: only the head decision counts. */
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

/** A number in [0, 1) for a trace id, the same on every server that sees the trace. */
const shareOf = (traceId: string): number => Number.parseInt(traceId.slice(-8), 16) / 2 ** 32

class SlowestPerMinute {
  readonly #limit: number
  #minute = -1
  #kept: number[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  /** True when the duration is among the `limit` longest of its minute so far. */
  offer(durationMs: number, endEpochMs: number): boolean {
    const minute = Math.floor(endEpochMs / 60_000)
    if (minute !== this.#minute) {
      this.#minute = minute
      this.#kept = []
    }
    if (this.#kept.length < this.#limit) {
      this.#kept.push(durationMs)
      return true
    }
    const least = Math.min(...this.#kept)
    if (this.#limit === 0 || durationMs <= least) return false
    this.#kept[this.#kept.indexOf(least)] = durationMs
    return true
  }
}
