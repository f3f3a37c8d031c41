/** What happens to every request before and after its handler: trace and ids, CORS, keys, admission, the error envelope. */
import { randomBytes } from 'node:crypto'
import type { Context, MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import type { Observability } from '../observability/observability.ts'
import type { Admission } from './admission.ts'
import { endingOf } from './endings.ts'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest, toApiError, toErrorBody } from './errors.ts'
import type { Keys } from './keys.ts'
import { routeOf } from './routes.ts'

/** A body must make progress within the first and be whole within the second, with a second more for each MiB it may have. */
const BODY_IDLE_MS = 10_000
const BODY_TOTAL_MS = 30_000

/** Nesting of a body. Recursive code runs over parsed values; past the stack's end it would fail with the server's error. */
const MAX_JSON_DEPTH = 128

const CALLER_REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/

/** Opens the request's trace before its body is read, puts the ids on the response, and closes the trace of what is not a stream. */
export function requestTrace(observability: Observability): MiddlewareHandler<AppEnv> {
  return async function requestTrace(c, next) {
    const { route, kind, idPrefix } = routeOf(c.req.method, c.req.path)
    const requestId = `${idPrefix}-${randomBytes(12).toString('hex')}`
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
      kind,
    })
    const callerId = c.req.header('x-request-id')
    c.set('trace', trace)
    c.set('requestId', requestId)
    c.set('admitted', () => {})
    c.set('isStreaming', false)
    await trace.run(next)
    c.get('admitted')()
    c.res.headers.set('X-Trace-Id', trace.traceId)
    c.res.headers.set('X-Request-Id', callerId && CALLER_REQUEST_ID.test(callerId) ? callerId : requestId)
    const traceresponse = trace.traceresponse()
    if (traceresponse) c.res.headers.set('traceresponse', traceresponse)
    if (c.get('isStreaming') && !c.error) return
    const timing = trace.serverTiming()
    if (timing) c.res.headers.set('Server-Timing', timing)
    // Whatever the handler came to: there is nobody to send it to.
    if (c.req.raw.signal.aborted) trace.finish({ ending: 'client_disconnect', status: null, error: c.error })
    else if (c.error) trace.finish({ ...endingOf(c.error), status: c.res.status })
    else trace.finish(endingOfResponse(c.res.status))
  }
}

/** Handlers that answer an error status without throwing (404 of an unknown route) end by their status. */
const endingOfResponse = (status: number) =>
  status < 400
    ? ({ ending: 'success', status } as const)
    : ({ ending: status < 500 ? 'validation' : 'exception', status } as const)

/** Renders what handlers throw. Registered as app.onError. */
export function renderError(error: unknown, c: Context<AppEnv>): Response {
  const trace = c.get('trace')
  const apiError = toApiError(error, trace.traceId)
  const headers: Record<string, string> = {}
  if (apiError.retryAfter !== null) headers['Retry-After'] = String(apiError.retryAfter)
  // OpenAI's clients retry 5xx: what failed in the engine or ran out of time would only fail, or wait, again.
  if (apiError.status === 500 || apiError.status === 504) headers['x-should-retry'] = 'false'
  // The rest of the body may still come.
  if (apiError.status === 408) headers['Connection'] = 'close'
  if (apiError.status === 401) headers['WWW-Authenticate'] = 'Bearer'
  return c.json(toErrorBody(apiError), apiError.status, headers)
}

const OPEN_ROUTES = new Set(['/health', '/ready'])

/** Every route but /health and /ready needs a key once keys are set. */
export function requireKey(keys: Keys): MiddlewareHandler<AppEnv> {
  return async function requireKey(c, next) {
    const caller = keys.authenticate(c.req.header('authorization'), c.req.header('x-api-key'))
    if (!caller && !OPEN_ROUTES.has(c.req.path)) {
      throw new ApiError(
        401,
        'authentication_error',
        'expected a known API key in Authorization: Bearer or X-Api-Key',
        {
          code: 'invalid_api_key',
        },
      )
    }
    if (caller) {
      c.set('caller', caller)
      c.get('trace').setKeyId(caller.keyId)
    }
    await next()
  }
}

/** CORS for the origins that were allowed; with none, browsers stay out. */
export function allowOrigins(origins: readonly string[]): MiddlewareHandler {
  return cors({
    origin: origins.includes('*') ? '*' : [...origins],
    allowMethods: ['GET', 'POST', 'DELETE', 'OPTIONS'],
    exposeHeaders: ['X-Trace-Id', 'X-Request-Id', 'traceresponse', 'Server-Timing', 'Retry-After'],
    maxAge: 600,
  })
}

/**
 * Takes a place in the queue before the body is read, held until the handler gives it back ('submitted') or, where work does not pass
 * the engine's queue, until the body is parsed.
 */
export function admit(admission: Admission, heldUntil: 'submitted' | 'parsed'): MiddlewareHandler<AppEnv> {
  return async function admit(c, next) {
    const length = c.req.header('content-length')
    const place = admission.admit(length === undefined ? null : Number(length))
    c.set('admitted', place.release)
    c.set('bodyReading', { arrived: place.arrived, parsed: heldUntil === 'parsed' ? place.release : () => {} })
    await next()
  }
}

/**
 * The request's body as JSON, read with a bound (a chunked body has no Content-Length to refuse it by) and within a time.
 * @throws ApiError 400, 408, 413, 429, and 499 when the client went away.
 */
export async function readJson(c: Context<AppEnv>, maxBytes: number): Promise<unknown> {
  const reading = c.get('bodyReading')
  const bytes = await readBody(c.req.raw.body, maxBytes, (numBytes) => reading?.arrived(numBytes))
  if (bytes.length === 0) throw invalidRequest('body: expected a JSON object, found nothing')
  requireFlat(bytes)
  const value = parseJson(bytes)
  reading?.parsed()
  return value
}

async function readBody(
  body: ReadableStream<Uint8Array> | null,
  maxBytes: number,
  onArrival: (numBytes: number) => void,
): Promise<Buffer> {
  if (!body) return Buffer.alloc(0)
  const chunks: Uint8Array[] = []
  const endMs = performance.now() + BODY_TOTAL_MS + (maxBytes / 2 ** 20) * 1000
  let numBytes = 0
  const reader = body.getReader()
  try {
    for (;;) {
      const { done, value } = await readChunk(reader, Math.min(BODY_IDLE_MS, endMs - performance.now()))
      if (done) return Buffer.concat(chunks)
      numBytes += value.byteLength
      if (numBytes > maxBytes) {
        throw new ApiError(413, 'invalid_request_error', `body: expected at most ${maxBytes} bytes`, {
          code: 'request_too_large',
        })
      }
      onArrival(value.byteLength)
      chunks.push(value)
    }
  } catch (error) {
    // What is left is of no use. A stream that broke, or a read that never ends, has nothing to say to it.
    reader.cancel().catch(() => {})
    throw error
  }
}

/** @throws ApiError 408 after `timeoutMs`, 499 when the stream breaks: only a client that went away breaks it. */
async function readChunk(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  timeoutMs: number,
): Promise<Awaited<ReturnType<typeof reader.read>>> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new ApiError(408, 'invalid_request_error', 'body: expected the rest of it in time, found no end', {
            code: 'request_timeout',
          }),
        ),
      Math.max(timeoutMs, 0),
    )
  })
  const chunk = reader.read().catch((error: unknown) => {
    throw new ApiError(499 as 500, 'server_error', 'the client went away', { code: 'client_disconnect', cause: error })
  })
  try {
    return await Promise.race([chunk, late])
  } finally {
    clearTimeout(timer)
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    // The parser's message quotes the body.
    const position = /position (\d+)/.exec(String(error))?.[1]
    throw invalidRequest(`body: expected JSON, found something else${position ? ` at byte ${position}` : ''}`)
  }
}

const [QUOTE, BACKSLASH, OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]

/** @throws ApiError 400 when JSON text nests deeper than it may. */
function requireFlat(bytes: Buffer): void {
  let depth = 0
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]
    if (byte === QUOTE) i = endOfString(bytes, i)
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) depth--
    else if ((byte === OPEN_ARRAY || byte === OPEN_OBJECT) && ++depth > MAX_JSON_DEPTH) {
      throw invalidRequest(`body: expected at most ${MAX_JSON_DEPTH} levels of nesting, found more`)
    }
  }
}

/** The place of the closing quote; the end of the bytes where there is none. */
function endOfString(bytes: Buffer, start: number): number {
  for (let end = bytes.indexOf(QUOTE, start + 1); end !== -1; end = bytes.indexOf(QUOTE, end + 1)) {
    let first = end
    while (bytes[first - 1] === BACKSLASH) first--
    if ((end - first) % 2 === 0) return end
  }
  return bytes.length
}

/** The answer to a request whose target or Host is not a URL: no route can see it, ids and the envelope it has all the same. */
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
