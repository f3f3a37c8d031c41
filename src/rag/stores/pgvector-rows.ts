/** What statements of the pgvector store return of chunks, and what it is in the terms of the contract. */
import type { Candidate, Metadata } from '../vector-index.ts'

/** A chunk as a statement returns it, with its document's fields. */
export interface ChunkRow {
  readonly chunk_id: string
  readonly document_id: string
  readonly id: string
  readonly source: string
  readonly metadata: Metadata
  readonly chunk: number
  readonly text: string
  readonly headings: string[]
  readonly anchor: string | null
  readonly start_offset: number
  readonly end_offset: number
  readonly num_tokens: number
  readonly similarity: number
}

/** Columns of a ChunkRow but its similarity, over chunks `c` and documents `d`. */
export const CHUNK_COLUMNS = `c.chunk_id, c.document_id, d.id, d.source, d.metadata, c.chunk, c.text, c.headings, c.anchor, c.start_offset, c.end_offset, c.num_tokens`

/** The chunk of a row, in the contract's terms. */
export const toChunk = (row: ChunkRow) => ({
  chunk: row.chunk,
  text: row.text,
  headings: row.headings,
  ...(row.anchor !== null && { anchor: row.anchor }),
  start: row.start_offset,
  end: row.end_offset,
  numTokens: row.num_tokens,
})

/** A chunk that a search found. */
export const toCandidate = (
  row: ChunkRow,
  found: Pick<Candidate, 'vectorRank' | 'textRank' | 'textShare' | 'documentShare' | 'documentSimilarity'>,
): Candidate => ({
  ...toChunk(row),
  documentId: row.id,
  source: row.source,
  metadata: row.metadata,
  similarity: row.similarity,
  ...found,
})
