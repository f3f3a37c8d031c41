/** Which row of the table of endings (observability/contract.ts) a failure is. */
import { EngineError, type EngineErrorCode } from '../engine/request.ts'
import type { EndingName } from '../observability/endings.ts'
import { RagError, type RagErrorCode } from '../rag/errors.ts'
import { ApiError } from './errors.ts'

const ENGINE_ENDING: Readonly<Record<EngineErrorCode, EndingName>> = {
  invalid_request: 'validation',
  context_length_exceeded: 'validation',
  queue_full: 'refused',
  draining: 'unavailable',
  deadline: 'deadline',
  engine_error: 'engine_error',
  device_lost: 'device_lost',
  upstream_error: 'engine_error',
  upstream_timeout: 'engine_error',
  shutdown: 'shutdown',
}

/** What retrieval fails of counts as the engine's failing does; only what it has no room for was refused. */
const RAG_ENDING: Readonly<Record<RagErrorCode, EndingName>> = {
  invalid_request: 'validation',
  index_not_found: 'validation',
  index_empty: 'validation',
  document_not_found: 'validation',
  index_model_mismatch: 'validation',
  index_corrupt: 'engine_error',
  store_unavailable: 'engine_error',
  model_unavailable: 'engine_error',
  overloaded: 'unavailable',
  context_length_exceeded: 'validation',
}

/** The ending of a request that failed with `error`, and the error itself for exception.type. */
export function endingOf(error: unknown): { readonly ending: EndingName; readonly error: unknown } {
  if (error instanceof EngineError) return { ending: ENGINE_ENDING[error.code], error }
  if (error instanceof ApiError) return { ending: endingOfStatus(error.status, error.code), error }
  if (error instanceof RagError) return { ending: RAG_ENDING[error.code], error }
  return { ending: 'exception', error }
}

/** The ending of an answer with an error status; `code` as in its envelope. */
export function endingOfStatus(status: number, code: string | null): EndingName {
  if (code === 'client_disconnect') return 'client_disconnect'
  if (status === 401 || status === 403) return 'unauthorized'
  if (status === 429) return 'refused'
  if (status === 503) return 'unavailable'
  return status < 500 ? 'validation' : 'exception'
}
