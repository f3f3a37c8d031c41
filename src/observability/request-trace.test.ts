import { once } from 'node:events'
import { EventEmitter } from 'node:events'
import { hrTimeToNanoseconds } from '@opentelemetry/core'
import { afterEach, describe, expect, it } from 'vitest'
import {
  ADMIN,
  open,
  play,
  type Progress,
  storedTree,
  testObservability,
  type TestObservability,
} from '../../test/observability/scenario.ts'
import { OtlpReceiver } from '../../test/e2e/otlp-receiver.ts'
import { currentRequest, openStage, spawn, stage } from './context.ts'
import { type EndingRow, ENDINGS, endingRow, ERROR_CODE } from './endings.ts'
import { spansToOtlp } from './otlp.ts'
import { formatBreach, validateTraces } from './validate.ts'

let observability: TestObservability
const start = (options: Parameters<typeof testObservability>[0] = {}) => {
  observability = testObservability(options)
  return observability
}
afterEach(() => observability?.shutdown(500))

const breachesOf = (traceId: string) =>
  observability.store
    .get(traceId, ADMIN)
    .flatMap((tree) => validateTraces(spansToOtlp(tree.spans), 'contract').map(formatBreach))

const names = (traceId: string) =>
  storedTree(observability, traceId)
    .spans.map((span) => span.name)
    .sort((a, b) => a.localeCompare(b))

const rootOf = (traceId: string) => {
  const root = storedTree(observability, traceId).spans.find((span) => span.name === 'http.handler')
  if (!root) throw new Error('no root')
  return root
}

const NOTHING_OPEN = { requests: 0, spans: 0, engine: 0 }

/** How far a request can have come when it ends this way. */
function progressOf(row: EndingRow): readonly Progress[] {
  if (row.ending === 'success') return ['formatting']
  if (row.ending === 'validation') return ['opened', 'tokenized']
  if (row.ending === 'unauthorized' || row.ending === 'refused' || row.ending === 'unavailable') return ['opened']
  if (row.phase === 'in the stream') return ['decoding', 'generated', 'formatting']
  return ['opened', 'tokenized', 'queued', 'scheduled', 'decoding']
}

/** Every row of the table, at every status it may send, at every point where it can strike. */
const matrix = ENDINGS.flatMap((row) =>
  progressOf(row).flatMap((progress) =>
    (row.sent.length > 0 ? row.sent : [null]).map((status) => ({ row, progress, status })),
  ),
)

describe('the table of endings', () => {
  it('has one row for every ending and status', () => {
    for (const { path: _, phase: __, tail: ___, sent, ...row } of ENDINGS) {
      for (const status of sent) expect(endingRow(row.ending, status)).toMatchObject(row)
    }
  })

  it.each(matrix.map((c) => ({ ...c, title: `${c.row.path}, ${c.status ?? 'no status'}, ${c.progress}` })))(
    'one root, ended once: $title',
    async ({ row, progress, status }) => {
      start()
      const { trace, finishEngine } = await play(observability, progress, { isStreamed: row.phase === 'in the stream' })
      expect(trace.finish({ ending: row.ending, status, error: new TypeError('the prompt was: SECRET') })).toBe(true)
      finishEngine('abort')
      // The others that close a request come too late, whatever they think of its end.
      expect(trace.finish({ ending: 'exception', status: 500 })).toBe(false)
      expect(observability.open()).toEqual(NOTHING_OPEN)
      expect(breachesOf(trace.traceId)).toEqual([])
      const root = rootOf(trace.traceId)
      const ends = root.events.filter((event) => event.name === 'request.departed' || event.name === 'request.aborted')
      expect(ends.map((event) => event.name)).toEqual([row.event])
      expect(ends[0]?.attributes?.reason ?? null).toBe(row.reason)
      expect(root.attributes['http.status_code']).toBe(row.statusCode ?? status ?? undefined)
      // A TypeError has no code of its own: the status stands for it.
      const errorType = row.errorType === ERROR_CODE ? String(status) : row.errorType
      expect(root.attributes['error.type']).toBe(errorType ?? undefined)
      if (row.spanStatus === 'error') expect(root.status.message).toBe(row.errorType)
      expect(root.status.code).toBe(row.spanStatus === 'error' ? 2 : 0)
      expect(JSON.stringify(observability.lines)).not.toContain('SECRET')
      expect(JSON.stringify(spansToOtlp(storedTree(observability, trace.traceId).spans))).not.toContain('SECRET')
    },
  )
})

describe('the tree', () => {
  it('has 5 spans without retrieval and 9 with it', async () => {
    start()
    const plain = await play(observability, 'formatting')
    plain.trace.finish({ ending: 'success', status: 200 })
    expect(names(plain.trace.traceId)).toEqual([
      'format.output',
      'http.handler',
      'llm.decode',
      'llm.prefill',
      'tokenize.input',
    ])
    const augmented = await play(observability, 'formatting', { rag: true })
    augmented.trace.finish({ ending: 'success', status: 200 })
    expect(names(augmented.trace.traceId)).toHaveLength(9)
    expect(breachesOf(augmented.trace.traceId)).toEqual([])
  })

  it('makes one prefill and one decode of several choices, and counts a prompt once', async () => {
    start()
    const { trace } = await play(observability, 'formatting', { plan: { choices: 6, n: 3 } })
    trace.finish({ ending: 'success', status: 200 })
    expect(breachesOf(trace.traceId)).toEqual([])
    const { spans } = storedTree(observability, trace.traceId)
    const prefill = spans.find((span) => span.name === 'llm.prefill')
    const decode = spans.find((span) => span.name === 'llm.decode')
    expect(prefill?.attributes).toMatchObject({ 'llm.tokens.in': 24, 'llm.cache.hits': 8, 'llm.choices': 6 })
    expect(decode?.attributes).toMatchObject({ 'llm.tokens.out': 24, 'llm.decode.steps': 18, 'llm.batch.mean_rows': 2 })
  })

  it('stays open for work in flight, ends at the time of the response, and is closed by the last of it', async () => {
    start({ traceDetail: 'steps' })
    const { trace } = await play(observability, 'formatting')
    const { requestId } = trace
    const kv = { requestId, operationId: 1, operation: 'store', numBlocks: 3 } as const
    observability.engineSubscriber.onEvent({ type: 'kvSubmitted', atMs: performance.now(), ...kv })
    trace.finish({ ending: 'success', status: 200 })
    expect(observability.store.get(trace.traceId, ADMIN)).toEqual([])
    expect(observability.open().requests).toBe(1)
    const doneMs = performance.now() + 5
    observability.engineSubscriber.onEvent({ type: 'kvDone', atMs: doneMs, bytes: 10, ok: true, ...kv })
    const { spans } = storedTree(observability, trace.traceId)
    const store = spans.find((span) => span.name === 'kv.store')
    const root = rootOf(trace.traceId)
    expect(store && hrTimeToNanoseconds(store.endTime)).toBeGreaterThan(hrTimeToNanoseconds(root.endTime))
    expect(validateTraces(spansToOtlp(spans), 'steps').map(formatBreach)).toEqual([])
    expect(observability.open()).toEqual(NOTHING_OPEN)
  })

  it('opens a root lazily for a request nobody opened, and not again for its late events', () => {
    start()
    const event = { requestId: 'lonely', operationId: 1, operation: 'retrieve', numBlocks: 1 } as const
    const plan = { numPromptTokens: 3, numCachedTokens: 0, stepMicros: [], reason: 'stop', choices: 1, n: 1 } as const
    observability.engineSubscriber.onEvent({
      type: 'queued',
      requestId: 'lonely',
      choice: 0,
      atMs: performance.now(),
      numPromptTokens: 3,
    })
    expect(observability.open().requests).toBe(1)
    observability.engineSubscriber.onEvent({
      type: 'finished',
      requestId: 'lonely',
      choice: 0,
      atMs: performance.now(),
      reason: plan.reason,
      stop: 'eos',
      errorCode: null,
      counters: {
        numPromptTokens: 3,
        numCachedTokens: 0,
        numMissTokens: 3,
        missReason: 'cold',
        numRecomputedTokens: 0,
        numPreemptions: 0,
        numGeneratedTokens: 0,
        numReasoningTokens: 0,
        arrivedMs: performance.now(),
        grammarMs: 0,
        firstScheduledMs: null,
        firstTokenMs: null,
        lastTokenMs: null,
        scoredMs: null,
        prefillChunks: 0,
        decodeSteps: 0,
        decodeStepMicros: [],
        decodeRowSum: 0,
        prefillGpuMicros: null,
        prefillGpuShareMicros: null,
        decodeGpuMicros: null,
        decodeGpuShareMicros: null,
        numDraftTokens: 0,
        numAcceptedTokens: 0,
      },
    })
    expect(observability.open()).toEqual(NOTHING_OPEN)
    expect(observability.store.size).toBe(1)
    observability.engineSubscriber.onEvent({ type: 'kvSubmitted', atMs: performance.now(), ...event })
    expect(observability.open()).toEqual(NOTHING_OPEN)
  })

  it('is closed by the watchdog when nobody else does, and counted', async () => {
    start({ leakAfterMs: 40 })
    const unfinished = await play(observability, 'decoding')
    const { promise, resolve } = withResolvers()
    const { add } = observability.store
    observability.store.add = (trace) => {
      add.call(observability.store, trace)
      resolve()
    }
    await promise
    const root = rootOf(unfinished.trace.traceId)
    expect(root.attributes['error.type']).toBe('span_leak')
    expect(observability.open()).toEqual(NOTHING_OPEN)
    expect(breachesOf(unfinished.trace.traceId)).toEqual([])
    expect((await observability.metrics.render(undefined)).body).toContain('miniserve_trace_leaks_total 1')
  })

  it('ends everything that is open at shutdown', async () => {
    start()
    const played = await Promise.all(
      (['opened', 'tokenized', 'queued', 'scheduled', 'decoding'] as const).map((progress) =>
        play(observability, progress),
      ),
    )
    await observability.shutdown(500)
    expect(observability.open()).toEqual(NOTHING_OPEN)
    for (const { trace } of played) {
      expect(rootOf(trace.traceId).attributes['error.type']).toBe('shutdown')
      expect(breachesOf(trace.traceId)).toEqual([])
    }
  })

  it('leaves out values that do not fit the table, and counts them', async () => {
    start()
    const trace = open(observability)
    trace.run(() => {
      const opened = openStage('tokenize.input')
      opened.set({ 'llm.tokens.in': 2.5, 'tokenizer.name': 'bpe' })
      opened.end()
      // @ts-expect-error the table has no such attribute, and types say so
      stage('rerank', { 'rag.rerank.top': 3 }, () => {})
    })
    trace.finish({ ending: 'validation', status: 400 })
    const tokenize = storedTree(observability, trace.traceId).spans.find((span) => span.name === 'tokenize.input')
    expect(tokenize?.attributes).toEqual({ 'tokenizer.name': 'bpe' })
    expect((await observability.metrics.render(undefined)).body).toContain(
      'miniserve_trace_breaches_total{span="tokenize.input",attribute="llm.tokens.in"} 1',
    )
  })

  it('records nothing but still names ids when tracing is off, and for routes without a span', async () => {
    start({ traceDetail: 'off' })
    const { trace } = await play(observability, 'formatting')
    expect(trace.traceId).toMatch(/^[0-9a-f]{32}$/)
    trace.finish({ ending: 'success', status: 200 })
    expect(observability.store.size).toBe(0)
    expect(observability.lines.every((line) => line.trace_id === trace.traceId)).toBe(true)
    expect(observability.lines.map((line) => line.msg)).toContain('response.sent')
    await observability.shutdown(100)
    start()
    const probe = open(observability, { kind: 'other', route: '/health', path: '/health' })
    probe.finish({ ending: 'success', status: 200 })
    expect(observability.store.size).toBe(0)
    expect(observability.spanCounts().created).toBe(0)
  })
})

describe('remote parents', () => {
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const headers = { traceparent: `00-${traceId}-00f067aa0ba902b7-01`, tracestate: 'vendor=1' }

  it('joins the caller when trusted', () => {
    start()
    const trace = open(observability, { headers })
    expect(trace.traceId).toBe(traceId)
    expect(trace.traceresponse()).toBe(`00-${traceId}-${trace.spanId}-01`)
    expect(trace.calls.startUpstream('http://far.test/v1').headers).toMatchObject({ tracestate: 'vendor=1' })
    trace.finish({ ending: 'success', status: 200 })
    expect(rootOf(traceId).parentSpanContext?.spanId).toBe('00f067aa0ba902b7')
  })

  it('links to the caller when not', () => {
    start({ trustRemote: false })
    const trace = open(observability, { headers })
    expect(trace.traceId).not.toBe(traceId)
    trace.finish({ ending: 'success', status: 200 })
    expect(rootOf(trace.traceId).links[0]?.context.traceId).toBe(traceId)
  })

  it.each([
    '',
    '00-0-0-00',
    `00-${traceId.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
  ])('starts anew for the malformed header "%s"', (traceparent) => {
    start()
    const trace = open(observability, { headers: { traceparent } })
    expect(trace.traceId).not.toBe(traceId)
    trace.finish({ ending: 'success', status: 200 })
  })
})

describe('context', () => {
  it('is kept by spawned work, which holds the trace open', async () => {
    start()
    const trace = open(observability)
    const seen: (string | undefined)[] = []
    const note = () => seen.push(currentRequest()?.traceId)
    const gate = new EventEmitter()
    const spawned = trace.run(() =>
      spawn(async () => {
        await once(gate, 'go')
        note()
        throw new Error('counted and logged, never thrown')
      }),
    )
    trace.finish({ ending: 'success', status: 200 })
    expect(observability.open().requests).toBe(1)
    gate.emit('go')
    await spawned
    expect(observability.open()).toEqual(NOTHING_OPEN)
    expect(seen).toEqual([trace.traceId])
    expect(observability.lines.filter((line) => line.msg === 'work.failed').map((line) => line.trace_id)).toEqual([
      trace.traceId,
    ])
  })

  it('is empty outside requests, where stages just run', async () => {
    start()
    expect(currentRequest()).toBeUndefined()
    expect(stage('tokenize.input', () => 3)).toBe(3)
    await expect(stage('rerank', async () => Promise.reject(new Error('kept')))).rejects.toThrow('kept')
    expect(observability.lines).toEqual([])
    expect(observability.spanCounts().created).toBe(0)
  })
})

describe('on the wire', () => {
  it('sends counts as ints and doubles as doubles, whole ones too, to a real OTLP receiver', async () => {
    const receiver = await OtlpReceiver.start()
    try {
      start({ otlpEndpoint: String(receiver.url) })
      const whole = await play(observability, 'formatting', { plan: { stepMicros: [2000, 2000] }, rag: true })
      whole.trace.finish({ ending: 'success', status: 200 })
      const fraction = await play(observability, 'formatting', { plan: { stepMicros: [1234] } })
      fraction.trace.finish({ ending: 'success', status: 200 })
      await observability.flush()
      expect(receiver.spans).toHaveLength(14)
      const value = (traceId: string, name: string, key: string) =>
        receiver.spans.find((span) => span.traceId === traceId && span.name === name)?.attributes[key]
      expect(value(whole.trace.traceId, 'llm.decode', 'llm.decode.mean_step_ms')).toMatchObject({ doubleValue: 2 })
      expect(value(whole.trace.traceId, 'vector.search', 'rag.search.max_score')).toMatchObject({ doubleValue: 1 })
      expect(value(whole.trace.traceId, 'http.handler', 'gen_ai.request.temperature')).toMatchObject({ doubleValue: 1 })
      expect(value(fraction.trace.traceId, 'llm.decode', 'llm.decode.mean_step_ms')).toMatchObject({
        doubleValue: 1.234,
      })
      expect(String(value(fraction.trace.traceId, 'llm.decode', 'llm.decode.steps')?.intValue)).toBe('1')
      expect(
        value(fraction.trace.traceId, 'http.handler', 'gen_ai.response.finish_reasons')?.arrayValue?.values[0]
          ?.stringValue,
      ).toBe('length')
      const root = receiver.spans.find((span) => span.traceId === whole.trace.traceId && span.name === 'http.handler')
      expect(root).toMatchObject({
        kind: 'SPAN_KIND_SERVER',
        status: 'STATUS_CODE_UNSET',
        scope: 'lynx-cortex.miniserve',
      })
      expect(root?.resource['service.name']?.stringValue).toBe('miniserve')
      const counts = observability.spanCounts()
      expect(counts).toEqual({ created: 14, exported: 14, dropped: 0, unsampled: 0 })
    } finally {
      await observability.shutdown(1000)
      await receiver.close()
    }
  })

  it('keeps flags 00 away from the receiver but in the store', async () => {
    const receiver = await OtlpReceiver.start()
    try {
      start({ otlpEndpoint: String(receiver.url) })
      const headers = { traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00' }
      const { trace } = await play(observability, 'formatting', { input: { headers } })
      trace.finish({ ending: 'success', status: 200 })
      await observability.flush()
      expect(receiver.spans).toEqual([])
      expect(names(trace.traceId)).toHaveLength(5)
      expect(observability.spanCounts()).toEqual({ created: 5, exported: 0, dropped: 0, unsampled: 5 })
    } finally {
      await observability.shutdown(1000)
      await receiver.close()
    }
  })
})

describe('logs', () => {
  it('tell the story of a request in lines that name its trace and a span of its tree', async () => {
    start()
    const { trace } = await play(observability, 'formatting', { rag: true })
    trace.finish({ ending: 'success', status: 200 })
    expect(observability.lines.map((line) => line.msg)).toEqual([
      'request.received',
      'input.tokenized',
      'rag.retrieved',
      'prefill.done',
      'decode.done',
      'response.sent',
    ])
    const tree = storedTree(observability, trace.traceId)
    const ids = new Map(tree.spans.map((span) => [span.spanContext().spanId, span.name]))
    expect(observability.lines.map((line) => ids.get(line.span_id ?? ''))).toEqual([
      'http.handler',
      'tokenize.input',
      'rag.retrieve',
      'llm.prefill',
      'llm.decode',
      'http.handler',
    ])
    expect(tree.logLines).toHaveLength(6)
  })

  it('never mix requests that overlap', async () => {
    start()
    const played = await Promise.all(Array.from({ length: 20 }, () => play(observability, 'formatting', { rag: true })))
    for (const { trace } of played) trace.finish({ ending: 'success', status: 200 })
    for (const { trace } of played) {
      const ids = new Set(storedTree(observability, trace.traceId).spans.map((span) => span.spanContext().spanId))
      const lines = observability.lines.filter((line) => line.trace_id === trace.traceId)
      expect(lines).toHaveLength(6)
      for (const line of lines) expect(ids.has(line.span_id ?? '')).toBe(true)
      expect(breachesOf(trace.traceId)).toEqual([])
    }
  })
})

function withResolvers(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve: () => void = () => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
