/** The stored traces: /v1/traces for programs, /traces for people. A trace is visible to the key that made it and to the admin key. */
import { readFileSync } from 'node:fs'
import type { Context } from 'hono'
import { levelOf } from '../observability/contract.ts'
import { CONTRACT_LEVELS } from '../observability/contract/span-spec.ts'
import { spansToOtlp } from '../observability/otlp.ts'
import { TRACE_FORMATS, writeTraces } from '../observability/trace-formats.ts'
import type { StoredTrace } from '../observability/stored-trace.ts'
import type { Observability } from '../observability/observability.ts'
import { validateTraces } from '../observability/validate.ts'
import { endedWithin, untilAborted } from '../promises.ts'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { handlersOf } from './router.ts'
import { MAX_WAIT_SECONDS, parseTraceQuery } from './trace-query.ts'
import { html, visitorOf } from './ui/layout.tsx'
import { choicesOf, TraceListPage } from './ui/trace-list.tsx'
import { TracePage } from './ui/trace-page.tsx'
import { traceView } from './ui/trace-view.ts'
import { WARNING_HEADER } from './warnings.ts'

/** Files that the pages load, with their media types. */
const ASSETS: Readonly<Record<string, string>> = {
  'traces.css': 'text/css; charset=utf-8',
  'traces.js': 'text/javascript; charset=utf-8',
  'chat.js': 'text/javascript; charset=utf-8',
  'icon.svg': 'image/svg+xml',
}

/** Requests of one trace on a page and in a JSON response. Building more at a time would delay other requests. */
const TREES_PER_PAGE = 20
const TREES_PER_ANSWER = 100

interface TraceRouteParts {
  readonly observability: Pick<Observability, 'store' | 'whenStored'>
  /** Whether there are keys to sign in with. */
  readonly canSignIn: boolean
}

/** Handlers of `/v1/traces` and the trace pages. */
export function traceHandlers({ observability, canSignIn }: TraceRouteParts) {
  const { store } = observability
  const assets = new Map(
    Object.keys(ASSETS).map((name) => [name, readFileSync(new URL(`./ui/static/${name}`, import.meta.url), 'utf8')]),
  )

  const traceIdOf = (c: Context<AppEnv>): string => (c.req.param('traceId') ?? '').toLowerCase()

  /** Waits for the requests of the trace that still run, as long as the `wait` parameter says. */
  const waitForTrace = async (c: Context<AppEnv>): Promise<void> => {
    const asked = c.req.query('wait') ?? '0'
    const seconds = /^\d{1,3}$/.test(asked) ? Number(asked) : Infinity
    if (seconds > MAX_WAIT_SECONDS)
      throw invalidRequest(`wait: expected whole seconds, 0 to ${MAX_WAIT_SECONDS}, found something else`, 'wait')
    const stored = seconds > 0 ? observability.whenStored(traceIdOf(c), c.get('caller')) : null
    if (stored) await endedWithin(seconds * 1000, untilAborted(stored, c.req.raw.signal))
  }

  /** A page of the trees of a trace, counted from 1. It has one tree for each request with its trace id. */
  const treesOf = (c: Context<AppEnv>, perPage: number) => {
    const trees = store.get(traceIdOf(c), c.get('caller'))
    if (trees.length === 0) {
      throw new ApiError(
        'trace_not_found',
        'trace: not stored here (unknown, still running, or dropped for newer ones)',
      )
    }
    const numPages = Math.ceil(trees.length / perPage)
    const asked = c.req.query('page') ?? '1'
    const page = /^\d{1,9}$/.test(asked) ? Number(asked) : 0
    if (page < 1 || page > numPages)
      throw invalidRequest(`page: expected a page from 1 to ${numPages}, found another`, 'page')
    return { trees: trees.slice((page - 1) * perPage, page * perPage), page, numPages }
  }

  /** The spans of a page of trees. A warning reports that there are more pages. */
  const spansOf = async (c: Context<AppEnv>) => {
    await waitForTrace(c)
    const { trees, page, numPages } = treesOf(c, TREES_PER_ANSWER)
    if (numPages > 1) {
      const text = `page ${page} of ${numPages}: the trace has more requests than one response shows; use ?page= for the others`
      c.header(WARNING_HEADER, text)
    }
    return trees.flatMap((tree) => tree.spans)
  }

  return handlersOf({
    listTraces: (c) => c.json({ traces: store.list(parseTraceQuery(c.req.query()), c.get('caller')).map(toWire) }),
    getTrace: async (c) => {
      const format = TRACE_FORMATS.find((known) => known === (c.req.query('format') ?? 'otlp'))
      if (!format)
        throw invalidRequest(`format: expected one of ${TRACE_FORMATS.join(', ')}, found something else`, 'format')
      return c.json(writeTraces(spansToOtlp(await spansOf(c)), format) as object)
    },
    validateTrace: async (c) => {
      const spans = await spansOf(c)
      const wanted = c.req.query('level')
      const level =
        wanted === undefined
          ? levelOf(spans.map(({ name }) => name))
          : CONTRACT_LEVELS.find((known) => known === wanted)
      if (!level)
        throw invalidRequest(`level: expected one of ${CONTRACT_LEVELS.join(', ')}, found something else`, 'level')
      const breaches = validateTraces(spansToOtlp(spans), level)
      return c.json({
        trace_id: spans[0]?.spanContext().traceId,
        level,
        ok: breaches.length === 0,
        breaches: breaches.map(({ traceId, spanId, ...breach }) => ({ trace_id: traceId, span_id: spanId, ...breach })),
      })
    },
    showTraces: (c) => {
      const caller = c.get('caller')
      const query = parseTraceQuery(c.req.query())
      const found = store.list(query, caller)
      // A conversation is shown from its beginning.
      const traces = query.conversation === undefined ? found : found.toReversed()
      const choices = choicesOf(store.list({ limit: 1000 }, caller))
      return html(c, TraceListPage({ traces, filter: c.req.query(), choices, visitor: visitorOf(c, canSignIn) }))
    },
    getAsset: (c) => {
      const name = c.req.param('name') ?? ''
      const body = assets.get(name)
      if (body === undefined) throw new ApiError('not_found', 'no such asset')
      return c.body(body, 200, {
        'content-type': ASSETS[name] ?? 'application/octet-stream',
        'cache-control': 'no-cache',
        'x-content-type-options': 'nosniff',
      })
    },
    showTrace: (c) => {
      const { trees, page, numPages } = treesOf(c, TREES_PER_PAGE)
      return html(c, TracePage({ views: trees.map(traceView), page, numPages, visitor: visitorOf(c, canSignIn) }))
    },
  })
}

const toWire = (trace: StoredTrace) => ({
  trace_id: trace.traceId,
  request_id: trace.requestId,
  caller_request_id: trace.callerId ?? null,
  conversation_id: trace.conversationId ?? null,
  key_id: trace.keyId,
  route: trace.route,
  model: trace.model,
  status: trace.status,
  ending: trace.ending,
  is_error: trace.isError,
  start: new Date(trace.startMs).toISOString(),
  duration_ms: Math.round(trace.durationMs * 1000) / 1000,
  ttft_ms: trace.ttftSeconds === null ? null : Math.round(trace.ttftSeconds * 1e6) / 1000,
  tokens_in: trace.tokensIn,
  tokens_out: trace.tokensOut,
  num_spans: trace.spans.length,
  kept_for: trace.keptFor,
})
