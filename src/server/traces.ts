/** The stored traces: /v1/traces for programs, /traces for people. A trace shows to the key that made it and to the admin key. */
import { readFileSync } from 'node:fs'
import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { CONTRACT_LEVELS } from '../observability/contract-spec.ts'
import { spansToOtlp, TRACE_FORMATS, writeTraces } from '../observability/trace-formats.ts'
import type { StoredTrace, TraceQuery, TraceStore } from '../observability/trace-store.ts'
import { validateTraces } from '../observability/validate.ts'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { html, visitorOf } from './ui/layout.tsx'
import { levelOf } from './ui/trace-level.ts'
import { TraceListPage } from './ui/trace-list.tsx'
import { TracePage } from './ui/trace-page.tsx'
import { traceView } from './ui/trace-view.ts'

const count = z.coerce.number('a whole number').int('a whole number').min(0, 'a whole number of at least 0')
/** Empty fields of the page's form are fields not set. */
const optional = <T extends z.ZodType>(type: T) =>
  z.preprocess((value) => (value === '' ? undefined : value), type.optional())

const listQuery = z.object({
  status: optional(z.string().regex(/^(ok|error|[1-5]xx|[1-5]\d\d)$/, 'ok, error, a status or a class such as 5xx')),
  route: optional(z.string()),
  min_ms: optional(z.coerce.number('a number').min(0, 'a number of at least 0')),
  since: optional(
    z.string().refine((value) => !Number.isNaN(toEpochMs(value)), 'a time: ISO 8601 or milliseconds since 1970'),
  ),
  tokens_out: optional(count),
  request_id: optional(z.string()),
  limit: optional(count.max(1000, 'at most 1000')),
})

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

export function traceRoutes({ store, canSignIn }: TraceRouteParts): Hono<AppEnv> {
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

  return new Hono<AppEnv>()
    .get('/v1/traces', (c) => c.json({ traces: store.list(parseQuery(c), c.get('caller')).map(toWire) }))
    .get('/v1/traces/:traceId', (c) => {
      const format = TRACE_FORMATS.find((known) => known === (c.req.query('format') ?? 'otlp'))
      if (!format)
        throw invalidRequest(`format: expected one of ${TRACE_FORMATS.join(', ')}, found something else`, 'format')
      return c.json(writeTraces(spansToOtlp(treesOf(c).flatMap((tree) => tree.spans)), format) as object)
    })
    .get('/v1/traces/:traceId/validate', (c) => {
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
    })
    .get('/traces', (c) => {
      const traces = store.list(parseQuery(c), c.get('caller'))
      const routes = [...new Set(store.list({ limit: 1000 }, c.get('caller')).map((trace) => trace.route))].sort()
      return html(c, TraceListPage({ traces, filter: c.req.query(), routes, visitor: visitorOf(c, canSignIn) }))
    })
    .get('/traces/assets/:name', (c) => {
      const name = c.req.param('name')
      const body = assets.get(name)
      if (body === undefined) throw new ApiError('not_found', 'no such asset')
      return c.body(body, 200, {
        'content-type': ASSETS[name] ?? 'application/octet-stream',
        'cache-control': 'no-cache',
        'x-content-type-options': 'nosniff',
      })
    })
    .get('/traces/:traceId', (c) =>
      html(c, TracePage({ views: treesOf(c).map(traceView), visitor: visitorOf(c, canSignIn) })),
    )
}

const toEpochMs = (value: string): number => (/^\d+$/.test(value) ? Number(value) : Date.parse(value))

function parseQuery(c: Context<AppEnv>): TraceQuery {
  const parsed = listQuery.safeParse(c.req.query())
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    const name = String(issue?.path[0] ?? 'query')
    throw invalidRequest(`${name}: expected ${issue?.message ?? 'another value'}, found something else`, name)
  }
  const { min_ms: minMs, tokens_out: tokensOut, request_id: requestId, since, ...rest } = parsed.data
  return {
    ...rest,
    ...(minMs === undefined ? {} : { minMs }),
    ...(tokensOut === undefined ? {} : { tokensOut }),
    ...(requestId === undefined ? {} : { requestId }),
    ...(since === undefined ? {} : { sinceMs: toEpochMs(since) }),
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
