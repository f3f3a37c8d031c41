import { describe, expect, it } from 'vitest'
import type { StoredTrace } from './stored-trace.ts'
import { TraceStore } from './trace-store.ts'

const viewer = { keyId: 'a', isAdmin: false }

const trace = (n: number, more: Partial<StoredTrace> = {}): StoredTrace => ({
  traceId: `t${n}`,
  rootSpanId: `s${n}`,
  requestId: `r${n}`,
  callerId: null,
  keyId: 'a',
  route: '/v1/completions',
  method: 'POST',
  model: null,
  status: 200,
  isError: false,
  ending: 'success',
  startMs: n,
  durationMs: n,
  tokensIn: 1,
  tokensOut: 1,
  ttftSeconds: null,
  keptFor: null,
  spans: [],
  logLines: [],
  ...more,
})

describe('TraceStore', () => {
  it('keeps the newest by count, through many turns of the ring', () => {
    const store = new TraceStore({ maxTraces: 10 })
    for (let n = 0; n < 1000; n++) store.add(trace(n))
    expect(store.size).toBe(10)
    expect(store.list({}, viewer).map((found) => found.traceId)).toEqual(
      Array.from({ length: 10 }, (_, i) => `t${999 - i}`),
    )
    expect(store.get('t989', viewer)).toEqual([])
    expect(store.get('t990', viewer)).toHaveLength(1)
  })

  it('keeps the newest by bytes, and at least one', () => {
    const store = new TraceStore({ maxTraces: 1000, maxBytes: 50_000 })
    for (let n = 0; n < 100; n++) store.add(trace(n, { logLines: ['x'.repeat(9000)] }))
    expect(store.size).toBe(4)
    expect(store.bytes).toBeLessThanOrEqual(50_000)
    store.add(trace(100, { logLines: ['x'.repeat(90_000)] }))
    expect(store.list({}, viewer).map((found) => found.traceId)).toEqual(['t100'])
  })

  it('holds several trees of one trace id and drops them one by one', () => {
    const store = new TraceStore({ maxTraces: 2 })
    store.add(trace(1, { traceId: 'same' }))
    store.add(trace(2, { traceId: 'same', keyId: 'b' }))
    expect(store.get('same', viewer).map((found) => found.rootSpanId)).toEqual(['s1'])
    expect(store.get('same', { keyId: 'x', isAdmin: true })).toHaveLength(2)
    store.add(trace(3))
    expect(store.get('same', { keyId: 'x', isAdmin: true }).map((found) => found.rootSpanId)).toEqual(['s2'])
  })

  it('never lets steps push out requests, and keeps nothing at size 0', () => {
    const store = new TraceStore({ maxTraces: 5, maxSteps: 3 })
    store.add(trace(1))
    for (let n = 2; n < 50; n++) store.add(trace(n, { requestId: null, keyId: null }))
    expect(store.get('t1', viewer)).toHaveLength(1)
    expect(store.get('t49', viewer)).toEqual([])
    expect(store.get('t49', { keyId: 'x', isAdmin: true })).toHaveLength(1)
    expect(store.size).toBe(4)
    const none = new TraceStore({ maxTraces: 0 })
    none.add(trace(1))
    expect(none.size).toBe(0)
  })
})
