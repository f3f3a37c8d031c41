/** Puts documents into an index: hashes, chunks, embeds and stores them one at a time, so that an interruption loses no finished document. */
import { createHash } from 'node:crypto'
import type { DocumentFormat } from './blocks.ts'
import { chunkDocument, contextualText, type ChunkingOptions } from './chunk.ts'
import type { Embedder } from './embedder.ts'
import type { DocumentReader } from './document-reader.ts'
import { messageOf, RagError, UnreadableError } from './errors.ts'
import { MAX_DOCUMENT_LENGTH } from './formats.ts'
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
  /** The path of its file; empty for a document sent over HTTP. */
  readonly origin: string
  /** As in StoredDocument. */
  readonly stamp?: string
}

/** Why a document was not indexed, or what a warning about it says. */
export interface Remark {
  readonly id: string
  /** Human-readable. */
  readonly reason: string
}

export interface IngestResult {
  /** Documents of the input that are now in the index. */
  readonly accepted: number
  /** How many of them were already there with the same content. */
  readonly unchanged: number
  readonly rejected: readonly Remark[]
  /** Chunks written. */
  readonly chunks: number
}

/** Of documents that were read from files. */
export interface FileIngestResult extends IngestResult {
  /** Files that are indexed although not everything in them could be read as it is. */
  readonly warnings: readonly Remark[]
}

/** Part of the content hash: when the way documents are cut changes, every document counts as changed. */
const CHUNKING_VERSION = 6
/** Tokens per chunk, if the model reads that many. Short passages rank better, and several fit into a prompt. */
const MAX_CHUNK_TOKENS = 150
const OVERLAP_SHARE = 0.15
/** The special tokens around a text: [CLS] and [SEP]. */
const SPECIAL_TOKENS = 2
/** Documents processed at the same time: one is embedded while another is cut or written. */
const PIPELINE_DEPTH = 2

/** Chunk size and overlap in tokens for an embedding model that reads `maxTokens`. */
export function chunkingFor(maxTokens: number): ChunkingOptions {
  const limit = Math.min(MAX_CHUNK_TOKENS, maxTokens - SPECIAL_TOKENS)
  return { maxTokens: limit, overlapTokens: Math.floor(limit * OVERLAP_SHARE) }
}

/** How the text of a file is cut into chunks, as part of its stamp. */
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
  /** Parses HTML in another thread; absent: HTML is parsed in this one. */
  readonly reader?: DocumentReader
  readonly signal?: AbortSignal
  /** Called after each accepted document, for callers that report how many were accepted before a failure. */
  readonly onAccepted?: () => void
}

/**
 * Puts documents into an index. Skips unchanged documents; reports unusable ones and continues.
 * @throws RagError when the model or the store fails; documents accepted before stay
 */
export async function ingest(
  documents: AsyncIterable<SourceDocument> | Iterable<SourceDocument>,
  options: IngestOptions,
): Promise<IngestResult> {
  const { index, embedder, signal, onAccepted } = options
  const { maxTokens } = await embedder.load()
  const chunking = chunkingFor(maxTokens)
  // Asks only for the documents of the list: an index may contain a million others.
  const ids = Array.isArray(documents) ? documents.map(({ id }: SourceDocument) => id) : undefined
  const known = new Map(
    (await index.summaries(ids)).map(({ id, contentHash: hash, origin }) => [id, `${hash} ${origin}`]),
  )
  const rejected: Remark[] = []
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

/** Why a document cannot be stored; null if it can. */
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

/** Prepares a document for storing. @returns the reason if it cannot be stored */
async function prepare(
  document: SourceDocument,
  hash: string,
  chunking: ChunkingOptions,
  { embedder, reader, signal }: IngestOptions,
): Promise<EmbeddedDocument | string> {
  const { id, source, format, metadata, origin, stamp } = document
  // A byte order mark is not part of the text.
  const text = document.text.startsWith('\uFEFF') ? document.text.slice(1) : document.text
  const problem = problemOf(document)
  if (problem !== null) return problem
  try {
    const chunks = await chunkDocument(
      text,
      format,
      chunking,
      (texts) => embedder.countTokens(texts, { signal }),
      reader && ((html) => reader.html(html)),
    )
    if (chunks.length === 0) return 'text: expected text, found none'
    const { vectors } = await embedder.embed(chunks.map(contextualText), { role: 'document', signal })
    return { id, source, contentHash: hash, origin, ...(stamp !== undefined && { stamp }), metadata, chunks, vectors }
  } catch (error) {
    if (error instanceof RagError || signal?.aborted) throw error
    if (error instanceof UnreadableError) return error.message
    return `cannot be indexed: ${messageOf(error)}`
  }
}
