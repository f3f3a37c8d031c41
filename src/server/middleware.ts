/** What happens to every request around its handler: trace and ids, CORS, keys, admission, error responses. */
import { randomBytes } from 'node:crypto'
import type { Context, MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import type { Observability } from '../observability/observability.ts'
import type { EventLoopWatch } from '../observability/event-loop-watch.ts'
import type { Admission } from './admission.ts'
import { isExpecting } from './body.ts'
import { addressOf, type AppEnv, bindingsOf, onceAnswered } from './env.ts'
import { ApiError, endingOf, endingOfStatus, invalidRequest, toApiError, toErrorBody } from './errors.ts'
import type { FailedAttempts } from './failed-attempts.ts'
import { toMessagesErrorBody } from './messages/shape.ts'
import type { RateLimits } from './rate-limits.ts'
import type { Caller, Keys } from './keys.ts'
import { routeOf } from './router.ts'
import { patternOf } from './routes.ts'
import { sessionOf, signInFirst } from './session.ts'
import { WARNING_HEADER } from './warnings.ts'

const CALLER_REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/

/** Opens the request's trace before its body is read, and sets the id headers. Closes the trace unless the response is a stream. */
export function requestTrace(
  observability: Observability,
  watch: EventLoopWatch | null = null,
): MiddlewareHandler<AppEnv> {
  return async function requestTrace(c, next) {
    const row = routeOf(c)
    const route = row ? patternOf(row) : '*'
    const requestId = `${row?.idPrefix ?? 'req'}-${randomBytes(12).toString('hex')}`
    const givenId = c.req.header('x-request-id')
    const callerId = givenId !== undefined && CALLER_REQUEST_ID.test(givenId) ? givenId : null
    const url = new URL(c.req.url)
    const trace = observability.openRequest({
      method: c.req.method,
      route,
      path: url.pathname,
      scheme: url.protocol.slice(0, -1),
      host: url.hostname,
      port: Number(url.port) || (url.protocol === 'https:' ? 443 : 80),
      headers: { traceparent: c.req.header('traceparent'), tracestate: c.req.header('tracestate') },
      requestId,
      callerId,
      kind: row?.kind ?? 'other',
      isProbe: row?.tag === 'Server' || row?.tag === 'Pages',
    })
    trace.setConversation(c.req.header('x-conversation-id') ?? c.req.header('x-session-id'))
    c.set('route', row)
    c.set('trace', trace)
    c.set('requestId', requestId)
    c.set('isStreaming', false)
    c.set('atWork', () => watch?.enter(route))
    c.get('atWork')?.()
    await trace.run(next)
    c.get('place')?.release()
    // The client may or may not send the body now, so the start of the next request is unknown.
    if (isExpecting(c) && !c.get('isBodyInvited')) c.res.headers.set('Connection', 'close')
    c.res.headers.set('X-Trace-Id', trace.traceId)
    c.res.headers.set('X-Request-Id', callerId ?? requestId)
    const traceresponse = trace.traceresponse()
    if (traceresponse) c.res.headers.set('traceresponse', traceresponse)
    if (c.get('isStreaming') && !c.error) return
    const timing = trace.serverTiming()
    if (timing) c.res.headers.set('Server-Timing', timing)
    // The client has gone, so nobody gets the response.
    if (c.req.raw.signal.aborted) trace.finish({ ending: 'client_disconnect', status: null, error: c.error })
    else if (c.error) trace.finish({ ...endingOf(c.error), status: c.res.status })
    // A handler may return an error status without throwing, such as /ready while loading.
    else trace.finish({ ending: endingOfStatus(c.res.status), status: c.res.status })
  }
}

/** The response for a thrown error. Registered as app.onError. */
export function renderError(error: unknown, c: Context<AppEnv>): Response {
  const trace = c.get('trace')
  const apiError = toApiError(error, trace.traceId)
  const headers: Record<string, string> = { ...apiError.headers }
  const { retryAfter } = apiError.failure
  // An error's own Retry-After is more precise than that of FAILURES.
  if (retryAfter !== undefined) headers['Retry-After'] ??= String(retryAfter)
  // OpenAI's clients retry 5xx. A request that failed in the engine or ran out of time would do so again.
  if (apiError.status === 500 || apiError.status === 504) headers['x-should-retry'] = 'false'
  // The rest of the body may still arrive.
  if (apiError.status === 408) headers['Connection'] = 'close'
  if (apiError.status === 401) headers['WWW-Authenticate'] = 'Bearer'
  const body =
    c.get('route')?.errors === 'anthropic' ? toMessagesErrorBody(apiError, c.get('requestId')) : toErrorBody(apiError)
  return c.json(body, apiError.status, headers)
}

/** Limits the unanswered requests of one connection. */
export function limitConnection(admission: Admission): MiddlewareHandler<AppEnv> {
  return async function limitConnection(c, next) {
    const { incoming, outgoing } = bindingsOf(c)
    if (incoming && outgoing) onceAnswered(c, admission.enterConnection(incoming.socket))
    return next()
  }
}

/** Refuses dot segments. Proxies may resolve them, and would then apply their rules to another path than this server. */
export const refuseDotSegments: MiddlewareHandler<AppEnv> = async function refuseDotSegments(c, next) {
  const target = bindingsOf(c).incoming?.url ?? ''
  const path = target.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, '').replace(/[?#].*$/s, '')
  if (path.split(/[/\\]/).some((segment) => /^(?:\.|%2e){1,2}$/i.test(segment))) {
    throw invalidRequest("the request's path: expected no segment of dots (. or ..), found one")
  }
  await next()
}

/** If keys are set, every route that is not open requires one. On pages a browser session replaces it. */
export function requireKey(keys: Keys, failures: FailedAttempts): MiddlewareHandler<AppEnv> {
  return async function requireKey(c, next) {
    const caller = sessionOf(c, keys) ?? keys.authenticate(c.req.header('authorization'), c.req.header('x-api-key'))
    if (!caller && c.get('route')?.openTo === undefined) {
      const page = await signInFirst(c)
      if (page) return page
      const hasKey = c.req.header('authorization') !== undefined || c.req.header('x-api-key') !== undefined
      if (hasKey) {
        const address = addressOf(c)
        failures.requireFew(address)
        // Only the first attempts are logged: a line for each of thousands would flood the log.
        c.get('trace').log.warn('key.refused', { address, attempts: failures.add(address) })
      }
      throw new ApiError('invalid_api_key', 'expected a known API key in Authorization: Bearer or X-Api-Key')
    }
    if (caller) {
      c.set('caller', caller)
      c.get('trace').keyId = caller.keyId
    }
    return next()
  }
}

/** CORS headers for the allowed origins. Without them, browsers block pages of other origins. */
export function allowOrigins(origins: readonly string[]): MiddlewareHandler {
  return cors({
    origin: origins.includes('*') ? '*' : [...origins],
    allowMethods: ['GET', 'POST', 'DELETE', 'OPTIONS'],
    exposeHeaders: ['X-Trace-Id', 'X-Request-Id', WARNING_HEADER, 'traceresponse', 'Server-Timing', 'Retry-After'],
    maxAge: 600,
  })
}

/** Applies the limits of a key to its requests that use a model, from before the body is read until the response is sent. */
export function limitKey(limits: RateLimits): MiddlewareHandler<AppEnv> {
  return async function limitKey(c, next) {
    const caller: Caller | undefined = c.get('caller')
    if (!caller?.limits || c.get('route')?.pool === undefined) return next()
    const allowance = limits.enter(caller.keyId, caller.limits)
    c.set('charge', allowance.charge)
    const { outgoing } = bindingsOf(c)
    // A stream continues after the handler has returned.
    outgoing?.once('close', allowance.leave)
    try {
      await next()
    } finally {
      if (!outgoing) allowance.leave()
    }
    for (const [name, value] of Object.entries(allowance.headers)) c.res.headers.set(name, value)
  }
}

/**
 * Takes a place before the body is read. The request keeps it until the engine has the request or the tokenizer has answered. Retrieval
 * gives it back when the body is parsed, because its own queues are bounded.
 */
export function admit(admission: Admission): MiddlewareHandler<AppEnv> {
  return async function admit(c, next) {
    const pool = c.get('route')?.pool
    if (pool === undefined) return next()
    const length = c.req.header('content-length')
    c.set('place', admission.admit(pool, length === undefined ? null : Number(length)))
    return next()
  }
}

/** The response to a request whose target and Host do not make a URL. No route gets it, but it has ids and an error body like any other. */
export function refuseMalformed(observability: Observability): Response {
  const requestId = `req-${randomBytes(12).toString('hex')}`
  const trace = observability.openRequest({
    method: '_OTHER',
    route: '*',
    path: '*',
    scheme: 'http',
    host: '',
    port: 0,
    headers: {},
    requestId,
    kind: 'other',
  })
  const error = invalidRequest('expected a request target and a Host header that make a URL, found something else')
  trace.finish({ ...endingOf(error), status: 400 })
  return Response.json(toErrorBody(error), {
    status: 400,
    headers: { 'X-Trace-Id': trace.traceId, 'X-Request-Id': requestId },
  })
}
