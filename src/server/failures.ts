/**
 * Every way in which a request can fail, one row per code: the status of the response, OpenAI's type of the error, and the ending
 * (observability/endings.ts), which decides the level of the log line.
 */
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { EngineErrorCode } from '../engine/request.ts'
import type { EndingName } from '../observability/endings.ts'
import type { RagErrorCode } from '../rag/errors.ts'

type ApiErrorType = 'invalid_request_error' | 'rate_limit_error' | 'server_error'

export interface Failure {
  readonly status: ContentfulStatusCode
  readonly type: ApiErrorType
  readonly ending: EndingName
  /** Seconds for the Retry-After header. */
  readonly retryAfter?: number
  /** Message for the client, if the error's own message may contain internal details such as paths. */
  readonly shown?: string
}

const invalid = { type: 'invalid_request_error', ending: 'validation' } as const
const refused = { status: 429, type: 'rate_limit_error', ending: 'refused', retryAfter: 1 } as const
const forbidden = { status: 403, type: 'invalid_request_error', ending: 'unauthorized' } as const
const unavailable = { status: 503, type: 'server_error', ending: 'unavailable' } as const
const failed = { type: 'server_error', ending: 'engine_error' } as const

const ROWS = {
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
  // OpenAI's API uses this type, too.
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
  // Nobody reads the response. 499 is nginx's status for it.
  client_disconnect: { status: 499 as 500, type: 'server_error', ending: 'client_disconnect' },
  internal_error: { status: 500, type: 'server_error', ending: 'exception' },
} as const satisfies Readonly<Record<EngineErrorCode | RagErrorCode, Failure> & Record<string, Failure>>

export type FailureCode = keyof typeof ROWS
export const FAILURES: Readonly<Record<FailureCode, Failure>> = ROWS
