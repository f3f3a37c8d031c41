/**
 * A search in one index of the pgvector store: by vector through HNSW or exactly, and by words with BM25 over the terms that a tsvector and its
 * GIN index find.
 */
import pgvector from 'pgvector/pg'
import { BM25_B, BM25_K1, countTerms, inverseDocumentFrequency } from '../bm25.ts'
import { CLOSEST_CHUNKS, type Candidate, type MetadataFilter, type SearchQuery } from '../vector-index.ts'
import type { Database } from './database.ts'
import { filterSql, SqlParameters } from './filter-sql.ts'
import { nearestName } from './large-indexes.ts'
import { CHUNK_COLUMNS, type ChunkRow, toCandidate } from './pgvector-rows.ts'
import { tsQuery } from './term-vector.ts'

/** Chunks whose words are scored at first, and at most where the first ones do not settle which are the best. */
const SCORED_CHUNKS = [20_000, 60_000]
/** How many more the graph is asked for than are wanted: it knows vectors in half precision, and gives them in nearly their order. */
const SPARE = 2
/** Sizes of HNSW's list of candidates; pgvector takes no larger one. What is asked for beyond it, iterative scans find. */
const MAX_EF_SEARCH = 1000
const EF_SEARCH = [400, MAX_EF_SEARCH]
/** A score's bound for a term of the query, over its inverse document frequency: of a chunk that has nothing else. */
const MOST_SATURATED = BM25_K1 + 1

interface TextRow extends ChunkRow {
  readonly score: number
}

/** A term of the query with its inverse document frequency, times how often the query has it. */
interface Weighted {
  readonly term: string
  readonly idf: number
  /** Chunks that have it. */
  readonly numChunks: number
}

/** What a search has to know of the index. */
interface Facts {
  readonly numChunks: number
  /** Terms of a chunk, and of a document, on average. */
  readonly meanTerms: number
  readonly meanDocumentTerms: number
  readonly hasNearest: boolean
  /** Rarest first. */
  readonly weighted: readonly Weighted[]
  /** Score of a chunk of mean length that has every term once. */
  readonly whole: number
}

/** Which chunks are asked for: all, those of some documents, or those whose documents a condition lets through. */
type Scope =
  | { readonly kind: 'all' }
  | { readonly kind: 'documents'; readonly ids: readonly string[] }
  | { readonly kind: 'filter'; readonly filter: MetadataFilter }

/** Searches one index. Vectors have `dimensions` f32 values. */
export class PgvectorSearch {
  readonly #database: Database
  readonly #id: number
  readonly #dimensions: number
  readonly #maxExactChunks: number

  /** @param maxExactChunks chunks up to which all of them are compared, be they the index's or what a filter leaves of it */
  constructor(database: Database, id: number, dimensions: number, maxExactChunks: number) {
    this.#database = database
    this.#id = id
    this.#dimensions = dimensions
    this.#maxExactChunks = maxExactChunks
  }

  /** As VectorIndex.search. */
  async search({ vector, text, depth, filter }: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    const facts = await this.#facts(countTerms(text), signal)
    const scope = await this.#scope(facts, filter, signal)
    const [byVector, byText] = await Promise.all([
      this.#byVector(facts, vector, depth, scope, signal),
      this.#byText(facts, vector, depth, scope, signal),
    ])
    const isFoundByText = new Set(byText.map((row) => row.chunk_id))
    const rest = byVector.filter((row) => !isFoundByText.has(row.chunk_id)).map((row) => row.chunk_id)
    const documents = [...new Set([...byVector, ...byText].map((row) => row.document_id))]
    const [scores, documentScores, similarities] = await Promise.all([
      this.#chunkScores(facts, rest, signal),
      this.#documentScores(facts, documents, signal),
      this.#documentSimilarities(vector, documents, signal),
    ])
    const share = (score: number | undefined) => (facts.whole === 0 ? 0 : (score ?? 0) / facts.whole)
    const ofDocument = (row: ChunkRow) => ({
      documentShare: share(documentScores.get(row.document_id)),
      documentSimilarity: similarities.get(row.document_id) ?? 0,
    })
    const found = new Map<string, Candidate>()
    byVector.forEach((row, i) => {
      const textShare = share(scores.get(row.chunk_id))
      const ranks = { vectorRank: i + 1, textRank: null }
      found.set(row.chunk_id, toCandidate(row, { ...ranks, textShare, ...ofDocument(row) }))
    })
    byText.forEach((row, i) => {
      const ranks = { vectorRank: found.get(row.chunk_id)?.vectorRank ?? null, textRank: i + 1 }
      found.set(row.chunk_id, toCandidate(row, { ...ranks, textShare: share(row.score), ...ofDocument(row) }))
    })
    return [...found.values()]
  }

  /** How close the closest chunks of these documents are, by document. */
  async #documentSimilarities(
    vector: Float32Array,
    documents: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<ReadonlyMap<string, number>> {
    if (documents.length === 0) return new Map()
    const rows = await this.#database.query<{ document_id: string; similarity: number }>(
      `select document_id, avg(similarity)::float8 as similarity
       from (select document_id, similarity, row_number() over (partition by document_id order by similarity desc) as place
             from (select document_id, -(embedding <#> $2::vector) as similarity
                   from miniserve.chunks where document_id = any($1::bigint[])) as chunks) as placed
       where place <= ${CLOSEST_CHUNKS} group by document_id`,
      [documents, pgvector.toSql([...vector])],
      signal,
    )
    return new Map(rows.map(({ document_id: document, similarity }) => [document, similarity]))
  }

  async #facts(terms: ReadonlyMap<string, number>, signal: AbortSignal | undefined): Promise<Facts> {
    const rows = await this.#database.query<{
      num_documents: number
      num_chunks: number
      num_terms: number
      has_nearest: boolean
      term: string | null
      frequency: number | null
    }>(
      `select i.num_documents::float8, i.num_chunks::float8, i.num_terms::float8, t.term, t.num_chunks as frequency,
              exists (select from pg_index where indexrelid = to_regclass('miniserve.${nearestName(this.#id)}') and indisvalid) as has_nearest
       from miniserve.indexes i left join miniserve.terms t on t.index_id = i.index_id and t.term = any($2)
       where i.index_id = $1`,
      [this.#id, [...terms.keys()]],
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

  /** Few documents are named: what is searched then is known, and its size. */
  async #scope(facts: Facts, filter: MetadataFilter | undefined, signal: AbortSignal | undefined): Promise<Scope> {
    if (filter === undefined || Object.keys(filter).length === 0) return { kind: 'all' }
    if (facts.numChunks <= this.#maxExactChunks) return { kind: 'filter', filter }
    const parameters = new SqlParameters()
    const rows = await this.#database.query<{ document_id: string; num_chunks: number }>(
      `select d.document_id, d.num_chunks from miniserve.documents d
       where d.index_id = ${this.#id} and ${filterSql(filter, parameters)} limit ${this.#maxExactChunks + 1}`,
      parameters.values,
      signal,
    )
    const numChunks = rows.reduce((sum, { num_chunks: n }) => sum + n, 0)
    return rows.length > this.#maxExactChunks || numChunks > this.#maxExactChunks
      ? { kind: 'filter', filter }
      : { kind: 'documents', ids: rows.map(({ document_id: id }) => id) }
  }

  /** Tables and condition of the chunks asked for. */
  #chunksOf(scope: Scope, parameters: SqlParameters): { readonly from: string; readonly where: string } {
    const ofIndex = `c.index_id = ${this.#id}`
    switch (scope.kind) {
      case 'all':
        return { from: 'miniserve.chunks c', where: ofIndex }
      case 'documents':
        return {
          from: 'miniserve.chunks c',
          where: `${ofIndex} and c.document_id = any(${parameters.add(scope.ids)}::bigint[])`,
        }
      case 'filter':
        return {
          from: 'miniserve.chunks c join miniserve.documents d using (document_id)',
          where: `${ofIndex} and ${filterSql(scope.filter, parameters)}`,
        }
    }
  }

  async #byVector(
    facts: Facts,
    vector: Float32Array,
    depth: number,
    scope: Scope,
    signal: AbortSignal | undefined,
  ): Promise<readonly ChunkRow[]> {
    if (facts.hasNearest && facts.numChunks > this.#maxExactChunks && scope.kind !== 'documents') {
      const rows = await this.#nearest(vector, depth, scope, true, signal)
      // A scan of the graph ends early where a filter, or deleted chunks, leave too little of what it reads.
      if (rows.length === Math.min(depth, facts.numChunks)) return rows
    }
    return this.#nearest(vector, depth, scope, false, signal)
  }

  #nearest(
    vector: Float32Array,
    depth: number,
    scope: Scope,
    isApproximate: boolean,
    signal: AbortSignal | undefined,
  ): Promise<ChunkRow[]> {
    const parameters = new SqlParameters()
    const query = parameters.add(pgvector.toSql(Array.from(vector)))
    const { from, where } = this.#chunksOf(scope, parameters)
    const most = parameters.add(isApproximate ? SPARE * depth : depth)
    const halved = `c.embedding::halfvec(${this.#dimensions}) <#> ${query}::halfvec(${this.#dimensions})`
    // Exactly: by the value that is shown, so that each vector is read once.
    const order = isApproximate ? halved : 'similarity desc, c.chunk_id'
    return this.#database.query<ChunkRow>(
      `with nearest as materialized (
         select c.chunk_id, -(c.embedding <#> ${query}::vector) as similarity from ${from} where ${where}
         order by ${order} limit ${most}
       )
       select ${CHUNK_COLUMNS}, n.similarity
       from nearest n join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by n.similarity desc, c.chunk_id limit ${parameters.add(depth)}`,
      parameters.values,
      signal,
      isApproximate ? efSearchFor(SPARE * depth) : undefined,
    )
  }

  /**
   * The best by BM25. A chunk without any of the rare terms cannot beat one that has them by more than the common terms are worth: chunks
   * that have common terms only are left unread as soon as that settles the order (MaxScore: Turtle and Flood, 1995), and where reading all of them
   * would take too long.
   */
  async #byText(
    facts: Facts,
    vector: Float32Array,
    depth: number,
    scope: Scope,
    signal: AbortSignal | undefined,
  ): Promise<readonly TextRow[]> {
    const { weighted } = facts
    let rows: readonly TextRow[] = []
    let numRequired = 0
    for (const most of SCORED_CHUNKS) {
      const before = numRequired
      // Of few documents, and in a small index, every chunk is read.
      numRequired = scope.kind === 'documents' ? weighted.length : numWithin(weighted, most)
      if (numRequired === before) break
      rows = await this.#bestByText(facts, vector, depth, scope, numRequired, signal)
      const open = weighted.slice(numRequired).reduce((sum, { idf }) => sum + idf, 0) * MOST_SATURATED
      if (open === 0 || (rows.length === depth && (rows.at(-1)?.score ?? 0) >= open)) break
    }
    return rows
  }

  /** Chunks that have one of the first `numRequired` terms, scored by all terms. */
  #bestByText(
    facts: Facts,
    vector: Float32Array,
    depth: number,
    scope: Scope,
    numRequired: number,
    signal: AbortSignal | undefined,
  ): Promise<TextRow[]> {
    const parameters = new SqlParameters()
    const required = facts.weighted.slice(0, numRequired).map(({ term }) => term)
    const { from, where } = this.#chunksOf(scope, parameters)
    const score = scoreSql(facts, parameters, 'c.terms', `c.num_terms / ${facts.meanTerms}::float8`)
    return this.#database.query<TextRow>(
      `with best as materialized (
         select c.chunk_id, s.score from ${from} cross join lateral (${score}) as s
         where ${where} and c.terms @@ ${parameters.add(tsQuery(required))}::tsquery
         order by s.score desc, c.chunk_id limit ${parameters.add(depth)}
       )
       select ${CHUNK_COLUMNS}, -(c.embedding <#> ${parameters.add(pgvector.toSql(Array.from(vector)))}::vector) as similarity, b.score
       from best b join miniserve.chunks c using (chunk_id) join miniserve.documents d using (document_id)
       order by b.score desc, c.chunk_id`,
      parameters.values,
      signal,
    )
  }

  /** What these chunks have of the words. */
  async #chunkScores(
    facts: Facts,
    chunks: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<ReadonlyMap<string, number>> {
    if (chunks.length === 0 || facts.weighted.length === 0) return new Map()
    const parameters = new SqlParameters()
    const score = scoreSql(facts, parameters, 'c.terms', `c.num_terms / ${facts.meanTerms}::float8`)
    const rows = await this.#database.query<{ chunk_id: string; score: number | null }>(
      `select c.chunk_id, s.score from miniserve.chunks c cross join lateral (${score}) as s
       where c.chunk_id = any(${parameters.add(chunks)}::bigint[])`,
      parameters.values,
      signal,
    )
    return new Map(rows.map(({ chunk_id: chunk, score: value }) => [chunk, value ?? 0]))
  }

  /** What these documents have of the words as a whole. */
  async #documentScores(
    facts: Facts,
    documents: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<ReadonlyMap<string, number>> {
    if (documents.length === 0 || facts.weighted.length === 0) return new Map()
    const parameters = new SqlParameters()
    const terms = weightedSql(facts, parameters)
    const rows = await this.#database.query<{ document_id: string; score: number }>(
      `select h.document_id, sum(h.idf * ${saturated('h.frequency', `d.num_terms / ${facts.meanDocumentTerms}::float8`)}) as score
       from (
         select c.document_id, w.term, w.idf, sum(t.positions[1])::float8 as frequency
         from miniserve.chunks c cross join lateral unnest(${occurring(terms, 'c.terms')}) as t(lexeme, positions, weights)
         join ${terms.table} on w.term = t.lexeme
         where c.document_id = any(${parameters.add(documents)}::bigint[]) group by c.document_id, w.term, w.idf
       ) as h join miniserve.documents d using (document_id) group by h.document_id`,
      parameters.values,
      signal,
    )
    return new Map(rows.map(({ document_id: document, score }) => [document, score]))
  }
}

/** Candidates that a scan of the graph keeps: few steps, as each new value is a statement of its own. */
const efSearchFor = (depth: number): number => EF_SEARCH.find((value) => value >= depth) ?? MAX_EF_SEARCH

/** How many terms, rarest first, have together at most so many chunks; one at least where there is one. */
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

/** Of a chunk's terms those of the query, picked within the tsvector: all others would have to be unfolded for nothing. */
const occurring = ({ names }: WeightedSql, vector: string): string =>
  `ts_filter(setweight(${vector}, 'A', ${names}), '{a}')`

/** A statement for the BM25 score of a chunk. `length`: its terms over their mean. */
function scoreSql(facts: Facts, parameters: SqlParameters, vector: string, length: string): string {
  const terms = weightedSql(facts, parameters)
  return (
    `select sum(w.idf * ${saturated('t.positions[1]::float8', length)}) as score ` +
    `from unnest(${occurring(terms, vector)}) as t(lexeme, positions, weights) join ${terms.table} on w.term = t.lexeme`
  )
}

/** The part of BM25 that grows with a term's frequency, `length` being over its mean. */
const saturated = (frequency: string, length: string): string =>
  `${frequency} * (${BM25_K1} + 1) / (${frequency} + ${BM25_K1} * (1 - ${BM25_B} + ${BM25_B} * ${length}))`
