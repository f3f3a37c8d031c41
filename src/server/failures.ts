/**
 * Everything that a request can fail of, one row per code: the status it is answered with, OpenAI's type of the error, and its row in the
 * table of endings (observability/endings.ts), which has the level of its log line.
 */
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { EngineErrorCode } from '../engine/request.ts'
import type { EndingName } from '../observability/endings.ts'
import type { RagErrorCode } from '../rag/errors.ts'

export type ApiErrorType = 'invalid_request_error' | 'rate_limit_error' | 'server_error'

export interface Failure {
  readonly status: ContentfulStatusCode
  readonly type: ApiErrorType
  readonly ending: EndingName
  /** Seconds after which it is worth trying again: the answer's Retry-After. */
  readonly retryAfter?: number
  /** What the client reads instead of the error's own message, which may name internal details such as paths. */
  readonly shown?: string
}

/** Codes that only the HTTP edge has. */
type EdgeCode =
  | 'not_found'
  | 'method_not_allowed'
  | 'request_too_large'
  | 'request_timeout'
  | 'unsupported_media_type'
  | 'invalid_api_key'
  | 'too_many_sign_ins'
  | 'host_not_allowed'
  | 'origin_not_allowed'
  | 'model_not_found'
  | 'trace_not_found'
  | 'response_not_found'
  | 'no_index'
  | 'not_supported'
  | 'bytes_in_flight'
  | 'too_many_pipelined'
  | 'key_queue_full'
  | 'rate_limit_exceeded'
  | 'loading'
  | 'model_load_failed'
  | 'client_disconnect'
  | 'internal_error'

export type FailureCode = EngineErrorCode | RagErrorCode | EdgeCode

const invalid = { type: 'invalid_request_error', ending: 'validation' } as const
const refused = { status: 429, type: 'rate_limit_error', ending: 'refused', retryAfter: 1 } as const
const forbidden = { status: 403, type: 'invalid_request_error', ending: 'unauthorized' } as const
const unavailable = { status: 503, type: 'server_error', ending: 'unavailable' } as const
const failed = { type: 'server_error', ending: 'engine_error' } as const

export const FAILURES: Readonly<Record<FailureCode, Failure>> = {
  invalid_request: { ...invalid, status: 400 },
  context_length_exceeded: { ...invalid, status: 400 },
  index_empty: { ...invalid, status: 400 },
  no_index: { ...invalid, status: 400 },
  not_found: { ...invalid, status: 404 },
  model_not_found: { ...invalid, status: 404 },
  trace_not_found: { ...invalid, status: 404 },
  response_not_found: { ...invalid, status: 404 },
  index_not_found: { ...invalid, status: 404 },
  document_not_found: { ...invalid, status: 404 },
  method_not_allowed: { ...invalid, status: 405 },
  request_timeout: { ...invalid, status: 408 },
  index_model_mismatch: { ...invalid, status: 409 },
  request_too_large: { ...invalid, status: 413 },
  unsupported_media_type: { ...invalid, status: 415 },
  not_supported: { ...invalid, status: 501 },
  // OpenAI's own answer has this type, too.
  invalid_api_key: { status: 401, type: 'invalid_request_error', ending: 'unauthorized' },
  host_not_allowed: forbidden,
  origin_not_allowed: forbidden,
  too_many_sign_ins: { ...refused, ending: 'unauthorized', retryAfter: 60 },
  queue_full: refused,
  bytes_in_flight: refused,
  too_many_pipelined: refused,
  key_queue_full: refused,
  rate_limit_exceeded: refused,
  loading: { ...unavailable, retryAfter: 2 },
  model_load_failed: { ...failed, status: 503, retryAfter: 30 },
  draining: { ...unavailable, retryAfter: 5 },
  overloaded: { ...unavailable, retryAfter: 1 },
  device_lost: { ...unavailable, ending: 'device_lost', retryAfter: 1 },
  shutdown: { ...unavailable, ending: 'shutdown', retryAfter: 1 },
  deadline: { status: 504, type: 'server_error', ending: 'deadline' },
  engine_error: { ...failed, status: 500 },
  upstream_error: { ...failed, status: 502 },
  upstream_timeout: { ...failed, status: 504 },
  store_unavailable: { ...failed, status: 503, retryAfter: 1 },
  model_unavailable: {
    ...failed,
    status: 503,
    retryAfter: 1,
    shown: 'the embedding or reranking model cannot be used',
  },
  index_corrupt: {
    ...failed,
    status: 503,
    retryAfter: 1,
    shown: "the index cannot be used; see the server's log for the reason",
  },
  // Nobody reads the answer: 499 is nginx's word for it.
  client_disconnect: { status: 499 as 500, type: 'server_error', ending: 'client_disconnect' },
  internal_error: { status: 500, type: 'server_error', ending: 'exception' },
}
