/** Adds and removes documents in the tables of the pgvector store. Each function needs a transaction that has locked the index. */
import type { PoolClient } from 'pg'
import pgvector from 'pgvector/pg'
import { countTerms } from '../bm25.ts'
import { indexNotFound } from '../errors.ts'
import type { EmbeddedDocument } from '../vector-index.ts'
import { searchableText } from './memory-index.ts'
import { tsVector } from './term-vector.ts'

/** Chunks per statement: their vectors and terms are sent as text. */
const CHUNKS_PER_STATEMENT = 1_000

interface IndexKey {
  readonly id: number
  readonly name: string
}

/** Locks an index against other writers until the transaction ends: two that write the same document would each insert it. */
export async function lockIndex(client: PoolClient, { id, name }: IndexKey): Promise<void> {
  const statement = 'select from miniserve.indexes where index_id = $1 and name = $2 for update'
  const { rowCount } = await client.query(statement, [id, name])
  if (rowCount === 0) throw indexNotFound()
}

/** Removes documents, also from the totals of the index. @returns how many of them existed */
export async function removeDocuments(client: PoolClient, index: number, ids: readonly string[]): Promise<number> {
  const { rows: found } = await client.query<{ document_id: string }>(
    'select document_id from miniserve.documents where index_id = $1 and id = any($2)',
    [index, ids],
  )
  if (found.length === 0) return 0
  const documents = found.map((row) => row.document_id)
  const { rows: terms } = await client.query<{ term: string; num_chunks: number }>(
    `update miniserve.terms t set num_chunks = t.num_chunks - g.n
     from (select v.lexeme, count(*)::int as n from miniserve.chunks c, unnest(c.terms) as v
           where c.document_id = any($2::bigint[]) group by v.lexeme) as g
     where t.index_id = $1 and t.term = g.lexeme returning t.term, t.num_chunks`,
    [index, documents],
  )
  const unused = terms.filter(({ num_chunks: left }) => left <= 0).map(({ term }) => term)
  if (unused.length > 0)
    await client.query('delete from miniserve.terms where index_id = $1 and term = any($2)', [index, unused])
  await client.query(
    `with gone as (
       delete from miniserve.documents where document_id = any($2::bigint[]) returning num_chunks, num_terms, num_bytes
     )
     update miniserve.indexes i set num_documents = num_documents - n, num_chunks = num_chunks - chunks,
            num_terms = num_terms - terms, num_bytes = num_bytes - bytes
     from (select count(*) as n, sum(num_chunks) as chunks, sum(num_terms) as terms, sum(num_bytes) as bytes from gone) as total
     where i.index_id = $1`,
    [index, documents],
  )
  return found.length
}

/** Inserts documents that do not exist yet. @returns the new number of chunks of the index */
export async function insertDocuments(
  client: PoolClient,
  index: number,
  dimensions: number,
  documents: readonly EmbeddedDocument[],
): Promise<number> {
  const counted = documents.map((document) =>
    document.chunks.map((chunk) => countTerms(searchableText(document, chunk))),
  )
  const lengths = counted.map((chunks) => chunks.map((terms) => sum([...terms.values()])))
  const numTerms = lengths.map(sum)
  const numBytes = documents.map(({ chunks }) =>
    sum(chunks.map(({ text }) => Buffer.byteLength(text) + 4 * dimensions)),
  )
  const numChunks = documents.map(({ chunks }) => chunks.length)
  const { rows: inserted } = await client.query<{ document_id: string; id: string }>(
    `insert into miniserve.documents (index_id, id, source, content_hash, origin, metadata, num_chunks, num_terms, num_bytes, stamp)
     select $1, id, source, content_hash, origin, metadata::jsonb, num_chunks, num_terms, num_bytes, stamp
     from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::bigint[], $9::bigint[], $10::text[]) with ordinality
       as t(id, source, content_hash, origin, metadata, num_chunks, num_terms, num_bytes, stamp, place) order by place
     returning document_id, id`,
    [
      index,
      documents.map(({ id }) => id),
      documents.map(({ source }) => source),
      documents.map(({ contentHash }) => contentHash),
      documents.map(({ origin }) => origin),
      documents.map(({ metadata }) => JSON.stringify(metadata)),
      numChunks,
      numTerms,
      numBytes,
      documents.map(({ stamp }) => stamp ?? null),
    ],
  )
  const documentIds = new Map(inserted.map((row) => [row.id, row.document_id]))
  const rows = documents.flatMap((document, d) =>
    document.chunks.map((chunk, i) => ({
      documentId: documentIds.get(document.id),
      chunk,
      terms: counted[d]?.[i] ?? new Map<string, number>(),
      numTerms: lengths[d]?.[i] ?? 0,
      vector: document.vectors.subarray(i * dimensions, (i + 1) * dimensions),
    })),
  )
  for (let first = 0; first < rows.length; first += CHUNKS_PER_STATEMENT) {
    const some = rows.slice(first, first + CHUNKS_PER_STATEMENT)
    await client.query(
      `insert into miniserve.chunks
         (index_id, document_id, chunk, text, headings, start_offset, end_offset, num_tokens, num_terms, embedding, terms, anchor)
       select $1, document_id, chunk, text, array(select jsonb_array_elements_text(headings::jsonb)), start_offset, end_offset, num_tokens,
              num_terms, embedding::vector, terms::tsvector, anchor
       from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::int[], $7::int[], $8::int[], $9::int[], $10::text[], $11::text[], $12::text[])
         with ordinality as t(document_id, chunk, text, headings, start_offset, end_offset, num_tokens, num_terms, embedding, terms, anchor, place)
       order by place`,
      [
        index,
        some.map(({ documentId }) => documentId),
        some.map(({ chunk }) => chunk.chunk),
        some.map(({ chunk }) => chunk.text),
        // Replaces halves of surrogate pairs, as pg does for text but not inside JSON.
        some.map(({ chunk }) => JSON.stringify(chunk.headings.map((heading) => Buffer.from(heading).toString()))),
        some.map(({ chunk }) => chunk.start),
        some.map(({ chunk }) => chunk.end),
        some.map(({ chunk }) => chunk.numTokens),
        some.map((row) => row.numTerms),
        some.map(({ vector }) => pgvector.toSql(Array.from(vector))),
        some.map(({ terms }) => tsVector(terms)),
        some.map(({ chunk }) => chunk.anchor ?? null),
      ],
    )
  }
  const frequencies = new Map<string, number>()
  for (const row of rows) for (const term of row.terms.keys()) frequencies.set(term, (frequencies.get(term) ?? 0) + 1)
  // In the order of the table's key, so that each page is touched once.
  const terms = [...frequencies].sort(([a], [b]) => (a < b ? -1 : 1))
  await client.query(
    `insert into miniserve.terms as t (index_id, term, num_chunks) select $1, term, n from unnest($2::text[], $3::int[]) as v(term, n)
     on conflict (index_id, term) do update set num_chunks = t.num_chunks + excluded.num_chunks`,
    [index, terms.map(([term]) => term), terms.map(([, n]) => n)],
  )
  const { rows: totals } = await client.query<{ num_chunks: number }>(
    `update miniserve.indexes set num_documents = num_documents + $2, num_chunks = num_chunks + $3, num_terms = num_terms + $4,
            num_bytes = num_bytes + $5 where index_id = $1 returning num_chunks::float8`,
    [index, documents.length, rows.length, sum(numTerms), sum(numBytes)],
  )
  return totals[0]?.num_chunks ?? 0
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
