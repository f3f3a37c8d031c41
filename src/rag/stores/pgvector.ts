/**
 * Indexes in PostgreSQL with the pgvector extension, for those that outgrow one process. Four tables in the schema `miniserve`:
 * indexes, documents, chunks and the postings of BM25. Vector search is exact until an index is large; from then on through HNSW
 * (approximate), which each index has for itself.
 */
import { parseStoredName } from '../access.ts'
import { RagError } from '../errors.ts'
import { type IndexSpec, type IndexStore } from '../vector-index.ts'
import { Database } from './database.ts'
import { HnswBuilder } from './hnsw.ts'
import { checkName, checkSpec } from './memory-local.ts'
import { PgvectorIndex } from './pgvector-index.ts'
import { migrate } from './pgvector-schema.ts'

/** Chunks from which on an HNSW index is faster than reading all. */
const HNSW_MIN_CHUNKS = 50_000
interface PgvectorOptions {
  /** Chunks of an index from which on it is searched approximately. */
  readonly hnswMinChunks?: number
}

/** @param url postgres://user:password@host:port/database; the user may create a schema there. */
export const createPgvectorStore = (url: string, options: PgvectorOptions = {}): IndexStore =>
  new PgvectorStore(url, options)

class PgvectorStore implements IndexStore {
  readonly #database: Database
  readonly #hnsw: HnswBuilder
  #prepared: Promise<void> | null = null

  constructor(url: string, { hnswMinChunks = HNSW_MIN_CHUNKS }: PgvectorOptions) {
    this.#database = new Database(url)
    this.#hnsw = new HnswBuilder(this.#database, hnswMinChunks)
  }

  async names(): Promise<readonly string[]> {
    await this.#prepare()
    const rows = await this.#database.query<{ name: string }>('select name from miniserve.indexes', [])
    return rows.map(({ name }) => name).sort()
  }

  async exists(name: string): Promise<boolean> {
    return (await this.open(name)) !== null
  }

  async open(name: string): Promise<PgvectorIndex | null> {
    if (!parseStoredName(name)) return null
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string } & IndexSpec>(
      'select index_id, model, dimensions from miniserve.indexes where name = $1',
      [name],
    )
    return row ? new PgvectorIndex(this.#database, row.index_id, name, row, this.#hnsw) : null
  }

  async openOrCreate(name: string, spec: IndexSpec): Promise<PgvectorIndex> {
    checkName(name)
    await this.#prepare()
    await this.#database.query(
      'insert into miniserve.indexes (name, model, dimensions) values ($1, $2, $3) on conflict do nothing',
      [name, spec.model, spec.dimensions],
    )
    const index = await this.open(name)
    if (!index) throw new RagError('store_unavailable', 'the index disappeared right after it was created')
    checkSpec(index, spec)
    return index
  }

  async drop(name: string): Promise<boolean> {
    if (!parseStoredName(name)) return false
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string }>(
      'delete from miniserve.indexes where name = $1 returning index_id',
      [name],
    )
    if (!row) return false
    this.#hnsw.drop(Number(row.index_id))
    return true
  }

  close(): Promise<void> {
    return this.#database.close()
  }

  /** Makes the tables when they are not there. A failure is tried again by the next call: a server may be back. */
  #prepare(): Promise<void> {
    this.#prepared ??= this.#database.transaction(migrate)
    this.#prepared.catch(() => {
      this.#prepared = null
    })
    return this.#prepared
  }
}
