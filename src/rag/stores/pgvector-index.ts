/** One index of the pgvector store: its rows in the store's tables. */
import type { QueryResultRow } from 'pg'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import type { Database } from './database.ts'
import type { LargeIndexes } from './large-indexes.ts'
import { CHUNK_COLUMNS, PgvectorSearch, toChunk, type ChunkRow } from './pgvector-search.ts'
import { insertDocuments, lockIndex, removeDocuments } from './pgvector-write.ts'

/** One index in PostgreSQL with pgvector. Vectors have `dimensions` f32 values. */
export class PgvectorIndex implements VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  readonly #database: Database
  readonly #id: number
  readonly #large: LargeIndexes

  constructor(database: Database, id: number, name: string, { model, dimensions }: IndexSpec, large: LargeIndexes) {
    this.#large = large
    this.#database = database
    this.#id = id
    this.name = name
    this.model = model
    this.dimensions = dimensions
  }

  async info(): Promise<IndexInfo> {
    const [row] = await this.#database.query<{ documents: number; chunks: number; bytes: number }>(
      `select num_documents::float8 as documents, num_chunks::float8 as chunks, num_bytes::float8 as bytes
       from miniserve.indexes where index_id = $1`,
      [this.#id],
    )
    const { name, model, dimensions } = this
    const { documents: numDocuments = 0, chunks: numChunks = 0, bytes = 0 } = row ?? {}
    return { name, model, dimensions, numDocuments, numChunks, bytes }
  }

  async upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    // Of several documents with the same id, the last one is kept.
    const kept = [...new Map(documents.map((document) => [document.id, document])).values()]
    let numChunks = 0
    await this.#database.transaction(async (client) => {
      await lockIndex(client, { id: this.#id, name: this.name })
      await removeDocuments(
        client,
        this.#id,
        kept.map(({ id }) => id),
      )
      numChunks = await insertDocuments(client, this.#id, this.dimensions, kept)
    })
    this.#large.consider({ id: this.#id, dimensions: this.dimensions, numChunks })
  }

  async delete(ids: readonly string[]): Promise<number> {
    let numDeleted = 0
    await this.#database.transaction(async (client) => {
      await lockIndex(client, { id: this.#id, name: this.name })
      numDeleted = await removeDocuments(client, this.#id, ids)
    })
    return numDeleted
  }

  async get(id: string): Promise<StoredDocument | null> {
    const rows = await this.#database.query<ChunkRow & { content_hash: string; origin: string }>(
      `select ${CHUNK_COLUMNS}, 0::float8 as similarity, d.content_hash, d.origin
       from miniserve.documents d join miniserve.chunks c using (document_id)
       where d.index_id = $1 and d.id = $2 order by c.chunk`,
      [this.#id, id],
    )
    const [first] = rows
    if (!first) return null
    const { source, metadata, content_hash: contentHash, origin } = first
    return { id, source, contentHash, origin, metadata, chunks: rows.map(toChunk) }
  }

  async summaries(ids: readonly string[] | null = null): Promise<readonly DocumentSummary[]> {
    const rows = await this.#database.query<DocumentSummary & { readonly stamp: string | null } & QueryResultRow>(
      'select id, content_hash as "contentHash", origin, stamp from miniserve.documents where index_id = $1 and ($2::text[] is null or id = any($2))',
      [this.#id, ids],
    )
    return rows.map(({ stamp, ...summary }) => ({ ...summary, ...(stamp !== null && { stamp }) }))
  }

  search(query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    const index = {
      database: this.#database,
      id: this.#id,
      dimensions: this.dimensions,
      maxExactChunks: this.#large.minChunks,
    }
    return PgvectorSearch.run(index, query, signal)
  }
}
