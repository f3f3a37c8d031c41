/** Documents as requests bring them, a list or JSON lines: each held against its schema on its own, a bad one reported and skipped. */
import { formatOf } from '../rag/files.ts'
import type { IngestResult, SourceDocument } from '../rag/ingest.ts'
import { Slice } from '../rag/slice.ts'
import { ApiError, invalidRequest } from './errors.ts'
import type { JsonLine } from './json-lines.ts'
import { parseBody } from './wire.ts'
import { MAX_INGEST_DOCUMENTS, ragDocument } from './wire-rag.ts'

export interface RejectedDocument {
  /** Its own id, or its place where it has none. */
  readonly id: string
  /** Of JSON lines, from 1 on. */
  readonly line?: number
  readonly reason: string
}

export interface IngestReport {
  readonly accepted: number
  readonly rejected: readonly RejectedDocument[]
  /** Chunks written. */
  readonly chunks: number
}

type Ingest = (documents: readonly SourceDocument[]) => Promise<IngestResult>

/** A list of documents. */
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
  const result = await ingest(documents)
  return { ...result, rejected: [...rejected, ...result.rejected] }
}

/** Documents of JSON lines that go into the index together, and UTF-16 units of them: as much as is in memory at a time. */
const BATCH_DOCUMENTS = 64
const BATCH_LENGTH = 1 << 20

/**
 * Documents as their lines come in.
 * @throws ApiError 400 for no line, or too many of them. What came before is in the index then: sent again, it is found unchanged.
 */
export async function ingestLines(lines: AsyncIterable<JsonLine>, ingest: Ingest): Promise<IngestReport> {
  const rejected: RejectedDocument[] = []
  let accepted = 0
  let chunks = 0
  let numLines = 0
  const batch = new Map<string, { readonly document: SourceDocument; readonly line: number }>()
  let batchLength = 0

  const flush = async (): Promise<void> => {
    const result = await ingest([...batch.values()].map(({ document }) => document))
    for (const { id, reason } of result.rejected) rejected.push({ id, line: batch.get(id)?.line ?? 0, reason })
    accepted += result.accepted
    chunks += result.chunks
    batch.clear()
    batchLength = 0
  }

  const slice = new Slice()
  for await (const parsed of lines) {
    // Lines that came together are here without a turn of the event loop between them.
    if (slice.isOver) await slice.end()
    const { line } = parsed
    if (++numLines > MAX_INGEST_DOCUMENTS) {
      throw invalidRequest(`line ${line}: expected at most ${MAX_INGEST_DOCUMENTS} documents in a request, found more`)
    }
    const document = 'problem' in parsed ? parsed.problem : toDocument(parsed.value)
    if (typeof document === 'string') {
      const id = 'value' in parsed ? idOf(parsed.value) : null
      rejected.push({ id: id ?? `line ${line}`, line, reason: document.replace(/^body:/, `line ${line}:`) })
      continue
    }
    // A batch has one version of a document, so that what becomes of it belongs to its line.
    if (batch.has(document.id)) await flush()
    batch.set(document.id, { document, line })
    batchLength += document.text.length
    if (batch.size === BATCH_DOCUMENTS || batchLength >= BATCH_LENGTH) await flush()
  }
  if (numLines === 0) throw invalidRequest('body: expected JSON lines, found none')
  if (batch.size > 0) await flush()
  return { accepted, rejected: rejected.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0)), chunks }
}

/** The document, or why it is none. */
function toDocument(item: unknown): SourceDocument | string {
  try {
    const { id, text, source = id, format, metadata = {} } = parseBody(ragDocument, item)
    const named = formatOf(source)
    return {
      id,
      text,
      source,
      format: format ?? (named === null || named === 'jsonl' ? 'text' : named),
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
