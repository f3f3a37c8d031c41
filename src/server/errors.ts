/** The error class of the HTTP edge, OpenAI's error envelope, and how errors are told from clients that went away. */
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { EngineError } from '../engine/request.ts'
import type { EndingName } from '../observability/endings.ts'
import { RagError } from '../rag/errors.ts'
import { FAILURES, type Failure, type FailureCode } from './failures.ts'

interface ApiErrorDetails {
  /** The request field at fault. */
  readonly param?: string | null
  readonly cause?: unknown
  /** Headers of the response besides those of the code's row in FAILURES. */
  readonly headers?: Readonly<Record<string, string>>
}

/** An error response. Its message names fields and types, and never quotes a string of the caller. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly code: FailureCode
  readonly param: string | null
  readonly headers: Readonly<Record<string, string>>

  constructor(code: FailureCode, message: string, details: ApiErrorDetails = {}) {
    super(message, { cause: details.cause })
    this.code = code
    this.param = details.param ?? null
    this.headers = details.headers ?? {}
  }

  get failure(): Failure {
    return FAILURES[this.code]
  }

  get status(): ContentfulStatusCode {
    return this.failure.status
  }
}

/** 400 for a field that cannot be used. */
export const invalidRequest = (
  message: string,
  param: string | null = null,
  code: FailureCode = 'invalid_request',
): ApiError => new ApiError(code, message, { param })

/** 404 for a model that is not served. `hint`: which ones are. */
export const modelNotFound = (hint: string): ApiError =>
  new ApiError('model_not_found', `model: not served here; ${hint}`, { param: 'model' })

/** 413 for a body that is too long. `found`: its declared length, if there was one. */
export const tooLarge = (maxBytes: number, found?: number): ApiError =>
  new ApiError(
    'request_too_large',
    `body: expected at most ${maxBytes} bytes${found === undefined ? '' : `, found ${found}`}`,
  )

/** OpenAI's envelope. `code` is stable and machine-readable; null for invalid_request. */
export const toErrorBody = ({ message, failure, param, code }: ApiError) => ({
  error: { message, type: failure.type, param, code: code === 'invalid_request' ? null : code },
})

/** The error response for a thrown value. The message of an unexpected error is not shown, because it may quote the prompt. */
export function toApiError(error: unknown, traceId: string): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof EngineError || error instanceof RagError) {
    const { status, shown = error.message } = FAILURES[error.code]
    const message = status >= 500 ? `${shown} (trace ${traceId})` : shown
    const seconds = error instanceof EngineError ? error.retryAfterSeconds : null
    return new ApiError(error.code, message, {
      param: error.param,
      cause: error,
      ...(seconds === null ? {} : { headers: { 'Retry-After': String(seconds) } }),
    })
  }
  return new ApiError('internal_error', `internal error (trace ${traceId})`, { cause: error })
}

/** How a request ends that failed with `error`, together with the error for exception.type. */
export function endingOf(error: unknown): { readonly ending: EndingName; readonly error: unknown } {
  const isKnown = error instanceof ApiError || error instanceof EngineError || error instanceof RagError
  return { ending: isKnown ? FAILURES[error.code].ending : 'exception', error }
}

/** How a request ends whose handler returned a response with this status. */
export function endingOfStatus(status: number): EndingName {
  if (status < 400) return 'success'
  if (status === 401 || status === 403) return 'unauthorized'
  if (status === 429) return 'refused'
  if (status === 503) return 'unavailable'
  return status < 500 ? 'validation' : 'exception'
}

/** Ends the trace as client_disconnect. Nobody reads the response, so its status is nginx's 499. */
export const clientGone = (cause?: unknown): ApiError =>
  new ApiError('client_disconnect', 'the client went away', { cause })

/** Awaits work. If the client has gone, an error ends the trace as client_disconnect and not as an exception. */
export async function unlessGone<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw signal.aborted ? clientGone(error) : error
  }
}

/**
 * Runs work that a generation needs first. The work is aborted when the client has gone or the request's time is over.
 * @param deadlineMs on the clock of performance.now(); null: no deadline
 */
export async function whileWanted<T>(
  deadlineMs: number | null,
  gone: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = deadlineMs === null ? null : AbortSignal.timeout(Math.max(0, Math.ceil(deadlineMs - performance.now())))
  try {
    return await unlessGone(gone, work(late ? AbortSignal.any([gone, late]) : gone))
  } catch (error) {
    if (!late?.aborted || gone.aborted) throw error
    throw new EngineError('deadline', 'the request took longer than its time limit', null, { cause: error })
  }
}
