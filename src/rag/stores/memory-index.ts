/** The chunks of one index: exact vector search and BM25 over the same rows. Synchronous. */
import { Bm25Index } from '../bm25.ts'
import { matchesFilter } from '../filter.ts'
import {
  CLOSEST_CHUNKS,
  type Candidate,
  type Chunk,
  type EmbeddedDocument,
  type MetadataFilter,
  type SearchQuery,
  type StoredDocument,
} from '../vector-index.ts'
import { encodeChunk, type PackedDocument, type Segment } from './segment.ts'
import { topRows } from './top-rows.ts'
import { VectorMatrix } from './vector-matrix.ts'

/** Removed rows are only marked. Above this share and this number of them, the index should be packed. */
const MAX_DEAD_SHARE = 0.25
const MIN_DEAD_ROWS = 1024

interface Entry {
  readonly document: PackedDocument
  /** The document's chunks are the rows [firstRow, firstRow + document.numChunks). */
  readonly firstRow: number
  /** The number of documents added before it, including removed ones. */
  readonly ordinal: number
  /** null: the chunks are in the segment. */
  readonly chunks: readonly Chunk[] | null
}

/** The rows of one index: vectors, BM25 postings and texts. Removed rows stay until the index is packed. */
export class MemoryIndex {
  readonly #segment: Segment | null
  readonly #vectors: VectorMatrix
  readonly #terms: Bm25Index
  /** The document of each row; null for a removed row. */
  readonly #owners: (Entry | null)[] = []
  readonly #entries = new Map<string, Entry>()
  #numDead = 0
  #numAdded = 0

  /** @param vectors those of the segment's rows */
  constructor(dimensions: number, segment: Segment | null = null, vectors = new VectorMatrix(dimensions)) {
    this.#segment = segment
    this.#vectors = vectors
    for (const document of segment?.documents ?? []) this.#enter(document, null)
    this.#terms = new Bm25Index(segment, (row) => this.#owners[row]?.ordinal ?? 0)
  }

  get numDocuments(): number {
    return this.#entries.size
  }

  get numChunks(): number {
    return this.#owners.length - this.#numDead
  }

  /** Whether so many rows are removed that the index should be packed. */
  get isSparse(): boolean {
    return this.#numDead > MIN_DEAD_ROWS && this.#numDead > this.#owners.length * MAX_DEAD_SHARE
  }

  *summaries(): Generator<PackedDocument> {
    for (const { document } of this.#entries.values()) yield document
  }

  summary(id: string): PackedDocument | null {
    return this.#entries.get(id)?.document ?? null
  }

  /** @throws Error of the segment if its file ends early */
  get(id: string): StoredDocument | null {
    const entry = this.#entries.get(id)
    if (!entry) return null
    const { numChunks, ...document } = entry.document
    return { ...document, chunks: Array.from({ length: numChunks }, (_, i) => this.#chunkOf(entry, i)) }
  }

  /** Whether this many more chunks fit into memory. */
  hasRoomFor(numChunks: number): boolean {
    return this.#vectors.hasRoomFor(numChunks)
  }

  /** Adds a document, replacing one of the same id. */
  put({ vectors, chunks, ...document }: EmbeddedDocument): void {
    this.delete(document.id)
    this.#vectors.append(vectors)
    const { firstRow, ordinal } = this.#enter({ ...document, numChunks: chunks.length }, chunks)
    for (const [i, chunk] of chunks.entries()) this.#terms.add(firstRow + i, ordinal, searchableText(document, chunk))
  }

  /** @returns whether it was there. */
  delete(id: string): boolean {
    const entry = this.#entries.get(id)
    if (!entry) return false
    const { firstRow, document } = entry
    const texts = Array.from({ length: document.numChunks }, (_, i) =>
      searchableText(document, this.#chunkOf(entry, i)),
    )
    this.#entries.delete(id)
    this.#terms.remove(firstRow, texts)
    this.#owners.fill(null, firstRow, firstRow + document.numChunks)
    this.#numDead += document.numChunks
    return true
  }

  search({ vector, text, depth, filter }: SearchQuery): Candidate[] {
    const passes = this.#rowTest(filter)
    const similarities = this.#vectors.scores(vector)
    const lexical = this.#terms.score(text)
    const byVector = topRows(similarities, depth, -Infinity, passes)
    const byText = topRows(lexical.rows, depth, 0, passes)
    const ranks = new Map<number, { vectorRank: number | null; textRank: number | null }>()
    byVector.forEach((row, i) => ranks.set(row, { vectorRank: i + 1, textRank: null }))
    byText.forEach((row, i) => ranks.set(row, { vectorRank: ranks.get(row)?.vectorRank ?? null, textRank: i + 1 }))
    const shareOf = (score: number | undefined): number => (lexical.whole > 0 ? (score ?? 0) / lexical.whole : 0)
    const close = new Map<Entry, number>()
    return [...ranks].flatMap(([row, found]) => {
      const entry = this.#owners[row]
      if (!entry) return []
      const { id, source, metadata } = entry.document
      const documentSimilarity = close.get(entry) ?? meanOfClosest(similarities, entry)
      close.set(entry, documentSimilarity)
      return [
        {
          ...this.#chunkOf(entry, row - entry.firstRow),
          ...found,
          documentId: id,
          source,
          metadata,
          similarity: similarities[row] ?? 0,
          textShare: shareOf(lexical.rows[row]),
          documentShare: shareOf(lexical.documents[entry.ordinal]),
          documentSimilarity,
        },
      ]
    })
  }

  // ---- For segment-writer.ts: rows by their current numbers ----

  /** The first rows, which are packed already. */
  get packed(): Segment | null {
    return this.#segment
  }

  get numRows(): number {
    return this.#owners.length
  }

  *documents(): Generator<{ readonly document: PackedDocument; readonly firstRow: number }> {
    for (const { document, firstRow } of this.#entries.values()) yield { document, firstRow }
  }

  /** The terms of the other rows, with row, frequency, row, frequency, ... */
  addedTerms(): ReturnType<Bm25Index['added']> {
    return this.#terms.added()
  }

  lengthOf(row: number): number {
    return this.#terms.lengthOf(row)
  }

  /** f32, padded as in the segment. */
  vectorBytes(row: number): Uint8Array {
    return this.#vectors.rowBytes(row)
  }

  encodedChunk(row: number): Buffer {
    const entry = this.#owners[row]
    const chunk = entry?.chunks?.[row - entry.firstRow]
    if (chunk) return encodeChunk(chunk)
    if (!this.#segment) throw new Error(`row ${row} does not exist`)
    return this.#segment.encodedChunk(row)
  }

  #enter(document: PackedDocument, chunks: readonly Chunk[] | null): Entry {
    const entry = { document, firstRow: this.#owners.length, ordinal: this.#numAdded++, chunks }
    for (let i = 0; i < document.numChunks; i++) this.#owners.push(entry)
    this.#entries.set(document.id, entry)
    return entry
  }

  #chunkOf({ chunks, firstRow }: Entry, at: number): Chunk {
    const chunk = chunks === null ? this.#segment?.chunk(firstRow + at) : chunks[at]
    if (!chunk) throw new Error(`row ${firstRow + at} does not exist`)
    return chunk
  }

  #rowTest(filter: MetadataFilter | undefined): (row: number) => boolean {
    const owners = this.#owners
    if (!filter || Object.keys(filter).length === 0) return (row) => owners[row] !== null
    const passing = new Set<Entry>()
    for (const entry of this.#entries.values()) if (matchesFilter(entry.document, filter)) passing.add(entry)
    return (row) => {
      const owner = owners[row]
      return owner !== null && owner !== undefined && passing.has(owner)
    }
  }
}

/** The `documentSimilarity` of an entry's rows. */
function meanOfClosest(similarities: Float32Array, { firstRow, document: { numChunks } }: Entry): number {
  const closest = similarities
    .slice(firstRow, firstRow + numChunks)
    .sort()
    .slice(-CLOSEST_CHUNKS)
  return closest.reduce((sum, value) => sum + value, 0) / Math.max(1, closest.length)
}

/** The text that lexical search uses for a chunk. Headings count twice: they are short, and often only they name the topic. */
export const searchableText = (
  document: { readonly source: string },
  chunk: { readonly headings: readonly string[]; readonly text: string },
): string => [document.source, ...chunk.headings, ...chunk.headings, chunk.text].join('\n')
