/** Documents into an index: hashed, chunked, embedded, stored, one document at a time, so that an interruption loses no finished one. */
import { createHash } from 'node:crypto'
import type { DocumentFormat } from './blocks.ts'
import { chunkDocument, contextualText, type ChunkingOptions } from './chunk.ts'
import type { Embedder } from './embedder.ts'
import { UnreadableError } from './decode.ts'
import type { DocumentReader } from './document-reader.ts'
import { HtmlTooComplexError } from './html.ts'
import { messageOf, RagError } from './errors.ts'
import { MAX_DOCUMENT_LENGTH } from './limits.ts'
import {
  isDocumentId,
  isStorableText,
  MAX_ID_LENGTH,
  type EmbeddedDocument,
  type Metadata,
  type VectorIndex,
} from './vector-index.ts'

/** A document before it is cut. */
export interface SourceDocument {
  readonly id: string
  readonly text: string
  readonly source: string
  readonly format: DocumentFormat
  readonly metadata: Metadata
  /** The file it came from; empty for one that came over HTTP. */
  readonly origin: string
  /** As in StoredDocument. */
  readonly stamp?: string
}

export interface Rejection {
  readonly id: string
  readonly reason: string
}

export interface IngestResult {
  /** Documents that are in the index now. */
  readonly accepted: number
  /** Of those, how many were there already with the same content. */
  readonly unchanged: number
  readonly rejected: readonly Rejection[]
  /** Chunks written. */
  readonly chunks: number
}

/** Goes into the content hash: a change of how documents are cut makes every document new. */
const CHUNKING_VERSION = 6
/** Tokens of a chunk, where the model reads that many. Short passages rank better and leave room for several in a prompt. */
const MAX_CHUNK_TOKENS = 150
const OVERLAP_SHARE = 0.15
/** Around a text: [CLS] and [SEP]. */
const SPECIAL_TOKENS = 2
/** Documents of which one is embedded while the next is cut and the last is written. */
const PIPELINE_DEPTH = 2

/** Chunk size and overlap in tokens for an embedding model that reads `maxTokens`. */
export function chunkingFor(maxTokens: number): ChunkingOptions {
  const limit = Math.min(MAX_CHUNK_TOKENS, maxTokens - SPECIAL_TOKENS)
  return { maxTokens: limit, overlapTokens: Math.floor(limit * OVERLAP_SHARE) }
}

/** What the text of a file becomes chunks by: part of its stamp. */
export const cuttingOf = (chunking: ChunkingOptions): string =>
  `${CHUNKING_VERSION}:${chunking.maxTokens}:${chunking.overlapTokens}`

function contentHash(document: SourceDocument, chunking: ChunkingOptions): string {
  const { text, source, format, metadata } = document
  return createHash('sha256')
    .update(JSON.stringify([CHUNKING_VERSION, chunking, source, format, metadata, text.length]))
    .update(text)
    .digest('hex')
}

export interface IngestOptions {
  readonly index: VectorIndex
  readonly embedder: Embedder
  /** Parses HTML off this thread; without one, it is parsed here. */
  readonly reader?: DocumentReader
  readonly signal?: AbortSignal
  /** After each document that is in the index now: who is interested in how many there are when the rest fails. */
  readonly onAccepted?: () => void
}

/**
 * Puts documents into an index. Unchanged documents are skipped; an unusable one is reported and the rest
 * goes on. @throws RagError when the model or the store fails: what was done until then stays.
 */
export async function ingest(
  documents: AsyncIterable<SourceDocument> | Iterable<SourceDocument>,
  options: IngestOptions,
): Promise<IngestResult> {
  const { index, embedder, signal, onAccepted } = options
  const { maxTokens } = await embedder.load()
  const chunking = chunkingFor(maxTokens)
  // Only the documents of the list are read: an index may have a million others.
  const ids = Array.isArray(documents) ? documents.map(({ id }: SourceDocument) => id) : undefined
  const known = new Map(
    (await index.summaries(ids)).map(({ id, contentHash: hash, origin }) => [id, `${hash} ${origin}`]),
  )
  const rejected: Rejection[] = []
  let accepted = 0
  let unchanged = 0
  let chunks = 0

  const ingestOne = async (document: SourceDocument): Promise<void> => {
    const hash = contentHash(document, chunking)
    if (known.get(document.id) === `${hash} ${document.origin}`) unchanged++
    else {
      const embedded = await prepare(document, hash, chunking, options)
      if (typeof embedded === 'string') {
        rejected.push({ id: document.id, reason: embedded })
        return
      }
      await index.upsert([embedded])
      known.set(document.id, `${hash} ${document.origin}`)
      chunks += embedded.chunks.length
    }
    accepted++
    onAccepted?.()
  }

  const running = new Map<string, Promise<void>>()
  let failure: unknown = null
  try {
    for await (const document of documents) {
      signal?.throwIfAborted()
      // Two versions of one document must not overtake each other.
      await running.get(document.id)
      while (running.size >= PIPELINE_DEPTH) await Promise.race(running.values())
      if (failure) break
      const work = ingestOne(document)
        .catch((error: unknown) => {
          failure ??= error
        })
        .finally(() => running.delete(document.id))
      running.set(document.id, work)
    }
  } finally {
    await Promise.all(running.values())
  }
  if (failure) throw failure
  return { accepted, unchanged, rejected, chunks }
}

/** Why no store can take a document; null if it can be stored. */
function problemOf({ id, text, source, metadata }: SourceDocument): string | null {
  if (!isDocumentId(id)) {
    return `id: expected 1 to ${MAX_ID_LENGTH} characters, no control characters, and no part between slashes that is . or ..`
  }
  if (text.length > MAX_DOCUMENT_LENGTH) {
    return `text: expected at most ${MAX_DOCUMENT_LENGTH} characters, found ${text.length}`
  }
  if (text.includes('\0')) return 'text: expected text, found NUL characters'
  if (!isStorableText(source)) return 'source: expected text, found NUL characters or half a character'
  const texts = Object.entries(metadata).flatMap(([name, value]) => [name, value].flat())
  if (texts.some((item) => typeof item === 'string' && !isStorableText(item))) {
    return 'metadata: expected text, found NUL characters or half a character'
  }
  return null
}

/** The document ready to be stored, or why it cannot be. */
async function prepare(
  document: SourceDocument,
  hash: string,
  chunking: ChunkingOptions,
  { embedder, reader, signal }: IngestOptions,
): Promise<EmbeddedDocument | string> {
  const { id, source, format, metadata, origin, stamp } = document
  // A byte order mark says how a text is encoded and is none of it.
  const text = document.text.startsWith('\uFEFF') ? document.text.slice(1) : document.text
  const problem = problemOf(document)
  if (problem !== null) return problem
  try {
    const chunks = await chunkDocument(
      text,
      format,
      chunking,
      (texts) => embedder.countTokens(texts, signal && { signal }),
      reader && ((html) => reader.html(html)),
    )
    if (chunks.length === 0) return 'text: expected text, found none'
    const options = { role: 'document' as const, ...(signal && { signal }) }
    const { vectors } = await embedder.embed(chunks.map(contextualText), options)
    return { id, source, contentHash: hash, origin, ...(stamp !== undefined && { stamp }), metadata, chunks, vectors }
  } catch (error) {
    if (error instanceof RagError || signal?.aborted) throw error
    if (error instanceof UnreadableError || error instanceof HtmlTooComplexError) return error.message
    return `cannot be indexed: ${messageOf(error)}`
  }
}
