import { SpanKind } from '@opentelemetry/api'
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-base'
import { afterEach, describe, expect, it } from 'vitest'
import {
  ADMIN,
  play,
  storedTree,
  testObservability,
  type TestObservability,
} from '../../test/observability/scenario.ts'
import type { StepEvent } from '../engine/events.ts'
import type { ObservabilityOptions } from './observability.ts'
import { spansToOtlp } from './otlp.ts'
import { formatBreach, validateTraces } from './validate.ts'

let observability: TestObservability
afterEach(() => observability.shutdown(100))

function step(stepId: number, requestIds: readonly string[]): StepEvent {
  const startMs = performance.now()
  return {
    type: 'step',
    stepId,
    startMs,
    atMs: startMs + 0.01,
    numRows: requestIds.length,
    numPrefillTokens: 0,
    numDecodeTokens: requestIds.length,
    numRunning: requestIds.length,
    numWaiting: 0,
    numFreeBlocks: 10,
    numBlocks: 16,
    gpuMicros: 1234.5,
    kernels: [{ kernel: 'linear', micros: 1000.4, count: 12 }],
    requestIds,
  }
}

async function decodeTogether(
  detail: 'contract' | 'steps' | 'kernels',
  numSteps: number,
  options: Partial<ObservabilityOptions> = {},
) {
  observability = testObservability({ traceDetail: detail, ...options })
  const played = await Promise.all([play(observability, 'decoding'), play(observability, 'decoding')])
  const ids = played.map(({ trace }) => trace.requestId)
  for (let stepId = 1; stepId <= numSteps; stepId++) {
    const event = step(stepId, ids)
    observability.engineSubscriber.onEvent(event)
    // The next step begins after this one has ended.
    while (performance.now() < event.atMs);
  }
  for (const { trace, finishEngine } of played) {
    finishEngine('length')
    trace.finish({ ending: 'closed_early', status: 200 })
  }
  return played.map(({ trace }) => storedTree(observability, trace.traceId))
}

describe('engine steps', () => {
  it('are traces of their own, linked both ways with the requests they served', async () => {
    const trees = await decodeTogether('steps', 41)
    for (const tree of trees) {
      expect(validateTraces(spansToOtlp(tree.spans), 'steps').map(formatBreach)).toEqual([])
      const children = tree.spans.filter((span) => span.name === 'decode.step')
      expect(children.length).toBeGreaterThanOrEqual(3)
      const decode = tree.spans.find((span) => span.name === 'llm.decode')
      expect(decode?.attributes['llm.sched.last_step']).toBe(41)
      for (const child of children) {
        const stepTraceId = child.links[0]?.context.traceId ?? ''
        expect(stepTraceId).not.toBe(tree.traceId)
        const stepTree = storedTree(observability, stepTraceId)
        expect(validateTraces(spansToOtlp(stepTree.spans), 'steps').map(formatBreach)).toEqual([])
        expect(stepTree.spans[0]?.attributes).toMatchObject({ 'engine.step.rows': 2, 'llm.gpu.us': 1235 })
        expect(stepTree.spans[0]?.links.map((link) => link.context.spanId)).toContain(decode?.spanContext().spanId)
        expect(stepTree.spans[0]?.events).toEqual([])
      }
    }
    expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
  })

  it('carry the GPU times of kernels at that level, and are absent at the contract level', async () => {
    const [tree] = await decodeTogether('kernels', 3)
    const child = tree?.spans.find((span) => span.name === 'decode.step')
    const stepTree = storedTree(observability, child?.links[0]?.context.traceId ?? '')
    expect(stepTree.spans[0]?.events[0]).toMatchObject({
      name: 'gpu.kernel',
      attributes: { kernel: 'linear', us: 1000, count: 12 },
    })
    await observability.shutdown(100)
    const plain = await decodeTogether('contract', 41)
    expect(plain[0]?.spans.map((span) => span.name).sort((a, b) => a.localeCompare(b))).toEqual([
      'http.handler',
      'llm.decode',
      'llm.prefill',
      'tokenize.input',
    ])
    expect(observability.store.list({}, ADMIN)).toHaveLength(2)
  })
})

describe('on their way to consumers that list them', () => {
  it.each([true, false])('traces of steps are exported as asked: %s', async (exportSteps) => {
    const exporter = new InMemorySpanExporter()
    const trees = await decodeTogether('steps', 41, { exporter, exportSteps })
    await observability.flush()
    const names = exporter.getFinishedSpans().map(({ name }) => name)
    expect(names.filter((name) => name === 'engine.step')).toHaveLength(exportSteps ? 3 : 0)
    expect(names.filter((name) => name === 'http.handler')).toHaveLength(2)
    // They are in memory either way.
    const child = trees[0]?.spans.find(({ name }) => name === 'decode.step')
    expect(observability.store.get(child?.links[0]?.context.traceId ?? '', ADMIN)).toHaveLength(1)
    const { created, exported, dropped, unsampled } = observability.spanCounts()
    expect([exported + dropped + unsampled, unsampled]).toEqual([created, exportSteps ? 0 : 3])
  })

  it('http.handler leaves as its operation and model where that is asked for, and is stored as itself', async () => {
    const exporter = new InMemorySpanExporter()
    const [tree] = await decodeTogether('contract', 3, { exporter, exportNames: 'operation' })
    await observability.flush()
    const exported = exporter.getFinishedSpans().filter(({ kind }) => kind === SpanKind.SERVER)
    expect(exported.map(({ name }) => name)).toEqual(['text_completion tiny', 'text_completion tiny'])
    expect(spansToOtlp(exported.slice(0, 1)).resourceSpans[0]?.scopeSpans[0]?.spans[0]?.name).toBe(
      'text_completion tiny',
    )
    expect(tree?.spans.map(({ name }) => name)).toContain('http.handler')
  })
})

describe('KV tiers', () => {
  it('nest a disk read below its retrieve, below the prefill', async () => {
    observability = testObservability({ traceDetail: 'steps' })
    const { trace, finishEngine } = await play(observability, 'scheduled')
    const publish = (
      type: 'kvSubmitted' | 'kvDone',
      operation: 'lookup' | 'retrieve' | 'disk_read',
      operationId: number,
    ) =>
      observability.engineSubscriber.onEvent({
        type,
        operation,
        operationId,
        requestId: trace.requestId,
        atMs: performance.now(),
        numBlocks: 2,
        bytes: 64,
        ok: true,
      })
    publish('kvSubmitted', 'lookup', 1)
    publish('kvDone', 'lookup', 1)
    publish('kvSubmitted', 'retrieve', 2)
    publish('kvSubmitted', 'disk_read', 3)
    publish('kvDone', 'disk_read', 3)
    publish('kvDone', 'retrieve', 2)
    finishEngine('abort')
    trace.finish({ ending: 'client_disconnect', status: null })
    const { spans } = storedTree(observability, trace.traceId)
    const parentOf = (name: string) => {
      const id = spans.find((span) => span.name === name)?.parentSpanContext?.spanId
      return spans.find((span) => span.spanContext().spanId === id)?.name
    }
    expect(parentOf('kv.lookup')).toBe('llm.prefill')
    expect(parentOf('kv.retrieve')).toBe('llm.prefill')
    expect(parentOf('kv.disk_read')).toBe('kv.retrieve')
    expect(validateTraces(spansToOtlp(spans), 'steps').map(formatBreach)).toEqual([])
  })

  it('hold the trace open while they run, at every level', async () => {
    observability = testObservability()
    const { trace } = await play(observability, 'formatting')
    const event = { requestId: trace.requestId, operation: 'store', operationId: 9, numBlocks: 1 } as const
    observability.engineSubscriber.onEvent({ type: 'kvSubmitted', atMs: performance.now(), ...event })
    trace.finish({ ending: 'success', status: 200 })
    expect(observability.open()).toMatchObject({ requests: 1, engine: 1 })
    observability.engineSubscriber.onEvent({ type: 'kvDone', atMs: performance.now(), bytes: 0, ok: false, ...event })
    expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
    expect(storedTree(observability, trace.traceId).spans).toHaveLength(5)
  })
})
