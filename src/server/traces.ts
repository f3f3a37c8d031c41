/** The stored traces: /v1/traces for programs, /traces for people. A trace shows to the key that made it and to the admin key. */
import { readFileSync } from 'node:fs'
import type { Context } from 'hono'
import { CONTRACT_LEVELS } from '../observability/contract-spec.ts'
import { spansToOtlp, TRACE_FORMATS, writeTraces } from '../observability/trace-formats.ts'
import type { StoredTrace, TraceStore } from '../observability/trace-store.ts'
import { validateTraces } from '../observability/validate.ts'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest } from './errors.ts'
import type { Handlers } from './routes.ts'
import { parseTraceQuery } from './trace-query.ts'
import { html, visitorOf } from './ui/layout.tsx'
import { levelOf } from './ui/trace-level.ts'
import { TraceListPage } from './ui/trace-list.tsx'
import { TracePage } from './ui/trace-page.tsx'
import { traceView } from './ui/trace-view.ts'

/** What the pages load, by name. */
const ASSETS: Readonly<Record<string, string>> = {
  'traces.css': 'text/css; charset=utf-8',
  'traces.js': 'text/javascript; charset=utf-8',
  'chat.js': 'text/javascript; charset=utf-8',
  'icon.svg': 'image/svg+xml',
}

export interface TraceRouteParts {
  readonly store: TraceStore
  /** There are keys to sign in with. */
  readonly canSignIn: boolean
}

type TraceHandlers = Pick<
  Handlers,
  'listTraces' | 'getTrace' | 'validateTrace' | 'showTraces' | 'showTrace' | 'getAsset'
>

export function traceHandlers({ store, canSignIn }: TraceRouteParts): TraceHandlers {
  const assets = new Map(
    Object.keys(ASSETS).map((name) => [name, readFileSync(new URL(`./ui/static/${name}`, import.meta.url), 'utf8')]),
  )

  const treesOf = (c: Context<AppEnv>): readonly StoredTrace[] => {
    const traceId = (c.req.param('traceId') ?? '').toLowerCase()
    const trees = store.get(traceId, c.get('caller'))
    if (trees.length > 0) return trees
    throw new ApiError(
      'trace_not_found',
      'trace: not stored here (unknown, still running, or pushed out by newer ones)',
    )
  }

  return {
    listTraces: (c) => c.json({ traces: store.list(parseTraceQuery(c.req.query()), c.get('caller')).map(toWire) }),
    getTrace: (c) => {
      const format = TRACE_FORMATS.find((known) => known === (c.req.query('format') ?? 'otlp'))
      if (!format)
        throw invalidRequest(`format: expected one of ${TRACE_FORMATS.join(', ')}, found something else`, 'format')
      return c.json(writeTraces(spansToOtlp(treesOf(c).flatMap((tree) => tree.spans)), format) as object)
    },
    validateTrace: (c) => {
      const trees = treesOf(c)
      const spans = trees.flatMap((tree) => tree.spans)
      const wanted = c.req.query('level')
      const level = wanted === undefined ? levelOf(spans) : CONTRACT_LEVELS.find((known) => known === wanted)
      if (!level)
        throw invalidRequest(`level: expected one of ${CONTRACT_LEVELS.join(', ')}, found something else`, 'level')
      const breaches = validateTraces(spansToOtlp(spans), level)
      return c.json({
        trace_id: trees[0]?.traceId,
        level,
        ok: breaches.length === 0,
        breaches: breaches.map(toWireBreach),
      })
    },
    showTraces: (c) => {
      const traces = store.list(parseTraceQuery(c.req.query()), c.get('caller'))
      const routes = [...new Set(store.list({ limit: 1000 }, c.get('caller')).map((trace) => trace.route))].sort()
      return html(c, TraceListPage({ traces, filter: c.req.query(), routes, visitor: visitorOf(c, canSignIn) }))
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
    showTrace: (c) => html(c, TracePage({ views: treesOf(c).map(traceView), visitor: visitorOf(c, canSignIn) })),
  }
}

const toWire = (trace: StoredTrace) => ({
  trace_id: trace.traceId,
  request_id: trace.requestId,
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

const toWireBreach = (breach: ReturnType<typeof validateTraces>[number]) => ({
  trace_id: breach.traceId,
  span_id: breach.spanId,
  span: breach.span,
  rule: breach.rule,
  message: breach.message,
})
