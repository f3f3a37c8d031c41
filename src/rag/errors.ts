/** The errors of retrieval. The server maps each code to a status (server/failures.ts). */

export type RagErrorCode =
  /** A field of the request has a value that cannot be used. */
  | 'invalid_request'
  /** There is no index of that name. */
  | 'index_not_found'
  /** The index has no documents. */
  | 'index_empty'
  | 'document_not_found'
  /** The index belongs to another embedding model. */
  | 'index_model_mismatch'
  /** An index file is damaged in a way that a crash of this program cannot cause. */
  | 'index_corrupt'
  /** The store cannot be reached, read or written. */
  | 'store_unavailable'
  /** The embedding or reranking model failed or cannot be loaded. */
  | 'model_unavailable'
  /** Too many calls wait for the models or the store: try again later. */
  | 'overloaded'
  /** The prompt with its documents does not fit the model. */
  | 'context_length_exceeded'

/** An error that the caller can act on. `code` selects the HTTP status; `param` names the field of the request at fault. */
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

/** @param cause what failed, for the log */
export const modelUnavailable = (message: string, cause?: unknown): RagError =>
  new RagError('model_unavailable', message, null, { cause })

/** @param cause what failed, for the log */
export const storeUnavailable = (message: string, cause?: unknown): RagError =>
  new RagError('store_unavailable', message, null, { cause })

/** @param index the name of the index */
export const indexCorrupt = (index: string, problem: string, cause?: unknown): RagError =>
  new RagError(
    'index_corrupt',
    `index ${index}: ${problem}; restore its file, or delete the index and index again`,
    null,
    { cause },
  )

/** @param index the name of the index */
export const indexTooNew = (index: string, problem: string): RagError =>
  new RagError(
    'index_corrupt',
    `index ${index}: ${problem}: a newer version of miniserve wrote it; update miniserve, or delete the index and index again`,
  )

/** The error for an index that does not exist, and for one of another key. @param param the field of the request that names it */
export const indexNotFound = (param = 'index'): RagError =>
  new RagError('index_not_found', `${param}: no index of that name; GET /v1/rag/indexes lists them`, param)

/** A document that cannot be read. The message is the reason, shown to users. */
export class UnreadableError extends Error {
  override readonly name = 'UnreadableError'
}

/** The message of anything thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** Human-readable meanings of the system's error codes. */
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
  ENOENT: 'no such file or folder',
}

/** Why the system refused, without the path in its own message, which callers of the server must not see. */
export function systemReasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : null
  return code === null ? messageOf(error) : (SYSTEM_REASONS[code] ?? code)
}
