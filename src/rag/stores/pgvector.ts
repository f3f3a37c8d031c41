/**
 * Indexes in PostgreSQL with the pgvector extension, for those that outgrow one process. Four tables in the schema `miniserve`:
 * indexes, documents, chunks and the postings of BM25, which PostgreSQL's own ranking functions do not compute. Vector search is
 * exact until an index is large; from then on through HNSW (approximate), which each index has for itself.
 */
import { Pool, type PoolClient, type QueryResultRow } from 'pg'
import pgvector from 'pgvector/pg'
import { BM25_B, BM25_K1, countTerms } from '../bm25.ts'
import { messageOf, RagError } from '../errors.ts'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  IndexStore,
  MetadataFilter,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import { isIndexName } from '../vector-index.ts'
import { filterSql, Parameters } from './filter-sql.ts'
import { searchableText } from './memory-index.ts'
import { checkName, checkSpec } from './memory-local.ts'

/** Chunks from which on an HNSW index is faster than reading all. */
const HNSW_MIN_CHUNKS = 50_000
/** pgvector's limit for HNSW over `vector`. */
const HNSW_MAX_DIMENSIONS = 2000
const POOL_SIZE = 8
const CONNECT_TIMEOUT_MS = 5_000
const STATEMENT_TIMEOUT_MS = 30_000
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

interface ChunkRow {
  readonly chunk_id: string
  readonly id: string
  readonly source: string
  readonly metadata: StoredDocument['metadata']
  readonly chunk: number
  readonly text: string
  readonly headings: string[]
  readonly start_offset: number
  readonly end_offset: number
  readonly num_tokens: number
  readonly similarity: number
}

const CHUNK_COLUMNS = `c.chunk_id, d.id, d.source, d.metadata, c.chunk, c.text, c.headings, c.start_offset, c.end_offset, c.num_tokens`

/** Whatever the database or the way to it did wrong, as one error. */
function storeError(error: unknown): RagError {
  if (error instanceof RagError) return error
  return new RagError('store_unavailable', `the pgvector store failed: ${messageOf(error) || 'no connection'}`, null, {
    cause: error,
  })
}

class PgvectorIndex implements VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  readonly #pool: Pool
  readonly #id: string
  readonly #hnswMinChunks: number
  #hasHnsw = false

  constructor(pool: Pool, id: string, name: string, { model, dimensions }: IndexSpec, hnswMinChunks: number) {
    this.#hnswMinChunks = hnswMinChunks
    this.#pool = pool
    this.#id = id
    this.name = name
    this.model = model
    this.dimensions = dimensions
  }

  async info(): Promise<IndexInfo> {
    const [row] = await this.#query<{ documents: number; chunks: number; bytes: number }>(
      `select (select count(*)::int from miniserve.documents where index_id = $1) as documents,
              count(*)::int as chunks, coalesce(sum(pg_column_size(c.*)), 0)::float8 as bytes
       from miniserve.chunks c where index_id = $1`,
      [this.#id],
    )
    const { name, model, dimensions } = this
    return {
      name,
      model,
      dimensions,
      numDocuments: row?.documents ?? 0,
      numChunks: row?.chunks ?? 0,
      bytes: row?.bytes ?? 0,
    }
  }

  async upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    await inTransaction(this.#pool, async (client) => {
      const ids = documents.map(({ id }) => id)
      await client.query('delete from miniserve.documents where index_id = $1 and id = any($2)', [this.#id, ids])
      for (const document of documents) await this.#insert(client, document)
    })
    await this.#addHnsw()
  }

  async delete(ids: readonly string[]): Promise<number> {
    const rows = await this.#query('delete from miniserve.documents where index_id = $1 and id = any($2) returning 1', [
      this.#id,
      ids,
    ])
    return rows.length
  }

  async get(id: string): Promise<StoredDocument | null> {
    const rows = await this.#query<ChunkRow & { content_hash: string; origin: string }>(
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
    return this.#query<DocumentSummary & QueryResultRow>(
      'select id, content_hash as "contentHash", origin from miniserve.documents where index_id = $1 and ($2::text[] is null or id = any($2))',
      [this.#id, ids],
    )
  }

  async search({ vector, text, depth, filter }: SearchQuery): Promise<readonly Candidate[]> {
    const [byVector, byText] = await Promise.all([
      this.#searchVector(vector, depth, filter),
      this.#searchText(text, vector, depth, filter),
    ])
    const found = new Map<string, Candidate>()
    byVector.forEach((row, i) => found.set(row.chunk_id, toCandidate(row, i + 1, null)))
    byText.forEach((row, i) =>
      found.set(row.chunk_id, toCandidate(row, found.get(row.chunk_id)?.vectorRank ?? null, i + 1)),
    )
    return [...found.values()]
  }

  #searchVector(vector: Float32Array, depth: number, filter: MetadataFilter | undefined): Promise<ChunkRow[]> {
    const parameters = new Parameters()
    const query = `${parameters.add(pgvector.toSql([...vector]))}::vector(${this.dimensions})`
    const embedding = `c.embedding::vector(${this.dimensions})`
    return this.#query<ChunkRow>(
      `select ${CHUNK_COLUMNS}, -(${embedding} <#> ${query}) as similarity
       from miniserve.chunks c join miniserve.documents d using (document_id)
       where c.index_id = ${Number(this.#id)} and ${filterSql(filter, parameters)}
       order by ${embedding} <#> ${query} limit ${parameters.add(depth)}`,
      parameters.values,
    )
  }

  /** BM25 as in bm25.ts, over the postings of the query's terms. */
  async #searchText(
    text: string,
    vector: Float32Array,
    depth: number,
    filter: MetadataFilter | undefined,
  ): Promise<ChunkRow[]> {
    const terms = countTerms(text)
    if (terms.size === 0) return []
    const parameters = new Parameters()
    const index = parameters.add(this.#id)
    const query = `${parameters.add(pgvector.toSql([...vector]))}::vector(${this.dimensions})`
    return this.#query<ChunkRow>(
      `with totals as (
         select count(*)::float8 as n, greatest(1, coalesce(avg(num_terms), 0))::float8 as mean
         from miniserve.chunks where index_id = ${index}
       ), terms as (
         select term, weight from unnest(${parameters.add([...terms.keys()])}::text[], ${parameters.add([...terms.values()])}::float8[]) as t(term, weight)
       ), weighted as (
         select term, weight * ln(1 + (n - df + 0.5) / (df + 0.5)) as idf
         from (select t.term, t.weight, count(*)::float8 as df from terms t
               join miniserve.postings p on p.index_id = ${index} and p.term = t.term group by t.term, t.weight) as f, totals
       ), scored as (
         select p.chunk_id, sum(w.idf * p.frequency * (${BM25_K1} + 1) /
                (p.frequency + ${BM25_K1} * (1 - ${BM25_B} + ${BM25_B} * c.num_terms / totals.mean))) as score
         from weighted w join miniserve.postings p on p.index_id = ${index} and p.term = w.term
         join miniserve.chunks c on c.chunk_id = p.chunk_id
         join miniserve.documents d on d.document_id = c.document_id, totals
         where ${filterSql(filter, parameters)}
         group by p.chunk_id order by score desc, p.chunk_id limit ${parameters.add(depth)}
       )
       select ${CHUNK_COLUMNS}, -(c.embedding::vector(${this.dimensions}) <#> ${query}) as similarity
       from scored s join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by s.score desc, c.chunk_id`,
      parameters.values,
    )
  }

  async #insert(client: PoolClient, document: EmbeddedDocument): Promise<void> {
    const { id, source, contentHash, origin, metadata, chunks, vectors } = document
    const inserted = await client.query<{ document_id: string }>(
      `insert into miniserve.documents (index_id, id, source, content_hash, origin, metadata)
       values ($1, $2, $3, $4, $5, $6) returning document_id`,
      [this.#id, id, source, contentHash, origin, JSON.stringify(metadata)],
    )
    for (const [i, chunk] of chunks.entries()) {
      const terms = countTerms(searchableText(document, chunk))
      const embedding = pgvector.toSql([...vectors.subarray(i * this.dimensions, (i + 1) * this.dimensions)])
      const { rows } = await client.query<{ chunk_id: string }>(
        `insert into miniserve.chunks
           (index_id, document_id, chunk, text, headings, start_offset, end_offset, num_tokens, num_terms, embedding)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning chunk_id`,
        [
          this.#id,
          inserted.rows[0]?.document_id,
          chunk.chunk,
          chunk.text,
          chunk.headings,
          chunk.start,
          chunk.end,
          chunk.numTokens,
          [...terms.values()].reduce((sum, count) => sum + count, 0),
          embedding,
        ],
      )
      await client.query(
        `insert into miniserve.postings (index_id, term, chunk_id, frequency)
         select $1, term, $2, frequency from unnest($3::text[], $4::int[]) as t(term, frequency)`,
        [this.#id, rows[0]?.chunk_id, [...terms.keys()], [...terms.values()]],
      )
    }
  }

  /** Makes the approximate index once the chunks are many. Partial: each index has its own dimensions. */
  async #addHnsw(): Promise<void> {
    if (this.#hasHnsw || this.dimensions > HNSW_MAX_DIMENSIONS) return
    const [row] = await this.#query<{ many: boolean }>(
      'select count(*) >= $2 as many from (select from miniserve.chunks where index_id = $1 limit $2) as first_chunks',
      [this.#id, this.#hnswMinChunks],
    )
    if (!row?.many) return
    await this.#query(
      `create index if not exists chunks_hnsw_${Number(this.#id)} on miniserve.chunks
       using hnsw ((embedding::vector(${this.dimensions})) vector_ip_ops) where index_id = ${Number(this.#id)}`,
      [],
    )
    this.#hasHnsw = true
  }

  async #query<R extends QueryResultRow>(text: string, values: readonly unknown[]): Promise<R[]> {
    try {
      return (await this.#pool.query<R>(text, [...values])).rows
    } catch (error) {
      throw storeError(error)
    }
  }
}

const toChunk = (row: ChunkRow) => ({
  chunk: row.chunk,
  text: row.text,
  headings: row.headings,
  start: row.start_offset,
  end: row.end_offset,
  numTokens: row.num_tokens,
})

const toCandidate = (row: ChunkRow, vectorRank: number | null, textRank: number | null): Candidate => ({
  ...toChunk(row),
  documentId: row.id,
  source: row.source,
  metadata: row.metadata,
  similarity: row.similarity,
  vectorRank,
  textRank,
})

async function inTransaction(pool: Pool, work: (client: PoolClient) => Promise<void>): Promise<void> {
  let client: PoolClient
  try {
    client = await pool.connect()
  } catch (error) {
    throw storeError(error)
  }
  let failure: unknown = null
  try {
    await client.query('begin')
    await work(client)
    await client.query('commit')
  } catch (error) {
    failure = error
    await client.query('rollback').catch(() => undefined)
    throw storeError(error)
  } finally {
    // A connection that failed is not given back: its state is not known.
    client.release(failure !== null)
  }
}

export interface PgvectorOptions {
  /** Chunks of an index from which on it is searched approximately. */
  readonly hnswMinChunks?: number
}

/** @param url postgres://user:password@host:port/database; the user may create a schema there. */
export function createPgvectorStore(
  url: string,
  { hnswMinChunks = HNSW_MIN_CHUNKS }: PgvectorOptions = {},
): IndexStore {
  const pool = new Pool({
    connectionString: url,
    max: POOL_SIZE,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    application_name: 'miniserve',
  })
  // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
  pool.on('error', () => undefined)
  let prepared: Promise<void> | null = null
  let isClosed = false

  const prepare = (): Promise<void> => {
    prepared ??= inTransaction(pool, async (client) => {
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
    prepared.catch(() => {
      prepared = null
    })
    return prepared
  }

  async function find(name: string): Promise<PgvectorIndex | null> {
    await prepare()
    try {
      const { rows } = await pool.query<{ index_id: string } & IndexSpec>(
        'select index_id, model, dimensions from miniserve.indexes where name = $1',
        [name],
      )
      return rows[0] ? new PgvectorIndex(pool, rows[0].index_id, name, rows[0], hnswMinChunks) : null
    } catch (error) {
      throw storeError(error)
    }
  }

  return {
    async list() {
      await prepare()
      const { rows } = await pool
        .query<{ name: string }>('select name from miniserve.indexes order by name')
        .catch((error: unknown) => {
          throw storeError(error)
        })
      const infos: IndexInfo[] = []
      for (const { name } of rows) {
        const index = await find(name)
        if (index) infos.push(await index.info())
      }
      return infos
    },
    open: (name) => (isIndexName(name) ? find(name) : Promise.resolve(null)),
    async openOrCreate(name, spec) {
      checkName(name)
      await prepare()
      await pool
        .query('insert into miniserve.indexes (name, model, dimensions) values ($1, $2, $3) on conflict do nothing', [
          name,
          spec.model,
          spec.dimensions,
        ])
        .catch((error: unknown) => {
          throw storeError(error)
        })
      const index = await find(name)
      if (!index) throw new RagError('store_unavailable', 'the index vanished right after it was made')
      checkSpec(index, spec)
      return index
    },
    async drop(name) {
      const index = await find(name)
      if (!index) return false
      await pool
        .query<{ index_id: string }>('delete from miniserve.indexes where name = $1 returning index_id', [name])
        .then(({ rows }) => pool.query(`drop index if exists miniserve.chunks_hnsw_${Number(rows[0]?.index_id ?? 0)}`))
        .catch((error: unknown) => {
          throw storeError(error)
        })
      return true
    },
    async close() {
      if (isClosed) return
      isClosed = true
      await pool.end()
    },
  }
}
