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
const MAX_PAGE = 1_000_000

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

  /** A page of the trees of a trace, counted from 1. It has one tree for each request with its trace id. */
  const treesOf = (c: Context<AppEnv>, page: number, perPage: number) => {
    const trees = store.get(traceIdOf(c), c.get('caller'))
    if (trees.length === 0) {
      throw new ApiError(
        'trace_not_found',
        'trace: not stored here (unknown, still running, or dropped for newer ones)',
      )
    }
    const numPages = Math.ceil(trees.length / perPage)
    if (page > numPages) throw invalidRequest(`page: expected a page from 1 to ${numPages}, found a later one`, 'page')
    return { trees: trees.slice((page - 1) * perPage, page * perPage), numPages }
  }

  /** Lets the requests of the trace that still run end first, within `seconds`. A warning reports those that run on. */
  const waitForTrace = async (c: Context<AppEnv>, seconds: number): Promise<void> => {
    if (seconds === 0) return
    const signal = AbortSignal.any([c.req.raw.signal, AbortSignal.timeout(seconds * 1000)])
    const areStored = await observability.whenStored(c.get('trace'), traceIdOf(c), c.get('caller'), signal)
    if (areStored) return
    const text = `requests of this trace still ran after ${seconds} s: their spans are missing`
    c.header(WARNING_HEADER, text, { append: true })
  }

  /** The spans of a page of trees, after the wait that the request asked for. A warning reports that there are more pages. */
  const spansOf = async (c: Context<AppEnv>) => {
    const page = numberOf(c, 'page', 1, MAX_PAGE) ?? 1
    await waitForTrace(c, numberOf(c, 'wait', 0, MAX_WAIT_SECONDS) ?? 0)
    const { trees, numPages } = treesOf(c, page, TREES_PER_ANSWER)
    if (numPages > 1) {
      const text = `page ${page} of ${numPages}: the trace has more requests than one response shows; use ?page= for the others`
      c.header(WARNING_HEADER, text, { append: true })
    }
    return trees.flatMap((tree) => tree.spans)
  }

  return handlersOf({
    listTraces: (c) => c.json({ traces: store.list(parseTraceQuery(c.req.query()), c.get('caller')).map(toWire) }),
    getTrace: async (c) => {
      const format = oneOf(c, 'format', TRACE_FORMATS) ?? 'otlp'
      return c.json(writeTraces(spansToOtlp(await spansOf(c)), format) as object)
    },
    validateTrace: async (c) => {
      const asked = oneOf(c, 'level', CONTRACT_LEVELS)
      const spans = await spansOf(c)
      const level = asked ?? levelOf(spans.map(({ name }) => name))
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
      const page = numberOf(c, 'page', 1, MAX_PAGE) ?? 1
      const { trees, numPages } = treesOf(c, page, TREES_PER_PAGE)
      return html(c, TracePage({ views: trees.map(traceView), page, numPages, visitor: visitorOf(c, canSignIn) }))
    },
  })
}

/** A query parameter that is a whole number; null: not sent. @throws ApiError 400 */
function numberOf(c: Context<AppEnv>, name: string, min: number, max: number): number | null {
  const text = c.req.query(name)
  if (text === undefined) return null
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN
  if (value >= min && value <= max) return value
  throw invalidRequest(`${name}: expected a whole number from ${min} to ${max}, found something else`, name)
}

/** A query parameter that is one of some words; null: not sent. @throws ApiError 400 */
function oneOf<T extends string>(c: Context<AppEnv>, name: string, words: readonly T[]): T | null {
  const text = c.req.query(name)
  if (text === undefined) return null
  const found = words.find((word) => word === text)
  if (found !== undefined) return found
  throw invalidRequest(`${name}: expected one of ${words.join(', ')}, found something else`, name)
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
