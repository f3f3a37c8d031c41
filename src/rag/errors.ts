/** What retrieval can answer instead of a result. The server maps codes to statuses; `param` names the request's field at fault. */

export type RagErrorCode =
  /** A field cannot be honoured. */
  | 'invalid_request'
  /** No index of that name. */
  | 'index_not_found'
  /** The index has no documents. */
  | 'index_empty'
  | 'document_not_found'
  /** The index was built with another embedding model, or with vectors of another length. */
  | 'index_model_mismatch'
  /** The file of an index is damaged in the middle: something other than a crash wrote to it. */
  | 'index_corrupt'
  /** The store cannot be reached, read or written. */
  | 'store_unavailable'
  /** The embedding or reranking model cannot be loaded or failed. */
  | 'model_unavailable'
  /** More calls wait for the models or the store than they take: try again later. */
  | 'overloaded'
  /** The prompt with its documents does not fit the model. */
  | 'context_length_exceeded'

/** An error that the caller of retrieval can act on. `code` selects the HTTP status. */
export class RagError extends Error {
  override readonly name = 'RagError'
  readonly code: RagErrorCode
  readonly param: string | null
  constructor(code: RagErrorCode, message: string, param: string | null = null, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.param = param
  }
}

/** Message of anything thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** What the system's error codes mean, for people. */
const SYSTEM_REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota of the disk is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission is denied',
  EPERM: 'permission is denied',
  EMFILE: 'too many files are open',
  ENFILE: 'too many files are open',
  EIO: 'the disk reports an error',
  ENOTDIR: 'a part of its path is not a folder',
  ENOENT: 'it is not there',
}

/** Why the system refused, without the path that its own message holds: that is not for callers of the server. */
export function systemReasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : null
  return code === null ? messageOf(error) : (SYSTEM_REASONS[code] ?? code)
}
