import { Hono } from 'hono'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { SERVER_ACCESS } from '../rag/access.ts'
import { open, play, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { parseTraces, TRACE_FORMATS } from '../observability/trace-formats.ts'
import type { AppEnv } from './env.ts'
import { toApiError, toErrorBody } from './errors.ts'
import { registerRoutes } from './router.ts'
import { traceHandlers } from './traces.ts'

let observability: TestObservability
let traceId: string
let failedId: string

/** The routes as the server mounts them, with the caller a test wants. */
function app(
  caller: { readonly keyId: string; readonly isAdmin: boolean } = { keyId: 'alice', isAdmin: false },
  observed = observability,
) {
  const hono = new Hono<AppEnv>()
  hono.use(async (c, next) => {
    c.set('caller', { ...caller, cacheSalt: '', limits: null, indexes: SERVER_ACCESS })
    const trace = open(observed, { kind: 'other' })
    c.set('trace', trace)
    await next()
    trace.finish({ ending: 'success', status: 200 })
  })
  hono.onError((error, c) => {
    const apiError = toApiError(error, '')
    return c.json(toErrorBody(apiError), apiError.status)
  })
  registerRoutes(hono, traceHandlers({ observability: observed, canSignIn: false }))
  return hono
}

beforeAll(async () => {
  observability = testObservability()
  const good = await play(observability, 'formatting', { rag: true, input: { keyId: 'alice' } })
  good.trace.finish({ ending: 'success', status: 200 })
  traceId = good.trace.traceId
  const failed = await play(observability, 'decoding', { input: { keyId: 'bob', route: '/v1/chat/completions' } })
  failed.trace.finish({ ending: 'engine_error', status: 500 })
  failed.finishEngine('error')
  failedId = failed.trace.traceId
})
afterAll(() => observability.shutdown(100))
afterEach(() => {
  vi.unstubAllEnvs()
  vi.useRealTimers()
})

const listed = async (query: string, caller?: Parameters<typeof app>[0]) => {
  const response = await app(caller).request(`/v1/traces${query}`)
  return ((await response.json()) as { traces: { trace_id: string }[] }).traces.map((trace) => trace.trace_id)
}

describe('/v1/traces', () => {
  const admin = { keyId: 'root', isAdmin: true }

  it('lists what the caller made, newest first, and everything to the admin key', async () => {
    expect(await listed('')).toEqual([traceId])
    expect(await listed('', admin)).toEqual([failedId, traceId])
    expect(await listed('', { keyId: 'carol', isAdmin: false })).toEqual([])
  })

  it.each([
    ['?status=error', ['failed']],
    ['?status=5xx', ['failed']],
    ['?status=200', ['good']],
    ['?status=ok', ['good']],
    ['?route=/v1/completions', ['good']],
    ['?min_ms=100000', []],
    ['?since=2000-01-01T00:00:00Z&limit=1', ['failed']],
    ['?since=4102444800000', []],
    ['?tokens_out=4', ['failed', 'good']],
    ['?tokens_out=0', []],
    ['?status=&route=&min_ms=', ['failed', 'good']],
  ])('filters %s', async (query, expected) => {
    const ids = await listed(query, admin)
    expect(ids.map((id) => (id === traceId ? 'good' : 'failed'))).toEqual(expected)
  })

  it.each([
    ['?limit=-1', 'limit'],
    ['?limit=2000', 'limit'],
    ['?tokens_out=1.5', 'tokens_out'],
    ['?status=fine', 'status'],
    ['?since=yesterday', 'since'],
    ['?min_ms=slow', 'min_ms'],
  ])('refuses %s naming the field', async (query, param) => {
    const response = await app().request(`/v1/traces${query}`)
    expect(response.status).toBe(400)
    const { error } = (await response.json()) as ReturnType<typeof toErrorBody>
    expect(error.param).toBe(param)
    expect(error.message).toMatch(new RegExp(`^${param}: expected [a-z]`))
    expect(error.message).not.toMatch(/NaN|Invalid|Too/)
  })

  it.each(TRACE_FORMATS)('gives a trace as %s, which reads back', async (format) => {
    const response = await app().request(`/v1/traces/${traceId}?format=${format}`)
    const spans = parseTraces(await response.json()).resourceSpans.flatMap((r) => r.scopeSpans.flatMap((s) => s.spans))
    expect(spans).toHaveLength(9)
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]))
  })

  it('hides the traces of others, and says what a missing one may be', async () => {
    for (const id of [failedId, '0'.repeat(32)]) {
      const response = await app().request(`/v1/traces/${id}`)
      expect(response.status).toBe(404)
      expect(await response.json()).toMatchObject({ error: { code: 'trace_not_found' } })
    }
  })

  it('waits for a trace while a request of the caller runs', async () => {
    const own = testObservability()
    const { trace } = await play(own, 'formatting', { input: { keyId: 'alice' } })
    const path = `/v1/traces/${trace.traceId}?wait=60`
    const answers = [path, `/v1/traces/${trace.traceId}/validate?wait=60`].map((one) =>
      app(undefined, own).request(one),
    )
    expect((await app({ keyId: 'bob', isAdmin: false }, own).request(path)).status).toBe(404)
    const gone = new AbortController()
    const unheard = app(admin, own).request(path, { signal: gone.signal })
    gone.abort()
    expect((await unheard).status).toBe(404)
    expect((await unheard).headers.get('x-miniserve-warning')).toMatch(/still ran/)
    trace.finish({ ending: 'success', status: 200 })
    for (const answer of answers) {
      expect((await answer).status).toBe(200)
      expect((await answer).headers.get('x-miniserve-warning')).toBeNull()
    }
    // Nothing runs: there is nothing to wait for.
    expect((await app(undefined, own).request(`/v1/traces/${'e'.repeat(32)}?wait=60`)).status).toBe(404)
    await own.shutdown(100)
  })

  it('refuses a parameter before it waits', async () => {
    const own = testObservability()
    const { trace } = await play(own, 'decoding', { input: { keyId: 'alice' } })
    for (const query of ['?wait=60&format=pdf', '?wait=60&page=0', '/validate?wait=60&level=all'])
      expect((await app(undefined, own).request(`/v1/traces/${trace.traceId}${query}`)).status).toBe(400)
    await own.shutdown(100)
  })

  it('may wait for longer than a request may be silent', async () => {
    vi.useFakeTimers()
    const own = testObservability({ leakAfterMs: 100 })
    const { trace, finishEngine } = await play(own, 'decoding', { input: { keyId: 'alice' } })
    const answer = app(undefined, own).request(`/v1/traces/${trace.traceId}?wait=60`)
    for (let i = 0; i < 10; i++) {
      vi.advanceTimersByTime(50)
      trace.activity.touch()
    }
    trace.finish({ ending: 'success', status: 200 })
    finishEngine('stop')
    expect((await answer).status).toBe(200)
    expect(own.lines.filter(({ msg }) => msg === 'trace.leak')).toEqual([])
    await own.shutdown(100)
  })

  it.each(['-1', '61', '1.5', 'long'])('refuses to wait for %s seconds', async (wait) => {
    const response = await app().request(`/v1/traces/${traceId}?wait=${wait}`)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'wait' } })
  })

  it('holds a stored trace against the contract', async () => {
    const response = await app().request(`/v1/traces/${traceId}/validate`)
    expect(await response.json()).toEqual({ trace_id: traceId, level: 'contract', ok: true, breaches: [] })
    expect((await app().request(`/v1/traces/${traceId}/validate?level=all`)).status).toBe(400)
  })
})

describe('/traces', () => {
  it('serves pages that need no inline script or style', async () => {
    for (const path of ['/traces', `/traces/${traceId}`]) {
      const response = await app().request(path)
      expect(response.status).toBe(200)
      expect(response.headers.get('content-security-policy')).toContain("default-src 'none'")
      const body = await response.text()
      expect(body).toMatch(/^<!DOCTYPE html><html lang="en">/)
      expect(body).not.toMatch(/\sstyle=|\son[a-z]+=|<script>|<style>/)
    }
  })

  it('serves its assets and no others', async () => {
    expect((await app().request('/traces/assets/traces.css')).headers.get('content-type')).toContain('text/css')
    expect((await app().request('/traces/assets/..%2f..%2ftraces.ts')).status).toBe(404)
  })
})

describe('the page of a conversation', () => {
  it('is shown without what a limit on attribute lengths has cut', async () => {
    vi.stubEnv('OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT', '80')
    const limited = testObservability({ captureContent: true })
    const { trace } = await play(limited, 'formatting', { input: { keyId: 'alice' } })
    trace.setConversation('tea')
    const said = (content: string) => [{ role: 'user', parts: [{ type: 'text', content }] }] as const
    trace.setContent({ input: said('Which tea is green?'.repeat(20)), output: said('Sencha.') })
    trace.finish({ ending: 'success', status: 200 })
    const response = await app({ keyId: 'alice', isAdmin: false }, limited).request('/traces?conversation=tea')
    const page = await response.text()
    await limited.shutdown(100)
    expect(response.status).toBe(200)
    expect(page).toContain('Sencha.')
    expect(page).not.toContain('Which tea')
  })
})

describe('a trace of many requests', () => {
  const shared = 'f'.repeat(32)
  const headers = { traceparent: `00-${shared}-2222222222222222-01` }
  beforeAll(async () => {
    for (let i = 0; i < 130; i++) {
      const { trace } = await play(observability, 'opened', { input: { keyId: 'batch', headers } })
      trace.finish({ ending: 'validation', status: 400 })
    }
  })
  const get = (path: string) => app({ keyId: 'batch', isAdmin: false }).request(path)

  it('is shown page by page', async () => {
    const seen = new Set<string>()
    for (let page = 1; page <= 7; page++) {
      const text = await (await get(`/traces/${shared}?page=${page}`)).text()
      expect(text).toContain(`Page ${page} of 7`)
      const articles = text.match(/<article class="tree">/g) ?? []
      expect(articles.length).toBe(page < 7 ? 20 : 10)
      seen.add(text)
    }
    expect(seen.size).toBe(7)
  })

  it('is given in pages as JSON, which the answer says', async () => {
    for (const path of [`/v1/traces/${shared}`, `/v1/traces/${shared}/validate`]) {
      const response = await get(path)
      expect(response.headers.get('x-miniserve-warning')).toMatch(/^page 1 of 2: /)
      expect((await get(`${path}?page=2`)).status).toBe(200)
    }
    for (const page of ['0', '3', '-1', 'x', '1e9'])
      expect((await get(`/v1/traces/${shared}?page=${page}`)).status, page).toBe(400)
    const one = await app().request(`/v1/traces/${traceId}`)
    expect(one.headers.get('x-miniserve-warning')).toBeNull()
  })
})
