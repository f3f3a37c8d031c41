import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  open,
  play,
  finishedEvent,
  queuedEvent,
  startEvents,
  storedTree,
  testObservability,
  type TestObservability,
} from '../../test/observability/scenario.ts'
import type { EngineEvent } from '../engine/events.ts'
import { loadPlugins } from './plugins.ts'
import { spansToOtlp } from './otlp.ts'
import { validateTraces } from './validate.ts'

const example = (name: string) =>
  fileURLToPath(new URL(`../../test/observability/plugins/${name}.mjs`, import.meta.url))

let observability: TestObservability
let folder: string
beforeEach(() => {
  observability = testObservability()
  folder = mkdtempSync(join(tmpdir(), 'miniserve-plugin-'))
})
afterEach(async () => {
  await observability.shutdown(100)
  rmSync(folder, { recursive: true, force: true })
})

describe('plugins', () => {
  it('add spans at the contract level and three levels deep, and the contract still holds', async () => {
    const plugins = await loadPlugins([example('queue-span'), example('nested-spans')], observability.subscriberHost)
    const trace = open(observability)
    const { requestId } = trace
    const plan = {
      numPromptTokens: 4,
      numCachedTokens: 0,
      stepMicros: [10],
      reason: 'abort',
      choices: 1,
      n: 1,
    } as const
    const arrivedMs = performance.now()
    const events: EngineEvent[] = [
      queuedEvent(requestId, 0, plan),
      ...startEvents(requestId, 0, plan),
      { type: 'preempted', requestId, choice: 0, atMs: performance.now(), numComputedTokens: 4 },
      {
        type: 'scheduled',
        requestId,
        choice: 0,
        atMs: performance.now(),
        kind: 'resume',
        waitUs: 5,
        numCachedTokens: 0,
        numMissTokens: 4,
        missReason: 'cold',
      },
      { type: 'preempted', requestId, choice: 0, atMs: performance.now(), numComputedTokens: 4 },
    ]
    const last = finishedEvent(requestId, 0, plan, {
      arrivedMs,
      scheduledMs: arrivedMs,
      firstTokenMs: performance.now(),
    })
    const subscribers = observability.subscribers(plugins)
    for (const event of [...events, last]) for (const subscriber of subscribers) subscriber.onEvent(event)
    trace.finish({ ending: 'client_disconnect', status: null })
    const { spans } = storedTree(observability, trace.traceId)
    const nameOf = (spanId: string | undefined) => spans.find((span) => span.spanContext().spanId === spanId)?.name
    const parents = spans
      .map((span) => `${nameOf(span.parentSpanContext?.spanId) ?? '-'} > ${span.name}`)
      .sort((a, b) => a.localeCompare(b))
    expect(parents).toEqual([
      '- > http.handler',
      'acme.generation > acme.preemption',
      'acme.generation > acme.preemption',
      'http.handler > acme.queue',
      'http.handler > llm.decode',
      'http.handler > llm.prefill',
      'llm.decode > acme.generation',
    ])
    expect(validateTraces(spansToOtlp(spans), 'contract').filter((breach) => breach.rule !== 'span.missing')).toEqual(
      [],
    )
    expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
  })

  it('lose no span of several choices under one name, and keep each inside its parent', async () => {
    const plugins = await loadPlugins([example('nested-spans')], observability.subscriberHost)
    const subscribers = observability.subscribers(plugins)
    const trace = open(observability)
    const plan = {
      numPromptTokens: 4,
      numCachedTokens: 0,
      stepMicros: [10],
      reason: 'length',
      choices: 3,
      n: 3,
    } as const
    const choices = [0, 1, 2]
    trace.setGeneration({ operation: 'chat', model: 'tiny', numChoices: 3, n: 3 })
    const arrivedMs = performance.now()
    const publish = (event: EngineEvent) => subscribers.forEach((subscriber) => void subscriber.onEvent(event))
    for (const choice of choices) publish(queuedEvent(trace.requestId, choice, plan))
    for (const choice of choices) startEvents(trace.requestId, choice, plan).forEach(publish)
    const times = { arrivedMs, scheduledMs: arrivedMs, firstTokenMs: performance.now() }
    for (const choice of choices) publish(finishedEvent(trace.requestId, choice, plan, times))
    trace.finish({ ending: 'success', status: 200 })
    const { spans } = storedTree(observability, trace.traceId)
    const decode = spans.find((span) => span.name === 'llm.decode')
    const generations = spans.filter((span) => span.name === 'acme.generation')
    expect(generations).toHaveLength(3)
    const nanos = ([seconds, rest]: readonly [number, number]) => BigInt(seconds) * 1_000_000_000n + BigInt(rest)
    for (const { endTime } of generations) expect(nanos(endTime)).toBeLessThanOrEqual(nanos(decode?.endTime ?? [0, 0]))
    const { created, exported, dropped, unsampled } = observability.spanCounts()
    expect(exported + dropped + unsampled).toBe(created)
    expect(observability.open().spans).toBe(0)
  })

  it('that never end a span do not make a served request an error, and are told of its whole life', async () => {
    const seen: string[] = []
    const { tracer } = observability.subscriberHost
    observability.subscribers([
      {
        name: 'starts-only',
        onEvent(event) {
          seen.push(event.type)
          if (event.type === 'requestStarted') tracer?.startSpan('acme.open')
          if (event.type === 'requestFinished') throw new Error('broken')
        },
      },
    ])
    const { trace } = await play(observability, 'formatting')
    trace.finish({ ending: 'success', status: 200 })
    const left = storedTree(observability, trace.traceId).spans.find((span) => span.name === 'acme.open')
    expect(left?.status.code).toBe(0)
    expect(seen).toEqual(['requestStarted', 'requestAccepted', 'requestFinished'])
    const failed = observability.lines.find((line) => line.msg === 'plugin.failed')
    expect(failed).toMatchObject({ plugin: 'starts-only', trace_id: trace.traceId })
    const { body } = await observability.metrics.render(undefined)
    expect(body).toContain('miniserve_trace_errors_total{where="plugin starts-only"} 1')
    open(observability, { requestId: 'refused' }).finish({ ending: 'refused', status: 429 })
    expect(seen.slice(3)).toEqual(['requestStarted', 'requestFinished'])
  })

  it('that forget a registered span leave none open', async () => {
    const [plugin] = await loadPlugins([example('nested-spans')], observability.subscriberHost)
    const { trace, finishEngine } = await play(observability, 'decoding')
    plugin?.onEvent({ type: 'firstToken', requestId: trace.requestId, choice: 0, atMs: performance.now(), stepId: 1 })
    trace.finish({ ending: 'engine_error', status: 500 })
    finishEngine('error')
    const forgotten = storedTree(observability, trace.traceId).spans.find((span) => span.name === 'acme.generation')
    expect(forgotten?.attributes['error.type']).toBe('engine_error')
    expect(observability.open().spans).toBe(0)
  })

  it.each([
    ['export default { name: "plain", onEvent() {} }', null],
    ['export const other = 1', 'found no default export'],
    ['export default 3', 'found a default export of type number'],
    ['export default () => ({ name: "x" })', 'expected a default export {name, onEvent(event)}'],
    ['throw new Error("broken at load")', 'cannot be loaded: broken at load'],
  ])('are loaded or refused with one line: %s', async (source, message) => {
    const file = join(folder, `plugin-${Math.abs(source.length * 7919)}.mjs`)
    writeFileSync(file, source)
    const loading = loadPlugins([file], observability.subscriberHost)
    if (message === null) expect((await loading)[0]?.name).toBe('plain')
    else await expect(loading).rejects.toThrow(message)
  })
})
