/** What every store must do: the memory store through its worker, and PostgreSQL under MINISERVE_TEST_LEVEL=full. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import { postgresBinaries, startPostgres } from '../../../bench/lib/postgres.mjs'
import type { Candidate, IndexStore, Metadata, MetadataFilter, SearchQuery } from '../vector-index.ts'
import { matchesFilter } from '../filter.ts'
import { MemoryIndex } from './memory-index.ts'
import { createMemoryStore } from './memory.ts'
import { Database } from './database.ts'
import { createPgvectorStore } from './pgvector.ts'

const DIMENSIONS = 12
const SPEC = { model: 'test@1', dimensions: DIMENSIONS }
const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'

/** What a search found, without the order of its answer. */
const found = (candidates: readonly Candidate[]): string[] =>
  candidates
    .map(({ documentId, chunk, vectorRank, textRank, textShare, documentShare, documentSimilarity, similarity }) =>
      [
        documentId,
        chunk,
        vectorRank,
        textRank,
        textShare.toFixed(4),
        documentShare.toFixed(4),
        documentSimilarity.toFixed(4),
        similarity.toFixed(4),
      ].join(' '),
    )
    .toSorted()

function describeStore(
  name: string,
  start: () => Promise<{ readonly store: IndexStore; stop(): Promise<void> }>,
): void {
  describe(name, () => {
    let store: IndexStore
    let stop: () => Promise<void>
    beforeAll(async () => {
      ;({ store, stop } = await start())
    })
    afterAll(async () => {
      await store.close()
      await store.close()
      await stop()
    })

    it('keeps documents: adds, replaces, deletes, lists, and forgets a dropped index', async () => {
      const random = seededRandom(1)
      expect(await store.open('kept')).toBeNull()
      const index = await store.openOrCreate('kept', SPEC)
      const documents = ['a/b.md', 'ü?#', 'c'].map((id) => syntheticDocument(id, DIMENSIONS, random))
      await index.upsert(documents)
      for (const { vectors: _, ...document } of documents) expect(await index.get(document.id)).toEqual(document)
      expect(await index.get('none')).toBeNull()
      const replacement = syntheticDocument('c', DIMENSIONS, random)
      await index.upsert([replacement])
      expect(await index.get('c')).toMatchObject({ contentHash: replacement.contentHash, chunks: replacement.chunks })
      expect(await index.delete(['a/b.md', 'none'])).toBe(1)
      expect((await index.summaries()).map(({ id }) => id).toSorted()).toEqual(['c', 'ü?#'])
      expect((await index.summaries(['c', 'none', 'c'])).map(({ id }) => id)).toEqual(['c'])
      const again = await store.open('kept')
      expect(again).toMatchObject({ name: 'kept', ...SPEC })
      expect(await again?.info()).toMatchObject({ name: 'kept', numDocuments: 2, ...SPEC })
      expect(await store.names()).toContain('kept')
      expect(await store.exists('kept')).toBe(true)
      await expect(store.openOrCreate('kept', { model: 'test@2', dimensions: DIMENSIONS })).rejects.toMatchObject({
        code: 'index_model_mismatch',
        param: 'index',
      })
      // A key's own index of the same name is another one.
      expect(await (await store.openOrCreate('alice:kept', SPEC)).info()).toMatchObject({ numChunks: 0 })
      expect(await store.names()).toEqual(expect.arrayContaining(['kept', 'alice:kept']))
      expect(await store.drop('alice:kept')).toBe(true)
      expect(await store.exists('alice:kept')).toBe(false)
      expect(await store.exists('kept')).toBe(true)
      await expect(store.openOrCreate('../x', SPEC)).rejects.toMatchObject({ code: 'invalid_request', param: 'index' })
      expect(await store.drop('kept')).toBe(true)
      expect(await store.drop('kept')).toBe(false)
      expect(await store.open('kept')).toBeNull()
    })

    it('finds by vector and by BM25 exactly what a MemoryIndex finds', async () => {
      const random = seededRandom(2)
      const reference = new MemoryIndex(DIMENSIONS)
      const index = await store.openOrCreate('searched', SPEC)
      for (let round = 0; round < 3; round++) {
        const documents = Array.from({ length: 40 }, (_, i) =>
          syntheticDocument(`d${i + round * 20}`, DIMENSIONS, random),
        )
        await index.upsert(documents)
        for (const document of documents) reference.put(document)
      }
      const gone = ['d3', 'd50']
      await index.delete(gone)
      for (const id of gone) reference.delete(id)
      for (let i = 0; i < 12; i++) {
        const vector = syntheticDocument('q', DIMENSIONS, random).vectors.slice(0, DIMENSIONS)
        const filter: MetadataFilter = i % 2 === 0 ? {} : { group: { lte: 2 } }
        // Every row has the words but one: ties by the thousand would make the two differ by right.
        const query: SearchQuery = { vector, text: `word${Math.floor(random() * 1000)} d${i + 5}.md`, depth: 7, filter }
        expect(found(await index.search(query))).toEqual(found(reference.search(query)))
      }
    })

    it('applies filters as filter.ts does', async () => {
      const index = await store.openOrCreate('filtered', SPEC)
      const metadatas: Metadata[] = [
        { year: 2024, lang: 'en', tags: ['gpu', 'web'], draft: false, note: null },
        { year: 2023, lang: 'de', tags: [] },
        { year: '2024', lang: "o'brien", tags: ['cpu'] },
        {},
      ]
      const random = seededRandom(3)
      const documents = metadatas.map((metadata, i) => ({
        ...syntheticDocument(`f/${i}`, DIMENSIONS, random),
        metadata,
      }))
      await index.upsert(documents)
      const filters: MetadataFilter[] = [
        { lang: 'en' },
        { lang: "o'brien" },
        { lang: ['de', 'en'] },
        { tags: 'web' },
        { tags: ['web', 'cpu'] },
        { tags: { ne: 'web' } },
        { year: { gte: 2024 } },
        { year: { gt: '2000' } },
        { year: { ne: 2024 } },
        { note: null },
        { note: { exists: true } },
        { missing: { exists: false } },
        { missing: { prefix: '' } },
        { draft: false },
        { lang: [] },
        { id: { prefix: 'f/' } },
        { source: 'f/2.md' },
        { lang: { prefix: 'o', ne: 'x' }, year: { lt: 'a' } },
        { [`a' or true --`]: 1 },
      ]
      const vector = new Float32Array(DIMENSIONS).fill(0.1)
      for (const filter of filters) {
        const hits = await index.search({ vector, text: '', depth: 100, filter })
        const expected = documents.filter((document) => matchesFilter(document, filter)).map(({ id }) => id)
        expect([filter, [...new Set(hits.map(({ documentId }) => documentId))].toSorted()]).toEqual([filter, expected])
      }
    })

    it('serves writers and searches at the same time', async () => {
      const random = seededRandom(4)
      const index = await store.openOrCreate('busy', SPEC)
      const query = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: 'part', depth: 5 }
      await Promise.all(
        Array.from({ length: 20 }, async (_, i) => {
          await index.upsert([syntheticDocument(`b${i}`, DIMENSIONS, random)])
          const hits = await index.search(query)
          expect(hits.length).toBeGreaterThan(0)
        }),
      )
      expect((await index.info()).numDocuments).toBe(20)
    })

    it('keeps one version of a document that many writers write at once', async () => {
      const random = seededRandom(5)
      const versions = Array.from({ length: 8 }, () => syntheticDocument('same', DIMENSIONS, random))
      const indexes = await Promise.all(versions.map(() => store.openOrCreate('contended', SPEC)))
      await Promise.all(versions.map((version, i) => indexes[i]?.upsert([version])))
      const kept = await indexes[0]?.get('same')
      expect(versions.map(({ contentHash }) => contentHash)).toContain(kept?.contentHash)
      expect(await indexes[0]?.info()).toMatchObject({ numDocuments: 1, numChunks: kept?.chunks.length })
    })

    it('stops a search whose caller is gone, and serves the next', async () => {
      const index = await store.openOrCreate('left', SPEC)
      await index.upsert([syntheticDocument('a', DIMENSIONS, seededRandom(6))])
      const query = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: 'part', depth: 5 }
      const reason = new Error('gone')
      await expect(index.search(query, AbortSignal.abort(reason))).rejects.toBe(reason)
      const leaving = new AbortController()
      const searches = Array.from({ length: 20 }, () => index.search(query, leaving.signal))
      leaving.abort(reason)
      for (const outcome of await Promise.allSettled(searches)) {
        if (outcome.status === 'rejected') expect(outcome.reason).toBe(reason)
      }
      expect((await index.search(query, new AbortController().signal)).length).toBeGreaterThan(0)
    })
  })
}

describeStore('the memory store', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-stores-'))
  return { store: createMemoryStore(folder), stop: async () => rmSync(folder, { recursive: true }) }
})

const binaries = isFull ? postgresBinaries() : null
if (binaries !== null) {
  describeStore('the pgvector store', async () => {
    const server = await startPostgres(binaries)
    return { store: createPgvectorStore(server.url), stop: () => server.stop() }
  })

  describe('the pgvector store', () => {
    it('answers store_unavailable while its server is gone, and recovers when it is back', async () => {
      const server = await startPostgres(binaries)
      onTestFinished(() => server.stop())
      const store = createPgvectorStore(server.url)
      const index = await store.openOrCreate('x', SPEC)
      await server.stop()
      const query = { vector: new Float32Array(DIMENSIONS), text: 'x', depth: 1 }
      await expect(index.search(query)).rejects.toMatchObject({ code: 'store_unavailable' })
      await expect(index.upsert([syntheticDocument('a', DIMENSIONS, seededRandom(1))])).rejects.toMatchObject({
        code: 'store_unavailable',
      })
      await expect(store.open('x')).rejects.toMatchObject({ code: 'store_unavailable' })
      await store.close()
    })

    it('cancels a statement on the server when its caller is gone', async () => {
      const server = await startPostgres(binaries)
      onTestFinished(() => server.stop())
      const database = new Database(server.url)
      const running = `select count(*)::int as n from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'`
      const leaving = new AbortController()
      const sleeping = database.query('select pg_sleep(3600)', [], leaving.signal)
      const outcome = expect(sleeping).rejects.toThrow('gone')
      while ((await database.query<{ n: number }>(running, []))[0]?.n === 0);
      leaving.abort(new Error('gone'))
      await outcome
      // Cancelled is asked for; the server does it in its own time. It would sleep for an hour.
      while ((await database.query<{ n: number }>(running, []))[0]?.n !== 0);
      await database.close()
    })

    it('cancels more searches than it has connections, and continues', async () => {
      const server = await startPostgres(binaries)
      onTestFinished(() => server.stop())
      const database = new Database(server.url)
      await Promise.all(
        Array.from({ length: 24 }, async () => {
          const leaving = new AbortController()
          const sleeping = database.query('select pg_sleep(3600)', [], leaving.signal)
          leaving.abort(new Error('gone'))
          await expect(sleeping).rejects.toThrow('gone')
        }),
      )
      expect(await database.query('select 1 as one', [])).toEqual([{ one: 1 }])
      await database.close()
    })

    it('finds by a text with more words than PostgreSQL can parse in a row', async () => {
      const server = await startPostgres(binaries)
      onTestFinished(() => server.stop())
      const store = createPgvectorStore(server.url)
      const index = await store.openOrCreate('long', SPEC)
      const words = Array.from({ length: 40_000 }, (_, i) => `w${i}x`)
      const { chunks, ...document } = syntheticDocument('d', DIMENSIONS, seededRandom(8))
      const share = Math.ceil(words.length / chunks.length)
      const texts = chunks.map((_, i) => words.slice(i * share, (i + 1) * share).join(' '))
      await index.upsert([{ ...document, chunks: chunks.map((chunk, i) => ({ ...chunk, text: texts[i] ?? '' })) }])
      const query = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: words.join(' '), depth: chunks.length }
      expect((await index.search(query)).map(({ textRank }) => textRank)).not.toContain(null)
      await store.close()
    })

    it('makes its tables once for two servers that start together, and an approximate index for a large index', async () => {
      const server = await startPostgres(binaries)
      onTestFinished(() => server.stop())
      const [one, two] = [
        createPgvectorStore(server.url, { minChunks: 50, quietMs: 10 }),
        createPgvectorStore(server.url),
      ]
      const [index] = await Promise.all([one.openOrCreate('x', SPEC), two.openOrCreate('x', SPEC)])
      const random = seededRandom(6)
      await index?.upsert(Array.from({ length: 60 }, (_, i) => syntheticDocument(`d${i}`, DIMENSIONS, random)))
      const vector = syntheticDocument('q', DIMENSIONS, random).vectors.slice(0, DIMENSIONS)
      const database = new Database(server.url)
      // Built beside the requests.
      const built = `select 1 from pg_index where indisvalid and indexrelid = to_regclass('miniserve.chunks_hnsw_1')`
      while ((await database.query(built, [])).length === 0);
      const exact = new MemoryIndex(DIMENSIONS)
      const again = seededRandom(6)
      for (let i = 0; i < 60; i++) exact.put(syntheticDocument(`d${i}`, DIMENSIONS, again))
      const query: SearchQuery = { vector, text: '', depth: 70, filter: { group: { lte: 1 } } }
      expect(found((await index?.search(query)) ?? [])).toEqual(found(exact.search(query)))
      expect(await index?.info()).toMatchObject({ numDocuments: 60, numChunks: exact.numChunks })
      await database.close()
      await Promise.all([one.close(), two.close()])
    })
  })
}

describe.runIf(isFull)('PostgreSQL with pgvector', () => {
  it('is installed (test/rag/install-pgvector.sh)', () => expect(binaries).not.toBeNull())
})

describe('a pgvector store that cannot be reached', () => {
  it('answers store_unavailable', async () => {
    const store = createPgvectorStore('postgres://nobody@127.0.0.1:9/none')
    await expect(store.open('x')).rejects.toMatchObject({ code: 'store_unavailable' })
    await expect(store.names()).rejects.toMatchObject({ code: 'store_unavailable' })
    await store.close()
  })
})
