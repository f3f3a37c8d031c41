/** How the tables of the pgvector store come from every older version to this one: under MINISERVE_TEST_LEVEL=full. */
import { describe, expect, it, onTestFinished } from 'vitest'
import { postgresBinaries, startPostgres } from '../../../bench/lib/postgres.mjs'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import type { Candidate } from '../vector-index.ts'
import { Database } from './database.ts'
import { createPgvectorStore } from './pgvector.ts'

const DIMENSIONS = 12
const SPEC = { model: 'test@1', dimensions: DIMENSIONS }
const binaries = process.env['MINISERVE_TEST_LEVEL'] === 'full' ? postgresBinaries() : null

/** What a search found, with every value that it is placed by. */
const found = (candidates: readonly Candidate[]): string[] =>
  candidates
    .map(({ documentId, chunk, vectorRank, textRank, similarity, textShare, documentShare }) =>
      [
        documentId,
        chunk,
        vectorRank,
        textRank,
        ...[similarity, textShare, documentShare].map((n) => n.toFixed(4)),
      ].join(' '),
    )
    .toSorted()

/** What takes the tables of a version back to the one before it, newest first; before version 1 there was no version. */
const OLDER: readonly (readonly string[])[] = [
  [
    `create table miniserve.postings (index_id bigint not null, term text not null, frequency int not null,
           chunk_id bigint not null references miniserve.chunks on delete cascade, primary key (index_id, term, chunk_id))`,
    `insert into miniserve.postings (index_id, term, chunk_id, frequency)
         select index_id, lexeme, chunk_id, positions[1] from miniserve.chunks, unnest(terms)`,
    'drop index miniserve.documents_by_metadata',
    'drop table miniserve.terms',
    'alter table miniserve.chunks drop column terms',
  ],
  ['alter table miniserve.chunks drop column anchor'],
  ['alter table miniserve.documents drop column stamp'],
  [
    'alter table miniserve.documents drop column num_chunks, drop column num_terms, drop column num_bytes',
    'alter table miniserve.indexes drop column num_documents, drop column num_chunks, drop column num_terms, drop column num_bytes',
  ],
  ['drop table miniserve.schema_version'],
]

describe.runIf(binaries !== null)('the tables', () => {
  it('are updated from every older version, once for servers that start together', async () => {
    const server = await startPostgres(binaries ?? '')
    onTestFinished(() => server.stop())
    const first = createPgvectorStore(server.url)
    const index = await first.openOrCreate('old', SPEC)
    const random = seededRandom(1)
    const documents = Array.from({ length: 5 }, (_, i) => syntheticDocument(`d'${i}\\`, DIMENSIONS, random))
    const query = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: "part of d'2", depth: 4 }
    const database = new Database(server.url)
    for (let version = OLDER.length - 1; version >= 0; version--) {
      // Documents anew: older versions did not keep all of it.
      await index.upsert(documents)
      const before = await index.info()
      const answer = found(await index.search(query))
      const steps = OLDER.slice(0, OLDER.length - version)
      for (const statement of steps.flat()) await database.query(statement, [])
      if (version > 0) await database.query('update miniserve.schema_version set version = $1', [version])
      const servers = Array.from({ length: 3 }, () => createPgvectorStore(server.url))
      const opened = await Promise.all(servers.map((store) => store.open('old')))
      for (const updated of opened) {
        expect([version, await updated?.info()]).toEqual([version, before])
        expect([version, found((await updated?.search(query)) ?? [])]).toEqual([version, answer])
      }
      expect(answer.length).toBeGreaterThan(4)
      await Promise.all(servers.map((store) => store.close()))
    }
    await database.query('update miniserve.schema_version set version = 99', [])
    const newer = createPgvectorStore(server.url)
    await expect(newer.open('old')).rejects.toMatchObject({ message: expect.stringContaining('version 99') })
    await Promise.all([newer.close(), first.close(), database.close()])
  })

  it('keep what a server of an older version stores during the update', async () => {
    const server = await startPostgres(binaries ?? '')
    onTestFinished(() => server.stop())
    const first = createPgvectorStore(server.url)
    const index = await first.openOrCreate('old', SPEC)
    const random = seededRandom(1)
    await index.upsert([syntheticDocument('d0', DIMENSIONS, random)])
    const database = new Database(server.url)
    for (const statement of OLDER[0] ?? []) await database.query(statement, [])
    await database.query('update miniserve.schema_version set version = 4', [])
    /** A document as version 4 put it, with one term. */
    const put = (id: string): Promise<void> =>
      database.transaction(async (client) => {
        await client.query('select from miniserve.indexes where index_id = 1 for update')
        const { rows } = await client.query<{ document_id: string }>(
          `insert into miniserve.documents (index_id, id, source, content_hash, origin, metadata, num_chunks, num_terms)
             values (1, $1, $1, '', '', '{}', 1, 1) returning document_id`,
          [id],
        )
        const { rows: chunks } = await client.query<{ chunk_id: string }>(
          `insert into miniserve.chunks (index_id, document_id, chunk, text, headings, start_offset, end_offset, num_tokens, num_terms, embedding)
             values (1, $1, 0, 'late', '{}', 0, 4, 1, 1, $2) returning chunk_id`,
          [rows[0]?.document_id, JSON.stringify(Array.from({ length: DIMENSIONS }, () => 0.1))],
        )
        await client.query(`insert into miniserve.postings values (1, 'late', 1, $1)`, [chunks[0]?.chunk_id])
        await client.query(
          'update miniserve.indexes set num_documents = num_documents + 1, num_chunks = num_chunks + 1',
        )
      })
    const newer = createPgvectorStore(server.url)
    const ids = Array.from({ length: 30 }, (_, i) => `late${i}`)
    const [outcomes] = await Promise.all([Promise.allSettled(ids.map(put)), newer.open('old')])
    const kept = ids.filter((_, i) => outcomes[i]?.status === 'fulfilled')
    const updated = await newer.open('old')
    expect(await updated?.info()).toMatchObject({ numDocuments: 1 + kept.length })
    const query = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: 'late', depth: 100 }
    const hits = (await updated?.search(query)) ?? []
    expect(hits.filter(({ textRank }) => textRank !== null).map(({ documentId }) => documentId)).toEqual(
      expect.arrayContaining(kept),
    )
    // From then on the older server's statements fail, and leave nothing.
    await expect(put('later')).rejects.toMatchObject({ code: 'store_unavailable' })
    expect(await updated?.info()).toMatchObject({ numDocuments: 1 + kept.length })
    await Promise.all([newer.close(), first.close(), database.close()])
  })
})
