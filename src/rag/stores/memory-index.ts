/** The chunks of one index in memory: exact vector search and BM25 over the same rows. Synchronous; knows no file and no thread. */
import { Bm25Index } from '../bm25.ts'
import { matchesFilter } from '../filter.ts'
import type { Candidate, EmbeddedDocument, MetadataFilter, SearchQuery, StoredDocument } from '../vector-index.ts'
import { VectorMatrix } from './vector-matrix.ts'

/** Removed rows are only marked; past this share of them (and this number) everything is laid out anew. */
const MAX_DEAD_SHARE = 0.25
const MIN_DEAD_ROWS = 1024

interface Entry {
  readonly document: StoredDocument
  /** Its chunks are the rows [firstRow, firstRow + chunks.length). */
  readonly firstRow: number
  /** Its number among all that were ever added. */
  readonly ordinal: number
}

export class MemoryIndex {
  readonly dimensions: number
  #vectors: VectorMatrix
  #terms = new Bm25Index()
  /** By row: the document it belongs to, null once removed. */
  #owners: (Entry | null)[] = []
  #entries = new Map<string, Entry>()
  #numDead = 0
  #numAdded = 0

  constructor(dimensions: number) {
    this.dimensions = dimensions
    this.#vectors = new VectorMatrix(dimensions)
  }

  get numDocuments(): number {
    return this.#entries.size
  }

  get numChunks(): number {
    return this.#owners.length - this.#numDead
  }

  *documents(): Generator<StoredDocument> {
    for (const { document } of this.#entries.values()) yield document
  }

  get(id: string): StoredDocument | null {
    return this.#entries.get(id)?.document ?? null
  }

  /** The vectors of a document, [chunks, dimensions]. */
  vectorsOf(id: string): Float32Array {
    const entry = this.#entries.get(id)
    if (!entry) return new Float32Array(0)
    const vectors = new Float32Array(entry.document.chunks.length * this.dimensions)
    entry.document.chunks.forEach((_, i) => vectors.set(this.#vectors.row(entry.firstRow + i), i * this.dimensions))
    return vectors
  }

  /** Whether that many more chunks fit into memory. */
  hasRoomFor(numChunks: number): boolean {
    return this.#vectors.hasRoomFor(numChunks)
  }

  /** Adds a document, replacing one of the same id. */
  put({ vectors, ...document }: EmbeddedDocument): void {
    this.delete(document.id)
    const firstRow = this.#owners.length
    this.#vectors.append(vectors)
    const entry = { document, firstRow, ordinal: this.#numAdded++ }
    for (const chunk of document.chunks) {
      this.#terms.add(this.#owners.length, entry.ordinal, searchableText(document, chunk))
      this.#owners.push(entry)
    }
    this.#entries.set(document.id, entry)
  }

  /** @returns whether it was there. */
  delete(id: string): boolean {
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#terms.remove(
      entry.firstRow,
      entry.document.chunks.map((chunk) => searchableText(entry.document, chunk)),
    )
    this.#owners.fill(null, entry.firstRow, entry.firstRow + entry.document.chunks.length)
    this.#numDead += entry.document.chunks.length
    if (this.#numDead > MIN_DEAD_ROWS && this.#numDead > this.#owners.length * MAX_DEAD_SHARE) this.#rebuild()
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
    return [...ranks].flatMap(([row, found]) => {
      const entry = this.#owners[row]
      const chunk = entry?.document.chunks[row - entry.firstRow]
      if (!entry || !chunk) return []
      const { id, source, metadata } = entry.document
      const shareOf = (score: number | undefined): number => (lexical.whole > 0 ? (score ?? 0) / lexical.whole : 0)
      const shares = {
        textShare: shareOf(lexical.rows[row]),
        documentShare: shareOf(lexical.documents[entry.ordinal]),
      }
      return [{ ...chunk, ...found, documentId: id, source, metadata, similarity: similarities[row] ?? 0, ...shares }]
    })
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

  #rebuild(): void {
    const documents = [...this.#entries.keys()].map((id) => ({ id, vectors: this.vectorsOf(id) }))
    const entries = this.#entries
    this.#vectors = new VectorMatrix(this.dimensions)
    this.#terms = new Bm25Index()
    this.#owners = []
    this.#entries = new Map()
    this.#numDead = 0
    this.#numAdded = 0
    for (const { id, vectors } of documents) {
      const entry = entries.get(id)
      if (entry) this.put({ ...entry.document, vectors })
    }
  }
}

/** What lexical search sees of a chunk. Its headings are there twice: they name its topic, often nothing else does, and they are short. */
export const searchableText = (
  document: { readonly source: string },
  chunk: { readonly headings: readonly string[]; readonly text: string },
): string => [document.source, ...chunk.headings, ...chunk.headings, chunk.text].join('\n')

/** The rows of the highest scores above `floor`, best first; of equal scores the earlier row. O(rows + found log depth). */
export function topRows(
  scores: Float32Array,
  depth: number,
  floor: number,
  passes: (row: number) => boolean,
): number[] {
  // A binary heap whose root is the worst kept row.
  const heap: number[] = []
  const isWorse = (a: number, b: number): boolean => {
    const difference = (scores[a] ?? 0) - (scores[b] ?? 0)
    return difference < 0 || (difference === 0 && a > b)
  }
  const sink = (start: number): void => {
    let at = start
    for (;;) {
      let worst = at
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && isWorse(heap[child] ?? 0, heap[worst] ?? 0)) worst = child
      }
      if (worst === at) return
      const moved = heap[at] ?? 0
      heap[at] = heap[worst] ?? 0
      heap[worst] = moved
      at = worst
    }
  }
  let threshold = floor
  for (let row = 0; row < scores.length; row++) {
    const score = scores[row] ?? 0
    if (!(score > threshold) || !passes(row)) continue
    if (heap.length < depth) {
      heap.push(row)
      if (heap.length < depth) continue
      for (let i = (depth >> 1) - 1; i >= 0; i--) sink(i)
    } else {
      heap[0] = row
      sink(0)
    }
    threshold = scores[heap[0] ?? 0] ?? floor
  }
  return heap.sort((a, b) => (isWorse(b, a) ? -1 : 1))
}
