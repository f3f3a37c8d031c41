/**
 * Indexes in PostgreSQL with the pgvector extension, for those that outgrow one process. Four tables in the schema `miniserve`:
 * indexes, documents, chunks and the postings of BM25. Vector search is exact until an index is large; from then on through HNSW
 * (approximate), which each index has for itself.
 */
import { messageOf, RagError } from '../errors.ts'
import { isIndexName, type IndexInfo, type IndexSpec, type IndexStore } from '../vector-index.ts'
import { Database } from './database.ts'
import { checkName, checkSpec } from './memory-local.ts'
import { PgvectorIndex } from './pgvector-index.ts'

/** Chunks from which on an HNSW index is faster than reading all. */
const HNSW_MIN_CHUNKS = 50_000
/** Key of the advisory lock under which the tables are made: CREATE ... IF NOT EXISTS is not safe against itself. */
const SCHEMA_LOCK = 0x6d69_6e69

const SCHEMA = `
create schema if not exists miniserve;
create table if not exists miniserve.indexes (
  index_id bigint generated always as identity primary key,
  name text not null unique,
  model text not null,
  dimensions int not null
);
create table if not exists miniserve.documents (
  document_id bigint generated always as identity primary key,
  index_id bigint not null references miniserve.indexes on delete cascade,
  id text not null,
  source text not null,
  content_hash text not null,
  origin text not null,
  metadata jsonb not null,
  unique (index_id, id)
);
create table if not exists miniserve.chunks (
  chunk_id bigint generated always as identity primary key,
  index_id bigint not null references miniserve.indexes on delete cascade,
  document_id bigint not null references miniserve.documents on delete cascade,
  chunk int not null,
  text text not null,
  headings text[] not null,
  start_offset int not null,
  end_offset int not null,
  num_tokens int not null,
  num_terms int not null,
  embedding vector not null,
  unique (document_id, chunk)
);
create index if not exists chunks_by_index on miniserve.chunks (index_id);
create table if not exists miniserve.postings (
  index_id bigint not null,
  term text not null,
  chunk_id bigint not null references miniserve.chunks on delete cascade,
  frequency int not null,
  primary key (index_id, term, chunk_id)
);
create index if not exists postings_by_chunk on miniserve.postings (chunk_id);
`

export interface PgvectorOptions {
  /** Chunks of an index from which on it is searched approximately. */
  readonly hnswMinChunks?: number
}

/** @param url postgres://user:password@host:port/database; the user may create a schema there. */
export const createPgvectorStore = (url: string, options: PgvectorOptions = {}): IndexStore =>
  new PgvectorStore(url, options)

class PgvectorStore implements IndexStore {
  readonly #database: Database
  readonly #hnswMinChunks: number
  #prepared: Promise<void> | null = null

  constructor(url: string, { hnswMinChunks = HNSW_MIN_CHUNKS }: PgvectorOptions) {
    this.#database = new Database(url)
    this.#hnswMinChunks = hnswMinChunks
  }

  async list(): Promise<readonly IndexInfo[]> {
    await this.#prepare()
    const rows = await this.#database.query<{ name: string }>('select name from miniserve.indexes order by name', [])
    const infos: IndexInfo[] = []
    for (const { name } of rows) {
      const index = await this.open(name)
      if (index) infos.push(await index.info())
    }
    return infos
  }

  async open(name: string): Promise<PgvectorIndex | null> {
    if (!isIndexName(name)) return null
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string } & IndexSpec>(
      'select index_id, model, dimensions from miniserve.indexes where name = $1',
      [name],
    )
    return row ? new PgvectorIndex(this.#database, row.index_id, name, row, this.#hnswMinChunks) : null
  }

  async openOrCreate(name: string, spec: IndexSpec): Promise<PgvectorIndex> {
    checkName(name)
    await this.#prepare()
    await this.#database.query(
      'insert into miniserve.indexes (name, model, dimensions) values ($1, $2, $3) on conflict do nothing',
      [name, spec.model, spec.dimensions],
    )
    const index = await this.open(name)
    if (!index) throw new RagError('store_unavailable', 'the index vanished right after it was made')
    checkSpec(index, spec)
    return index
  }

  async drop(name: string): Promise<boolean> {
    if (!isIndexName(name)) return false
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string }>(
      'delete from miniserve.indexes where name = $1 returning index_id',
      [name],
    )
    if (!row) return false
    await this.#database.query(`drop index if exists miniserve.chunks_hnsw_${Number(row.index_id)}`, [])
    return true
  }

  close(): Promise<void> {
    return this.#database.close()
  }

  /** Makes the tables when they are not there. A failure is tried again by the next call: a server may be back. */
  #prepare(): Promise<void> {
    this.#prepared ??= this.#database.transaction(async (client) => {
      await client.query('select pg_advisory_xact_lock($1)', [SCHEMA_LOCK])
      try {
        await client.query('create extension if not exists vector')
      } catch (error) {
        throw new RagError(
          'store_unavailable',
          `the pgvector store needs the extension vector in its database: ${messageOf(error)}`,
        )
      }
      await client.query(SCHEMA)
    })
    this.#prepared.catch(() => {
      this.#prepared = null
    })
    return this.#prepared
  }
}
