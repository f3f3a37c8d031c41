/**
 * A search in one index of the pgvector store: by vector, through HNSW or exactly, and by words, with BM25 over the terms that a tsvector and its
 * GIN index find.
 */
import type { QueryResultRow } from 'pg'
import pgvector from 'pgvector/pg'
import { BM25_B, BM25_K1, countTerms, inverseDocumentFrequency } from '../bm25.ts'
import { CLOSEST_CHUNKS, type Candidate, type Metadata, type SearchQuery } from '../vector-index.ts'
import type { Database } from './database.ts'
import { filterSql, SqlParameters } from './filter-sql.ts'
import { nearestName } from './large-indexes.ts'
import { tsQuery } from './term-vector.ts'

/** Chunks scored by their words at first, and at most if the first ones do not settle the order. */
const SCORED_CHUNKS = [20_000, 60_000]
/** How many times the wanted chunks the graph is asked for: it has half-precision vectors, so its order is approximate. */
const SPARE = 2
/** The longest list of candidates that pgvector allows for HNSW. Iterative scans find what is wanted beyond it. */
const MAX_EF_SEARCH = 1000
const EF_SEARCH = [400, MAX_EF_SEARCH]
/** The upper bound of a term's score divided by its inverse document frequency. */
const MOST_SATURATED = BM25_K1 + 1

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

/** The columns of a ChunkRow without its similarity, from chunks `c` and documents `d`. */
export const CHUNK_COLUMNS = `c.chunk_id, c.document_id, d.id, d.source, d.metadata, c.chunk, c.text, c.headings, c.anchor, c.start_offset, c.end_offset, c.num_tokens`

/** The chunk of a row, in the terms of the contract. */
export const toChunk = (row: ChunkRow) => ({
  chunk: row.chunk,
  text: row.text,
  headings: row.headings,
  ...(row.anchor !== null && { anchor: row.anchor }),
  start: row.start_offset,
  end: row.end_offset,
  numTokens: row.num_tokens,
})

interface TextRow extends ChunkRow {
  readonly score: number
}

/** A term of the query with its inverse document frequency, multiplied by its count in the query. */
interface Weighted {
  readonly term: string
  readonly idf: number
  /** Chunks with the term. */
  readonly numChunks: number
}

/** What a search needs to know about the index. */
interface Facts {
  readonly numChunks: number
  /** Mean number of terms per chunk and per document. */
  readonly meanTerms: number
  readonly meanDocumentTerms: number
  /** Whether the HNSW index is there. */
  readonly hasNearest: boolean
  /** Rarest first. */
  readonly weighted: readonly Weighted[]
  /** The score of a chunk of mean length that has every term once. */
  readonly whole: number
}

/** The index that is searched. */
interface SearchedIndex {
  readonly database: Database
  readonly id: number
  readonly dimensions: number
  /** Up to this number of chunks, of the index or of the documents that pass the filter, all chunks are compared. */
  readonly maxExactChunks: number
}

/** One search. Vectors have `dimensions` f32 values. */
export class PgvectorSearch {
  readonly #index: SearchedIndex
  readonly #query: SearchQuery
  readonly #signal: AbortSignal | undefined
  readonly #facts: Facts
  /** The documents that pass the filter, if they are few; null: the filter applies. */
  readonly #documents: readonly string[] | null

  private constructor(
    index: SearchedIndex,
    query: SearchQuery,
    signal: AbortSignal | undefined,
    facts: Facts,
    documents: readonly string[] | null,
  ) {
    this.#index = index
    this.#query = query
    this.#signal = signal
    this.#facts = facts
    this.#documents = documents
  }

  /** As VectorIndex.search. */
  static async run(index: SearchedIndex, query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    const facts = await readFacts(index, countTerms(query.text), signal)
    const documents = await fewDocuments(index, facts, query, signal)
    return new PgvectorSearch(index, query, signal, facts, documents).#run()
  }

  async #run(): Promise<readonly Candidate[]> {
    const [byVector, byText] = await Promise.all([this.#byVector(), this.#byText()])
    const isFoundByText = new Set(byText.map((row) => row.chunk_id))
    const rest = byVector.filter((row) => !isFoundByText.has(row.chunk_id)).map((row) => row.chunk_id)
    const documents = [...new Set([...byVector, ...byText].map((row) => row.document_id))]
    const [scores, documentScores, similarities] = await Promise.all([
      this.#chunkScores(rest),
      this.#documentScores(documents),
      this.#documentSimilarities(documents),
    ])
    const { whole } = this.#facts
    const share = (score: number | undefined) => (whole === 0 ? 0 : (score ?? 0) / whole)
    const found = new Map<string, Candidate>()
    const add = (row: ChunkRow, score: number | undefined, ranks: Pick<Candidate, 'vectorRank' | 'textRank'>): void => {
      found.set(row.chunk_id, {
        ...toChunk(row),
        ...ranks,
        documentId: row.id,
        source: row.source,
        metadata: row.metadata,
        similarity: row.similarity,
        textShare: share(score),
        documentShare: share(documentScores.get(row.document_id)),
        documentSimilarity: similarities.get(row.document_id) ?? 0,
      })
    }
    byVector.forEach((row, i) => add(row, scores.get(row.chunk_id), { vectorRank: i + 1, textRank: null }))
    byText.forEach((row, i) => {
      add(row, row.score, { vectorRank: found.get(row.chunk_id)?.vectorRank ?? null, textRank: i + 1 })
    })
    return [...found.values()]
  }

  async #byVector(): Promise<readonly ChunkRow[]> {
    const { hasNearest, numChunks } = this.#facts
    if (hasNearest && numChunks > this.#index.maxExactChunks && this.#documents === null) {
      const rows = await this.#nearest(true)
      // A scan of the graph ends early if a filter or deleted chunks leave too little of what it reads.
      if (rows.length === Math.min(this.#query.depth, numChunks)) return rows
    }
    return this.#nearest(false)
  }

  #nearest(isApproximate: boolean): Promise<ChunkRow[]> {
    const { vector, depth } = this.#query
    const { dimensions } = this.#index
    const parameters = new SqlParameters()
    const query = parameters.add(pgvector.toSql(Array.from(vector)))
    const { from, where } = this.#chunks(parameters)
    const most = parameters.add(isApproximate ? SPARE * depth : depth)
    const halved = `c.embedding::halfvec(${dimensions}) <#> ${query}::halfvec(${dimensions})`
    // Exact: ordered by the value that is returned, so that each vector is read once.
    const order = isApproximate ? halved : 'similarity desc, c.chunk_id'
    return this.#rows<ChunkRow>(
      `with nearest as materialized (
         select c.chunk_id, -(c.embedding <#> ${query}::vector) as similarity from ${from} where ${where}
         order by ${order} limit ${most}
       )
       select ${CHUNK_COLUMNS}, n.similarity
       from nearest n join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by n.similarity desc, c.chunk_id limit ${parameters.add(depth)}`,
      parameters.values,
      isApproximate ? efSearchFor(SPARE * depth) : undefined,
    )
  }

  /**
   * The best chunks by BM25. A chunk without any of the rare terms cannot beat one with them by more than the common terms are worth. Chunks with
   * common terms only are therefore skipped as soon as that settles the order (MaxScore: Turtle and Flood, 1995), or if reading all of them would
   * take too long.
   */
  async #byText(): Promise<readonly TextRow[]> {
    const { weighted } = this.#facts
    let rows: readonly TextRow[] = []
    let numRequired = 0
    for (const most of SCORED_CHUNKS) {
      const before = numRequired
      // Of few documents, and in a small index, every chunk is read.
      numRequired = this.#documents ? weighted.length : numWithin(weighted, most)
      if (numRequired === before) break
      rows = await this.#bestByText(numRequired)
      const open = weighted.slice(numRequired).reduce((sum, { idf }) => sum + idf, 0) * MOST_SATURATED
      if (open === 0 || (rows.length === this.#query.depth && (rows.at(-1)?.score ?? 0) >= open)) break
    }
    return rows
  }

  /** The best chunks with one of the first `numRequired` terms, scored by all terms. */
  #bestByText(numRequired: number): Promise<TextRow[]> {
    const parameters = new SqlParameters()
    const required = this.#facts.weighted.slice(0, numRequired).map(({ term }) => term)
    const { from, where } = this.#chunks(parameters)
    const score = chunkScoreSql(this.#facts, parameters)
    const { vector, depth } = this.#query
    return this.#rows<TextRow>(
      `with best as materialized (
         select c.chunk_id, s.score from ${from} cross join lateral (${score}) as s
         where ${where} and c.terms @@ ${parameters.add(tsQuery(required))}::tsquery
         order by s.score desc, c.chunk_id limit ${parameters.add(depth)}
       )
       select ${CHUNK_COLUMNS}, -(c.embedding <#> ${parameters.add(pgvector.toSql(Array.from(vector)))}::vector) as similarity, b.score
       from best b join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by b.score desc, c.chunk_id`,
      parameters.values,
    )
  }

  /** The BM25 scores of these chunks. */
  async #chunkScores(chunks: readonly string[]): Promise<ReadonlyMap<string, number>> {
    if (chunks.length === 0 || this.#facts.weighted.length === 0) return new Map()
    const parameters = new SqlParameters()
    const rows = await this.#rows<{ chunk_id: string; score: number | null }>(
      `select c.chunk_id, s.score from miniserve.chunks c cross join lateral (${chunkScoreSql(this.#facts, parameters)}) as s
       where c.chunk_id = any(${parameters.add(chunks)}::bigint[])`,
      parameters.values,
    )
    return new Map(rows.map(({ chunk_id: chunk, score }) => [chunk, score ?? 0]))
  }

  /** The BM25 scores of these documents as a whole. */
  async #documentScores(documents: readonly string[]): Promise<ReadonlyMap<string, number>> {
    if (documents.length === 0 || this.#facts.weighted.length === 0) return new Map()
    const parameters = new SqlParameters()
    const terms = weightedSql(this.#facts, parameters)
    const length = `d.num_terms / ${this.#facts.meanDocumentTerms}::float8`
    const rows = await this.#rows<{ document_id: string; score: number }>(
      `select h.document_id, sum(h.idf * ${saturated('h.frequency', length)}) as score
       from (
         select c.document_id, w.term, w.idf, sum(t.positions[1])::float8 as frequency
         from miniserve.chunks c cross join lateral unnest(${occurring(terms)}) as t(lexeme, positions, weights)
         join ${terms.table} on w.term = t.lexeme
         where c.document_id = any(${parameters.add(documents)}::bigint[]) group by c.document_id, w.term, w.idf
       ) as h join miniserve.documents d using (document_id) group by h.document_id`,
      parameters.values,
    )
    return new Map(rows.map(({ document_id: document, score }) => [document, score]))
  }

  /** The mean similarity of each document's closest chunks. */
  async #documentSimilarities(documents: readonly string[]): Promise<ReadonlyMap<string, number>> {
    if (documents.length === 0) return new Map()
    const rows = await this.#rows<{ document_id: string; similarity: number }>(
      `select document_id, avg(similarity)::float8 as similarity
       from (select document_id, similarity, row_number() over (partition by document_id order by similarity desc) as place
             from (select document_id, -(embedding <#> $2::vector) as similarity
                   from miniserve.chunks where document_id = any($1::bigint[])) as chunks) as placed
       where place <= ${CLOSEST_CHUNKS} group by document_id`,
      [documents, pgvector.toSql(Array.from(this.#query.vector))],
    )
    return new Map(rows.map(({ document_id: document, similarity }) => [document, similarity]))
  }

  /** Tables and condition of the chunks that are searched. */
  #chunks(parameters: SqlParameters): { readonly from: string; readonly where: string } {
    const ofIndex = `c.index_id = ${this.#index.id}`
    if (this.#documents) {
      const where = `${ofIndex} and c.document_id = any(${parameters.add(this.#documents)}::bigint[])`
      return { from: 'miniserve.chunks c', where }
    }
    if (!isFiltered(this.#query)) return { from: 'miniserve.chunks c', where: ofIndex }
    return {
      from: 'miniserve.chunks c join miniserve.documents d using (document_id)',
      where: `${ofIndex} and ${filterSql(this.#query.filter, parameters)}`,
    }
  }

  #rows<R extends QueryResultRow>(text: string, values: readonly unknown[], efSearch?: number): Promise<R[]> {
    return this.#index.database.query<R>(text, values, this.#signal, efSearch)
  }
}

const isFiltered = ({ filter }: SearchQuery): boolean => Object.keys(filter ?? {}).length > 0

async function readFacts(
  { database, id }: SearchedIndex,
  terms: ReadonlyMap<string, number>,
  signal: AbortSignal | undefined,
): Promise<Facts> {
  const rows = await database.query<{
    num_documents: number
    num_chunks: number
    num_terms: number
    has_nearest: boolean
    term: string | null
    frequency: number | null
  }>(
    `select i.num_documents::float8, i.num_chunks::float8, i.num_terms::float8, t.term, t.num_chunks as frequency,
            exists (select from pg_index where indexrelid = to_regclass('miniserve.${nearestName(id)}') and indisvalid) as has_nearest
     from miniserve.indexes i left join miniserve.terms t on t.index_id = i.index_id and t.term = any($2)
     where i.index_id = $1`,
    [id, [...terms.keys()]],
    signal,
  )
  const numChunks = rows[0]?.num_chunks ?? 0
  const numTerms = rows[0]?.num_terms ?? 0
  const frequencies = new Map(rows.map(({ term, frequency }) => [term, frequency ?? 0]))
  const weighted = [...terms].map(([term, weight]) => {
    const frequency = frequencies.get(term) ?? 0
    return { term, idf: weight * inverseDocumentFrequency(numChunks, frequency), numChunks: frequency }
  })
  return {
    numChunks,
    meanTerms: Math.max(1, numTerms / Math.max(1, numChunks)),
    meanDocumentTerms: Math.max(1, numTerms / Math.max(1, rows[0]?.num_documents ?? 0)),
    hasNearest: rows[0]?.has_nearest ?? false,
    weighted: weighted.filter(({ numChunks: n }) => n > 0).toSorted((a, b) => a.numChunks - b.numChunks),
    whole: weighted.reduce((sum, { idf }) => sum + idf, 0),
  }
}

/** The documents of a large index that pass the filter, if they and their chunks are few enough to be searched exactly; else null. */
async function fewDocuments(
  { database, id, maxExactChunks }: SearchedIndex,
  facts: Facts,
  query: SearchQuery,
  signal: AbortSignal | undefined,
): Promise<readonly string[] | null> {
  if (!isFiltered(query) || facts.numChunks <= maxExactChunks) return null
  const parameters = new SqlParameters()
  const rows = await database.query<{ document_id: string; num_chunks: number }>(
    `select d.document_id, d.num_chunks from miniserve.documents d
     where d.index_id = ${id} and ${filterSql(query.filter, parameters)} limit ${maxExactChunks + 1}`,
    parameters.values,
    signal,
  )
  const numChunks = rows.reduce((sum, { num_chunks: n }) => sum + n, 0)
  return Math.max(rows.length, numChunks) > maxExactChunks ? null : rows.map(({ document_id: document }) => document)
}

/** The length of HNSW's list of candidates: one of few values, because each change takes a statement. */
const efSearchFor = (depth: number): number => EF_SEARCH.find((value) => value >= depth) ?? MAX_EF_SEARCH

/** How many of the terms, rarest first, have at most `most` chunks together; at least one if there is one. */
function numWithin(weighted: readonly Weighted[], most: number): number {
  let sum = 0
  const first = weighted.findIndex(({ numChunks }) => (sum += numChunks) > most)
  return first < 0 ? weighted.length : Math.max(1, first)
}

interface WeightedSql {
  readonly table: string
  readonly names: string
}

function weightedSql({ weighted }: Facts, parameters: SqlParameters): WeightedSql {
  const names = `${parameters.add(weighted.map(({ term }) => term))}::text[]`
  const idfs = `${parameters.add(weighted.map(({ idf }) => idf))}::float8[]`
  return { names, table: `unnest(${names}, ${idfs}) as w(term, idf)` }
}

/** The terms of the query in chunk `c`, picked within the tsvector: unfolding all of its terms would be slower. */
const occurring = ({ names }: WeightedSql): string => `ts_filter(setweight(c.terms, 'A', ${names}), '{a}')`

/** A statement for the BM25 score of chunk `c`. */
function chunkScoreSql(facts: Facts, parameters: SqlParameters): string {
  const terms = weightedSql(facts, parameters)
  const length = `c.num_terms / ${facts.meanTerms}::float8`
  return (
    `select sum(w.idf * ${saturated('t.positions[1]::float8', length)}) as score ` +
    `from unnest(${occurring(terms)}) as t(lexeme, positions, weights) join ${terms.table} on w.term = t.lexeme`
  )
}

/** The part of BM25 that grows with a term's frequency. @param length divided by its mean */
const saturated = (frequency: string, length: string): string =>
  `${frequency} * (${BM25_K1} + 1) / (${frequency} + ${BM25_K1} * (1 - ${BM25_B} + ${BM25_B} * ${length}))`
