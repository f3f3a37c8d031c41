/** The one error class of the HTTP edge and OpenAI's error envelope around it. */
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { EngineError } from '../engine/request.ts'
import type { EndingName } from '../observability/endings.ts'
import { RagError } from '../rag/errors.ts'
import { type ApiErrorType, FAILURES, type Failure, type FailureCode } from './failures.ts'

interface ApiErrorDetails {
  /** The request field at fault. */
  readonly param?: string | null
  readonly cause?: unknown
  /** Headers of the answer besides those that the code itself asks for. */
  readonly headers?: Readonly<Record<string, string>>
}

/** A response with an error status. Messages name fields and types, never a string value of the caller's. */
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

/** 413 for a body of more bytes than the server takes; `found` where its length was declared. */
export const tooLarge = (maxBytes: number, found?: number): ApiError =>
  new ApiError(
    'request_too_large',
    `body: expected at most ${maxBytes} bytes${found === undefined ? '' : `, found ${found}`}`,
  )

/** OpenAI's envelope. */
export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: ApiErrorType
    readonly param: string | null
    /** Stable and machine-readable; null where the message says it all. */
    readonly code: string | null
  }
}

export const toErrorBody = ({ message, failure, param, code }: ApiError): ErrorBody => ({
  error: { message, type: failure.type, param, code: code === 'invalid_request' ? null : code },
})

/** What a thrown value looks like from outside. An unexpected one keeps its message to itself: it may quote the prompt. */
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

/** The row of the table of endings for a request that failed with `error`, and the error itself for exception.type. */
export function endingOf(error: unknown): { readonly ending: EndingName; readonly error: unknown } {
  const isKnown = error instanceof ApiError || error instanceof EngineError || error instanceof RagError
  return { ending: isKnown ? FAILURES[error.code].ending : 'exception', error }
}

/** The ending of an answer that a handler gave without throwing. */
export function endingOfStatus(status: number): EndingName {
  if (status < 400) return 'success'
  if (status === 401 || status === 403) return 'unauthorized'
  if (status === 429) return 'refused'
  if (status === 503) return 'unavailable'
  return status < 500 ? 'validation' : 'exception'
}
