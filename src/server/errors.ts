/** The one error class of the HTTP edge and OpenAI's error envelope around it. */
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { EngineError, type EngineErrorCode } from '../engine/request.ts'
import { RagError } from '../rag/errors.ts'

export type ApiErrorType = 'invalid_request_error' | 'authentication_error' | 'rate_limit_error' | 'server_error'

interface ApiErrorDetails {
  /** The request field at fault. */
  readonly param?: string | null
  /** Stable machine-readable code. */
  readonly code?: string | null
  /** Seconds for Retry-After. */
  readonly retryAfter?: number
  readonly cause?: unknown
}

/** A response with an error status. Messages name fields and types, never a string value of the caller's. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly status: ContentfulStatusCode
  readonly type: ApiErrorType
  readonly param: string | null
  readonly code: string | null
  readonly retryAfter: number | null

  constructor(status: ContentfulStatusCode, type: ApiErrorType, message: string, details: ApiErrorDetails = {}) {
    super(message, { cause: details.cause })
    this.status = status
    this.type = type
    this.param = details.param ?? null
    this.code = details.code ?? null
    this.retryAfter = details.retryAfter ?? null
  }
}

/** 400 for a field that cannot be used. */
export const invalidRequest = (message: string, param: string | null = null, code: string | null = null): ApiError =>
  new ApiError(400, 'invalid_request_error', message, { param, code })

/** OpenAI's envelope. */
export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: ApiErrorType
    readonly param: string | null
    readonly code: string | null
  }
}

export const toErrorBody = (error: ApiError): ErrorBody => ({
  error: { message: error.message, type: error.type, param: error.param, code: error.code },
})

const ENGINE_STATUS: Readonly<Record<EngineErrorCode, readonly [ContentfulStatusCode, ApiErrorType]>> = {
  invalid_request: [400, 'invalid_request_error'],
  context_length_exceeded: [400, 'invalid_request_error'],
  queue_full: [429, 'rate_limit_error'],
  draining: [503, 'server_error'],
  deadline: [504, 'server_error'],
  engine_error: [500, 'server_error'],
  device_lost: [503, 'server_error'],
  upstream_error: [502, 'server_error'],
  upstream_timeout: [504, 'server_error'],
  shutdown: [503, 'server_error'],
}

/** Seconds a refused client should wait before it tries again. */
const RETRY_AFTER_SECONDS = 1

/** What a thrown value looks like from outside. An unexpected one keeps its message to itself: it may quote the prompt. */
export function toApiError(error: unknown, traceId: string): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof EngineError) {
    const [status, type] = ENGINE_STATUS[error.code]
    const message = status >= 500 ? `${error.message} (trace ${traceId})` : error.message
    return new ApiError(status, type, message, {
      param: error.param,
      code: error.code === 'invalid_request' ? null : error.code,
      ...(status === 429 || status === 503 ? { retryAfter: RETRY_AFTER_SECONDS } : {}),
      cause: error,
    })
  }
  if (error instanceof RagError) {
    const status = error.status as ContentfulStatusCode
    const type = status >= 500 ? 'server_error' : 'invalid_request_error'
    return new ApiError(status, type, error.message, {
      param: error.param,
      code: error.code === 'invalid_request' ? null : error.code,
      ...(status === 503 ? { retryAfter: RETRY_AFTER_SECONDS } : {}),
      cause: error,
    })
  }
  return new ApiError(500, 'server_error', `internal error (trace ${traceId})`, {
    code: 'internal_error',
    cause: error,
  })
}
