import { describe, expect, it } from 'vitest'
import { play, testObservability } from '../../test/observability/scenario.ts'
import { createTailSampler, type TailCandidate } from './tail-sampling.ts'

const candidate = (more: Partial<TailCandidate> = {}): TailCandidate => ({
  traceId: 'f'.repeat(32),
  isHeadSampled: true,
  isError: false,
  isAborted: false,
  tokensOut: 5,
  ttftSeconds: 0.01,
  durationMs: 10,
  endEpochMs: 0,
  ...more,
})

describe('tail sampling', () => {
  it('leaves the head decision alone when it is off', () => {
    const decide = createTailSampler(null)
    expect(decide(candidate())).toEqual({ isExported: true, reason: 'head' })
    expect(decide(candidate({ isHeadSampled: false, isError: true }))).toEqual({ isExported: false, reason: null })
  })

  it.each([
    ['abort', { isAborted: true, isError: true }],
    ['error', { isError: true }],
    ['empty', { tokensOut: 0 }],
    ['ttft', { ttftSeconds: 2.5 }],
  ])('keeps for %s, whatever the head said', (reason, more) => {
    const decide = createTailSampler({ baseline: 0, ttftMs: 2000, slowestPerMinute: 0 })
    expect(decide(candidate({ ...more, isHeadSampled: false }))).toEqual({ isExported: true, reason })
    expect(decide(candidate()).isExported).toBe(false)
  })

  it('keeps the slowest of each minute so far', () => {
    const decide = createTailSampler({ baseline: 0, ttftMs: null, slowestPerMinute: 2 })
    const kept = [10, 20, 5, 15, 12, 30].filter((durationMs) => decide(candidate({ durationMs })).reason === 'slowest')
    expect(kept).toEqual([10, 20, 15, 30])
    expect(decide(candidate({ durationMs: 1, endEpochMs: 60_000 })).reason).toBe('slowest')
  })

  it('keeps the baseline share, the same traces everywhere', () => {
    const ids = Array.from({ length: 4000 }, (_, i) => ((i * 2654435761) % 2 ** 32).toString(16).padStart(32, '0'))
    const share = () => {
      const decide = createTailSampler({ baseline: 0.05, ttftMs: null, slowestPerMinute: 0 })
      return ids.filter((traceId) => decide(candidate({ traceId })).reason === 'baseline')
    }
    expect(share().length / ids.length).toBeCloseTo(0.05, 2)
    expect(share()).toEqual(share())
  })

  it('exports whole trees with their reason and nothing of the others; exemplars name only those', async () => {
    const exported: { readonly name: string; readonly traceId: string; readonly reason: unknown }[] = []
    const observability = testObservability({
      tailSampling: { baseline: 0, ttftMs: null, slowestPerMinute: 0 },
      exporter: {
        export(spans, done) {
          for (const span of spans)
            exported.push({
              name: span.name,
              traceId: span.spanContext().traceId,
              reason: span.attributes['sampling.reason'],
            })
          done({ code: 0 })
        },
        shutdown: async () => {},
      },
    })
    const dull = await play(observability, 'formatting')
    dull.trace.finish({ ending: 'success', status: 200 })
    const failed = await play(observability, 'generated')
    failed.trace.finish({ ending: 'engine_error', status: 500 })
    await observability.flush()
    expect(new Set(exported.map((span) => span.traceId))).toEqual(new Set([failed.trace.traceId]))
    expect(exported).toHaveLength(4)
    expect(exported.find((span) => span.name === 'http.handler')?.reason).toBe('error')
    expect(observability.spanCounts()).toEqual({ created: 9, exported: 4, dropped: 0, unsampled: 5 })
    const { body } = await observability.metrics.render('application/openmetrics-text')
    expect(body).toContain(failed.trace.traceId)
    expect(body).not.toContain(dull.trace.traceId)
    await observability.shutdown(100)
  })
})
