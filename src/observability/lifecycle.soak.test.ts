/**
 * Random lives of requests, many at a time: whatever the order in which the engine, the client, spawned work and KV tiers have their
 * say, each leaves exactly one tree that validates against the contract, nothing stays open, and every span is accounted for.
 */
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { expect, it } from 'vitest'
import { ADMIN, play, type Progress, testObservability } from '../../test/observability/scenario.ts'
import { type EndingRow, ENDINGS } from './endings.ts'
import { spansToOtlp } from './otlp.ts'
import { formatBreach, validateTraces } from './validate.ts'

const LEVEL = process.env.MINISERVE_TEST_LEVEL
const NUM_REQUESTS = LEVEL === 'soak' ? 20_000 : LEVEL === 'full' ? 4000 : 300
const BATCH = 50
const PROGRESS: readonly Progress[] = [
  'opened',
  'tokenized',
  'queued',
  'scheduled',
  'decoding',
  'generated',
  'formatting',
]

/** A small generator with a seed that the test's name gives. */
function createRandom(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** An ending that can strike at this point. */
function endingAt(progress: Progress, random: (below: number) => number): EndingRow {
  const rows = ENDINGS.filter((row) => {
    if (row.ending === 'success') return progress === 'formatting'
    if (row.ending === 'unauthorized' || row.ending === 'refused' || row.ending === 'unavailable')
      return progress === 'opened'
    if (row.ending === 'validation') return progress === 'opened' || progress === 'tokenized'
    return row.phase === 'before headers' || PROGRESS.indexOf(progress) >= PROGRESS.indexOf('decoding')
  })
  const row = rows[random(rows.length)]
  if (!row) throw new Error(`no ending at ${progress}`)
  return row
}

it(
  `${NUM_REQUESTS} random lives of requests each leave one whole tree (seed 20261121)`,
  { timeout: 600_000 },
  async () => {
    const random = createRandom(20261121)
    const exported = new Map<string, number>()
    let numExports = 0
    const exporter: SpanExporter = {
      export(spans: ReadableSpan[], done) {
        // A collector that is away every other time.
        numExports += 1
        if (numExports % 2 === 0) return done({ code: 1, error: new Error('away') })
        for (const span of spans) {
          if (span.name === 'http.handler')
            exported.set(span.spanContext().spanId, (exported.get(span.spanContext().spanId) ?? 0) + 1)
        }
        done({ code: 0 })
      },
      shutdown: async () => {},
    }
    const observability = testObservability({
      traceDetail: 'steps',
      exporter,
      logLevel: 'silent',
      traceStoreSize: BATCH * 2,
    })

    async function live(n: number): Promise<string> {
      const progress = PROGRESS[random(PROGRESS.length)] ?? 'opened'
      const row = endingAt(progress, random)
      const status = row.sent[random(row.sent.length)] ?? null
      const choices = 1 + random(3)
      const { trace, finishEngine } = await play(observability, progress, {
        isStreamed: row.phase === 'in the stream',
        rag: random(3) === 0,
        plan: { choices, n: choices, stepMicros: Array.from({ length: random(5) }, () => random(9000)) },
      })
      const { requestId } = trace
      const pending: (() => void)[] = []
      for (let i = random(3); i > 0; i--) pending.push(trace.hold())
      for (let operationId = random(3); operationId > 0; operationId--) {
        const operation = (['lookup', 'retrieve', 'store'] as const)[random(3)] ?? 'lookup'
        const event = { requestId, operationId, operation, numBlocks: 1 } as const
        observability.engineSubscriber.onEvent({ type: 'kvSubmitted', atMs: performance.now(), ...event })
        pending.push(() =>
          observability.engineSubscriber.onEvent({
            type: 'kvDone',
            atMs: performance.now(),
            bytes: 1,
            ok: random(2) === 0,
            ...event,
          }),
        )
      }
      pending.push(() => void trace.finish({ ending: row.ending, status, error: new Error('x') }))
      pending.push(() => finishEngine('abort'))
      // In any order, some twice, with the event loop between them.
      while (pending.length > 0) {
        const [act] = pending.splice(random(pending.length), 1)
        act?.()
        if (random(4) === 0) act?.()
        if (random(2) === 0) await Promise.resolve()
      }
      expect(trace.finish({ ending: 'exception', status: 500 }), `request ${n} was finished`).toBe(false)
      return trace.traceId
    }

    for (let done = 0; done < NUM_REQUESTS; done += BATCH) {
      const ids = await Promise.all(Array.from({ length: BATCH }, (_, i) => live(done + i)))
      for (const traceId of ids) {
        const trees = observability.store.get(traceId, ADMIN)
        expect(trees).toHaveLength(1)
        const breaches = trees.flatMap((tree) => validateTraces(spansToOtlp(tree.spans), 'steps').map(formatBreach))
        expect(breaches).toEqual([])
      }
      await observability.flush()
    }
    expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
    await observability.shutdown(1000)
    const { created, exported: sent, dropped, unsampled } = observability.spanCounts()
    expect(sent + dropped + unsampled).toBe(created)
    // Batches that failed were kept and sent again.
    expect(dropped).toBe(0)
    expect(exported.size).toBe(NUM_REQUESTS)
    expect([...exported.values()].every((times) => times === 1)).toBe(true)
  },
)
