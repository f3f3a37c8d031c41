/** Documents of a request, as a list or as JSON lines. Each is validated separately; invalid ones are reported and skipped. */
import { RagError } from '../rag/errors.ts'
import { formatOfText } from '../rag/formats.ts'
import type { IngestResult, SourceDocument } from '../rag/ingest.ts'
import { Slice } from '../rag/slice.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { FAILURES } from './failures.ts'
import type { JsonLine } from './json-lines.ts'
import { parseBody } from './validation.ts'
import { MAX_INGEST_DOCUMENTS, ragDocument } from './wire-rag.ts'

interface RejectedDocument {
  /** Its own id, or its position if it has none. */
  readonly id: string
  /** The line of JSON lines, counted from 1. */
  readonly line?: number
  readonly reason: string
}

export interface IngestReport {
  readonly accepted: number
  readonly rejected: readonly RejectedDocument[]
  /** Chunks written. */
  readonly chunks: number
  /** Documents that a later one with the same id replaced. */
  readonly numReplaced: number
}

/** Adds documents to the index; calls `onAccepted` after each. */
export type Ingest = (documents: readonly SourceDocument[], onAccepted: () => void) => Promise<IngestResult>

/** A list of documents. @throws the error of ingestion, with the number of documents accepted. */
export async function ingestList(items: readonly unknown[], ingest: Ingest): Promise<IngestReport> {
  const documents: SourceDocument[] = []
  const rejected: RejectedDocument[] = []
  const slice = new Slice()
  for (const [i, item] of items.entries()) {
    if (slice.isOver) await slice.end()
    const document = toDocument(item)
    if (typeof document === 'string') rejected.push({ id: idOf(item) ?? `documents.${i}`, reason: document })
    else documents.push(document)
  }
  const result = await reportingAccepted((onAccepted) => ingest(documents, onAccepted))
  const numReplaced = documents.length - new Set(documents.map(({ id }) => id)).size
  return { ...result, rejected: [...rejected, ...result.rejected], numReplaced }
}

/** Documents of JSON lines that are indexed together, and their UTF-16 units. No more than that is in memory at a time. */
const BATCH_DOCUMENTS = 64
const BATCH_LENGTH = 1 << 20

/**
 * Indexes documents while their lines arrive, until `signal` is aborted. `onDone` gets the number of body bytes that were processed.
 * @throws ApiError 400 for no lines or too many, and the errors of reading and ingestion. Earlier documents then stay in the index, and the
 *   error reports how many. If they are sent again, they are skipped as unchanged.
 */
export const ingestLines = (
  lines: AsyncIterable<JsonLine>,
  ingest: Ingest,
  signal: AbortSignal,
  onDone: (numBytes: number) => void = () => {},
): Promise<IngestReport> =>
  reportingAccepted((onAccepted) => ingestBatches(lines, (documents) => ingest(documents, onAccepted), signal, onDone))

async function ingestBatches(
  lines: AsyncIterable<JsonLine>,
  ingest: (documents: readonly SourceDocument[]) => Promise<IngestResult>,
  signal: AbortSignal,
  onDone: (numBytes: number) => void,
): Promise<IngestReport> {
  const rejected: RejectedDocument[] = []
  let accepted = 0
  let chunks = 0
  let numLines = 0
  let numReplaced = 0
  const ids = new Set<string>()
  const batch = new Map<string, { readonly document: SourceDocument; readonly line: number }>()
  let batchLength = 0
  let batchBytes = 0

  const flush = async (): Promise<void> => {
    const documents = [...batch.values()].map(({ document }) => document)
    const result = await ingest(documents)
    for (const { id, reason } of result.rejected) rejected.push({ id, line: batch.get(id)?.line ?? 0, reason })
    accepted += result.accepted
    chunks += result.chunks
    batch.clear()
    batchLength = 0
    onDone(batchBytes)
    batchBytes = 0
    signal.throwIfAborted()
  }

  /** Why reading stopped before the end of the body. */
  let failure: unknown = null
  async function* readable(): AsyncGenerator<JsonLine, void, void> {
    try {
      yield* lines
    } catch (error) {
      failure = error
    }
  }

  const slice = new Slice()
  for await (const parsed of readable()) {
    // Lines that arrived together come without a turn of the event loop between them.
    if (slice.isOver) await slice.end()
    const { line } = parsed
    if (++numLines > MAX_INGEST_DOCUMENTS) {
      failure = invalidRequest(`line ${line}: expected at most ${MAX_INGEST_DOCUMENTS} lines in a request, found more`)
      break
    }
    const document = 'problem' in parsed ? parsed.problem : toDocument(parsed.value)
    if (typeof document === 'string') {
      const id = 'value' in parsed ? idOf(parsed.value) : null
      rejected.push({ id: id ?? `line ${line}`, line, reason: document.replace(/^body:/, `line ${line}:`) })
      onDone(parsed.numBytes)
      continue
    }
    // A batch has only one version of a document, so that a rejection belongs to one line.
    if (batch.has(document.id)) await flush()
    if (ids.has(document.id)) numReplaced++
    ids.add(document.id)
    batch.set(document.id, { document, line })
    batchLength += document.text.length
    batchBytes += parsed.numBytes
    if (batch.size === BATCH_DOCUMENTS || batchLength >= BATCH_LENGTH) await flush()
  }
  if (batch.size > 0) await flush()
  if (failure !== null) throw failure
  if (numLines === 0) throw invalidRequest('body: expected JSON lines, found none')
  return { accepted, rejected: rejected.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0)), chunks, numReplaced }
}

/** Runs work that accepts documents. If it fails, the error reports how many were accepted. */
export async function reportingAccepted<T>(work: (onAccepted: () => void) => Promise<T>): Promise<T> {
  let accepted = 0
  try {
    return await work(() => accepted++)
  } catch (error) {
    if (accepted === 0 || !(error instanceof ApiError || error instanceof RagError)) throw error
    const what =
      accepted === 1
        ? '1 document of the request was accepted and stays'
        : `${accepted} documents of the request were accepted and stay`
    const why = FAILURES[error.code].shown ?? error.message
    // Somebody else has deleted the index meanwhile, so nothing stayed.
    const message =
      error.code === 'index_not_found'
        ? `${why}; it was deleted while this request filled it, and ${accepted} documents with it`
        : `${why}; ${what} in the index`
    const headers = error instanceof ApiError ? error.headers : {}
    throw new ApiError(error.code, message, { param: error.param, headers, cause: error })
  }
}

/** The document, or why it is invalid. */
function toDocument(item: unknown): SourceDocument | string {
  try {
    const { id, text, source = id, format, metadata = {} } = parseBody(ragDocument, item)
    return {
      id,
      text,
      source,
      format: format ?? formatOfText(source),
      metadata,
      origin: '',
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    return error.message
  }
}

function idOf(item: unknown): string | null {
  if (typeof item !== 'object' || item === null || !('id' in item)) return null
  const { id } = item
  return (typeof id === 'string' && id !== '') || Number.isSafeInteger(id) ? String(id) : null
}
