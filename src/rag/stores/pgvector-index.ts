/** One index in PostgreSQL: documents, chunks and the postings of BM25, which PostgreSQL's own ranking functions do not compute. */
import type { PoolClient, QueryResultRow } from 'pg'
import pgvector from 'pgvector/pg'
import { BM25_B, BM25_K1, countTerms } from '../bm25.ts'
import { RagError } from '../errors.ts'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  MetadataFilter,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import type { Database } from './database.ts'
import { filterSql, SqlParameters } from './filter-sql.ts'
import type { HnswBuilder } from './hnsw.ts'
import { searchableText } from './memory-index.ts'

interface ChunkRow {
  readonly chunk_id: string
  readonly document_id: string
  readonly id: string
  readonly source: string
  readonly metadata: StoredDocument['metadata']
  readonly chunk: number
  readonly text: string
  readonly headings: string[]
  readonly anchor: string | null
  readonly start_offset: number
  readonly end_offset: number
  readonly num_tokens: number
  readonly similarity: number
}

interface TextRow extends ChunkRow {
  readonly text_share: number
}

const CHUNK_COLUMNS = `c.chunk_id, c.document_id, d.id, d.source, d.metadata, c.chunk, c.text, c.headings, c.anchor, c.start_offset, c.end_offset, c.num_tokens`

/** One index in PostgreSQL with pgvector. Vectors have `dimensions` f32 values. */
export class PgvectorIndex implements VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  readonly #database: Database
  readonly #id: string
  readonly #hnsw: HnswBuilder

  constructor(database: Database, id: string, name: string, { model, dimensions }: IndexSpec, hnsw: HnswBuilder) {
    this.#hnsw = hnsw
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
    return {
      name,
      model,
      dimensions,
      numDocuments: row?.documents ?? 0,
      numChunks: row?.chunks ?? 0,
      bytes: row?.bytes ?? 0,
    }
  }

  async isEmpty(): Promise<boolean> {
    const rows = await this.#database.query('select 1 from miniserve.indexes where index_id = $1 and num_chunks > 0', [
      this.#id,
    ])
    return rows.length === 0
  }

  async upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    await this.#database.transaction(async (client) => {
      const ids = documents.map(({ id }) => id)
      // One writer at a time: two that put the same document would each insert it.
      const { rowCount } = await client.query('select from miniserve.indexes where index_id = $1 for update', [
        this.#id,
      ])
      if (rowCount === 0) throw new RagError('index_not_found', 'index: no index of that name', 'index')
      await this.#remove(client, ids)
      for (const document of documents) await this.#insert(client, document)
    })
    const { numChunks } = await this.info()
    this.#hnsw.consider({ id: Number(this.#id), dimensions: this.dimensions, numChunks })
  }

  async delete(ids: readonly string[]): Promise<number> {
    let numDeleted = 0
    await this.#database.transaction(async (client) => {
      numDeleted = await this.#remove(client, ids)
    })
    return numDeleted
  }

  /** Takes documents out, and out of the index's totals. */
  async #remove(client: PoolClient, ids: readonly string[]): Promise<number> {
    const { rows } = await client.query<{ n: number }>(
      `with gone as (
         delete from miniserve.documents where index_id = $1 and id = any($2) returning num_chunks, num_terms, num_bytes
       ), total as (
         select count(*) as n, coalesce(sum(num_chunks), 0) as chunks, coalesce(sum(num_terms), 0) as terms,
                coalesce(sum(num_bytes), 0) as bytes from gone
       ), changed as (
         update miniserve.indexes i set num_documents = num_documents - n, num_chunks = num_chunks - chunks,
                num_terms = num_terms - terms, num_bytes = num_bytes - bytes from total where i.index_id = $1 and n > 0
       ) select n::int from total`,
      [this.#id, ids],
    )
    return rows[0]?.n ?? 0
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

  async search({ vector, text, depth, filter }: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    const [byVector, byText] = await Promise.all([
      this.#searchVector(vector, depth, filter, signal),
      this.#searchText(text, vector, depth, filter, signal),
    ])
    const isFoundByText = new Set(byText.map((row) => row.chunk_id))
    // Where lexical search gave all that it has, the others have none of the words.
    const rest = byText.length < depth ? [] : byVector.filter((row) => !isFoundByText.has(row.chunk_id))
    const [shares, documentShares] = await Promise.all([
      this.#textShares(text, rest, signal),
      this.#documentShares(text, [...byVector, ...byText], signal),
    ])
    const sharesOf = (row: ChunkRow, textShare = 0) => ({
      textShare,
      documentShare: documentShares.get(row.document_id) ?? 0,
    })
    const found = new Map<string, Candidate>()
    byVector.forEach((row, i) => {
      const ranks = { vectorRank: i + 1, textRank: null }
      found.set(row.chunk_id, toCandidate(row, ranks, sharesOf(row, shares.get(row.chunk_id))))
    })
    byText.forEach((row, i) => {
      const vectorRank = found.get(row.chunk_id)?.vectorRank ?? null
      found.set(row.chunk_id, toCandidate(row, { vectorRank, textRank: i + 1 }, sharesOf(row, row.text_share)))
    })
    return [...found.values()]
  }

  #searchVector(
    vector: Float32Array,
    depth: number,
    filter: MetadataFilter | undefined,
    signal: AbortSignal | undefined,
  ): Promise<ChunkRow[]> {
    const parameters = new SqlParameters()
    const query = `${parameters.add(pgvector.toSql([...vector]))}::vector(${this.dimensions})`
    const embedding = `c.embedding::vector(${this.dimensions})`
    return this.#database.query<ChunkRow>(
      `select ${CHUNK_COLUMNS}, -(${embedding} <#> ${query}) as similarity
       from miniserve.chunks c join miniserve.documents d using (document_id)
       where c.index_id = ${Number(this.#id)} and ${filterSql(filter, parameters)}
       order by ${embedding} <#> ${query} limit ${parameters.add(depth)}`,
      parameters.values,
      signal,
    )
  }

  /** BM25 as in bm25.ts, over the postings of the query's terms. */
  async #searchText(
    text: string,
    vector: Float32Array,
    depth: number,
    filter: MetadataFilter | undefined,
    signal: AbortSignal | undefined,
  ): Promise<TextRow[]> {
    const terms = countTerms(text)
    if (terms.size === 0) return []
    const parameters = new SqlParameters()
    const query = `${parameters.add(pgvector.toSql([...vector]))}::vector(${this.dimensions})`
    return this.#database.query<TextRow>(
      `with ${this.#scored(terms, parameters, filterSql(filter, parameters))}, best as (
         select * from scored order by score desc, chunk_id limit ${parameters.add(depth)}
       )
       select ${CHUNK_COLUMNS}, -(c.embedding::vector(${this.dimensions}) <#> ${query}) as similarity,
              s.score / (select sum(idf) from weighted) as text_share
       from best s join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by s.score desc, c.chunk_id`,
      parameters.values,
      signal,
    )
  }

  /** What these chunks have of the words, by chunk. */
  async #textShares(
    text: string,
    rows: readonly ChunkRow[],
    signal: AbortSignal | undefined,
  ): Promise<ReadonlyMap<string, number>> {
    const terms = countTerms(text)
    if (rows.length === 0 || terms.size === 0) return new Map()
    const parameters = new SqlParameters()
    const isOne = `p.chunk_id = any(${parameters.add(rows.map((row) => row.chunk_id))}::bigint[])`
    const shares = await this.#database.query<{ chunk_id: string; share: number }>(
      `with ${this.#scored(terms, parameters, isOne)}
       select chunk_id, score / (select sum(idf) from weighted) as share from scored`,
      parameters.values,
      signal,
    )
    return new Map(shares.map(({ chunk_id: chunk, share }) => [chunk, share]))
  }

  /** What these documents have of the words as a whole, by document. */
  async #documentShares(
    text: string,
    rows: readonly ChunkRow[],
    signal: AbortSignal | undefined,
  ): Promise<ReadonlyMap<string, number>> {
    const terms = countTerms(text)
    if (rows.length === 0 || terms.size === 0) return new Map()
    const parameters = new SqlParameters()
    const weighted = this.#weighted(terms, parameters)
    const documents = parameters.add([...new Set(rows.map((row) => row.document_id))])
    const shares = await this.#database.query<{ document_id: string; share: number }>(
      `with ${weighted}, held as (
         select c.document_id, w.idf, sum(p.frequency)::float8 as frequency
         from miniserve.chunks c join weighted w on true
         join miniserve.postings p on p.index_id = c.index_id and p.term = w.term and p.chunk_id = c.chunk_id
         where c.document_id = any(${documents}::bigint[]) group by c.document_id, w.term, w.idf
       )
       select document_id, sum(h.idf * ${saturated('h.frequency', 'd.num_terms / totals.document_mean')}) /
              (select sum(idf) from weighted) as share
       from held h join miniserve.documents d using (document_id), totals group by document_id`,
      parameters.values,
      signal,
    )
    return new Map(shares.map(({ document_id: document, share }) => [document, share]))
  }

  /** Common table expressions: what the index holds in all, and the query's terms with their weights. */
  #weighted(terms: ReadonlyMap<string, number>, parameters: SqlParameters): string {
    const index = parameters.add(this.#id)
    return `totals as (
         select num_chunks::float8 as n, greatest(1, coalesce(num_terms::float8 / nullif(num_chunks, 0), 0)) as mean,
                greatest(1, coalesce(num_terms::float8 / nullif(num_documents, 0), 0)) as document_mean
         from miniserve.indexes where index_id = ${index}
       ), terms as (
         select term, weight from unnest(${parameters.add([...terms.keys()])}::text[], ${parameters.add([...terms.values()])}::float8[]) as t(term, weight)
       ), weighted as (
         select term, weight * ln(1 + (n - df + 0.5) / (df + 0.5)) as idf
         from (select t.term, t.weight, count(p.chunk_id)::float8 as df from terms t
               left join miniserve.postings p on p.index_id = ${index} and p.term = t.term group by t.term, t.weight) as f, totals
       )`
  }

  /** The same, and the scores of the chunks that meet a condition. */
  #scored(terms: ReadonlyMap<string, number>, parameters: SqlParameters, condition: string): string {
    return `${this.#weighted(terms, parameters)}, scored as (
         select p.chunk_id, sum(w.idf * ${saturated('p.frequency', 'c.num_terms / totals.mean')}) as score
         from weighted w join miniserve.postings p on p.index_id = ${parameters.add(this.#id)} and p.term = w.term
         join miniserve.chunks c on c.chunk_id = p.chunk_id
         join miniserve.documents d on d.document_id = c.document_id, totals
         where ${condition}
         group by p.chunk_id
       )`
  }

  async #insert(client: PoolClient, document: EmbeddedDocument): Promise<void> {
    const { id, source, contentHash, origin, metadata, chunks, vectors } = document
    const counted = chunks.map((chunk) => countTerms(searchableText(document, chunk)))
    const lengths = counted.map((terms) => [...terms.values()].reduce((sum, count) => sum + count, 0))
    const numTerms = lengths.reduce((sum, length) => sum + length, 0)
    const numBytes = chunks.reduce((sum, { text }) => sum + Buffer.byteLength(text) + 4 * this.dimensions, 0)
    const inserted = await client.query<{ document_id: string }>(
      `with counted as (
         update miniserve.indexes set num_documents = num_documents + 1, num_chunks = num_chunks + $7,
                num_terms = num_terms + $8, num_bytes = num_bytes + $9 where index_id = $1
       )
       insert into miniserve.documents (index_id, id, source, content_hash, origin, metadata, num_chunks, num_terms, num_bytes, stamp)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning document_id`,
      [
        this.#id,
        id,
        source,
        contentHash,
        origin,
        JSON.stringify(metadata),
        chunks.length,
        numTerms,
        numBytes,
        document.stamp ?? null,
      ],
    )
    for (const [i, chunk] of chunks.entries()) {
      const terms = counted[i] ?? new Map<string, number>()
      const embedding = pgvector.toSql([...vectors.subarray(i * this.dimensions, (i + 1) * this.dimensions)])
      const { rows } = await client.query<{ chunk_id: string }>(
        `insert into miniserve.chunks
           (index_id, document_id, chunk, text, headings, start_offset, end_offset, num_tokens, num_terms, embedding, anchor)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning chunk_id`,
        [
          this.#id,
          inserted.rows[0]?.document_id,
          chunk.chunk,
          chunk.text,
          chunk.headings,
          chunk.start,
          chunk.end,
          chunk.numTokens,
          lengths[i] ?? 0,
          embedding,
          chunk.anchor ?? null,
        ],
      )
      await client.query(
        `insert into miniserve.postings (index_id, term, chunk_id, frequency)
         select $1, term, $2, frequency from unnest($3::text[], $4::int[]) as t(term, frequency)`,
        [this.#id, rows[0]?.chunk_id, [...terms.keys()], [...terms.values()]],
      )
    }
  }
}

const toChunk = (row: ChunkRow) => ({
  chunk: row.chunk,
  text: row.text,
  headings: row.headings,
  ...(row.anchor !== null && { anchor: row.anchor }),
  start: row.start_offset,
  end: row.end_offset,
  numTokens: row.num_tokens,
})

/** The part of BM25 that grows with a term's frequency, `length` being over its mean. */
const saturated = (frequency: string, length: string): string =>
  `${frequency} * (${BM25_K1} + 1) / (${frequency} + ${BM25_K1} * (1 - ${BM25_B} + ${BM25_B} * ${length}))`

const toCandidate = (
  row: ChunkRow,
  ranks: Pick<Candidate, 'vectorRank' | 'textRank'>,
  shares: Pick<Candidate, 'textShare' | 'documentShare'>,
): Candidate => ({
  ...toChunk(row),
  documentId: row.id,
  source: row.source,
  metadata: row.metadata,
  similarity: row.similarity,
  ...ranks,
  ...shares,
})
