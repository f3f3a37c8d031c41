/** The pgvector store where approximate search begins to matter, under MINISERVE_TEST_LEVEL=full: what it finds against a scan of everything. */
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { postgresBinaries, type PostgresServer, startPostgres } from '../../../bench/lib/postgres.mjs'
import { topics } from '../../../bench/lib/rag/topics.mjs'
import { seededRandom } from '../../../test/rag/documents.ts'
import { Bm25Index } from '../bm25.ts'
import type { Candidate, EmbeddedDocument, IndexStore, MetadataFilter, VectorIndex } from '../vector-index.ts'
import { createPgvectorStore } from './pgvector.ts'

const DIMENSIONS = 64
const NUM_DOCUMENTS = 3_000
const PER_DOCUMENT = 10
const PER_UPSERT = 100
const NUM_CHUNKS = NUM_DOCUMENTS * PER_DOCUMENT
const WORDS = 20

const binaries = process.env['MINISERVE_TEST_LEVEL'] === 'full' ? postgresBinaries() : null
const keyOf = ({ documentId, chunk }: Candidate) => Number(documentId.slice(1)) * PER_DOCUMENT + chunk

describe.runIf(binaries !== null)('the pgvector store at 30,000 chunks', () => {
  const made = topics(3, DIMENSIONS)
  const vectors = new Float32Array(NUM_CHUNKS * DIMENSIONS)
  const words = new Bm25Index()
  let server: PostgresServer
  let store: IndexStore
  let index: VectorIndex

  const documentOf = (number: number, random: () => number): EmbeddedDocument => {
    const topic = Math.floor(random() * made.numTopics)
    const centre = made.document(random, topic)
    const rows = vectors.subarray(number * PER_DOCUMENT * DIMENSIONS, (number + 1) * PER_DOCUMENT * DIMENSIONS)
    const chunks = Array.from({ length: PER_DOCUMENT }, (_, chunk) => {
      rows.set(made.vector(random, centre), chunk * DIMENSIONS)
      const text = made.text(random, topic, WORDS)
      words.add(number * PER_DOCUMENT + chunk, number, `d${number}\n${text}`)
      return { chunk, text, headings: [], start: 0, end: text.length, numTokens: WORDS }
    })
    const metadata = { tenth: number % 10, hundredth: number % 100, thousandth: number % 1000 }
    const id = `d${number}`
    return { id, source: id, contentHash: id, origin: '', metadata, vectors: rows, chunks }
  }

  beforeAll(async () => {
    server = await startPostgres(binaries ?? '')
    store = createPgvectorStore(server.url, { minChunks: 1_000, quietMs: 10 })
    index = await store.openOrCreate('large', { model: 'made up', dimensions: DIMENSIONS })
    const random = seededRandom(1)
    for (let first = 0; first < NUM_DOCUMENTS; first += PER_UPSERT)
      await index.upsert(Array.from({ length: PER_UPSERT }, (_, d) => documentOf(first + d, random)))
    const client = new Client({ connectionString: server.url })
    await client.connect()
    const isBuilt = `select 1 from pg_index where indexrelid = to_regclass('miniserve.chunks_hnsw_1') and indisvalid`
    while ((await client.query(isBuilt)).rowCount === 0);
    await client.end()
  }, 300_000)

  afterAll(async () => {
    await store?.close()
    await server?.stop()
  })

  /** The best rows by vector among the documents of a filter, as a scan of everything has them. */
  const exactly = (vector: Float32Array, depth: number, every: number): number[] => {
    const scores = Array.from({ length: NUM_CHUNKS }, (_, row) => {
      let sum = 0
      for (let i = 0; i < DIMENSIONS; i++) sum += (vectors[row * DIMENSIONS + i] ?? 0) * (vector[i] ?? 0)
      return [row, sum] as const
    })
    return scores
      .filter(([row]) => every === 1 || Math.floor(row / PER_DOCUMENT) % every === 3)
      .toSorted(([, a], [, b]) => b - a)
      .slice(0, depth)
      .map(([row]) => row)
  }

  it.each<[string, number, number, number, MetadataFilter]>([
    ['no filter', 1, 50, 0.97, {}],
    ['no filter, deep', 1, 1000, 0.9, {}],
    ['10 %', 10, 50, 0.97, { tenth: 3 }],
    ['10 %, deep', 10, 1000, 0.9, { tenth: 3 }],
    ['1 %', 100, 50, 1, { hundredth: 3 }],
    ['1 % by a range', 100, 50, 1, { hundredth: { gt: 2, lt: 4 } }],
    ['1 %, more than there are', 100, 400, 1, { hundredth: 3 }],
    ['0.1 %', 1000, 50, 1, { thousandth: 3 }],
    ['three documents', 1000, 20, 1, { id: ['d3', 'd1003', 'd2003'] }],
    ['none', 0, 10, 1, { tenth: 77 }],
  ])('%s: finds as many as exist, and nearly all of the best', async (_, every, depth, least, filter) => {
    const random = seededRandom(7)
    const recalls: number[] = []
    for (let q = 0; q < 10; q++) {
      const vector = made.vector(random, made.document(random, q))
      const wanted = exactly(vector, depth, every)
      const found = await index.search({ vector, text: '', depth, filter })
      expect(found).toHaveLength(wanted.length)
      expect(found.map(({ vectorRank }) => vectorRank).toSorted((a, b) => (a ?? 0) - (b ?? 0))).toEqual(
        wanted.map((__, i) => i + 1),
      )
      const rows = new Set(found.map(keyOf))
      recalls.push(wanted.length === 0 ? 1 : wanted.filter((row) => rows.has(row)).length / wanted.length)
    }
    expect(recalls.reduce((sum, recall) => sum + recall, 0) / recalls.length).toBeGreaterThanOrEqual(least)
  })

  it('finds the same by words as a scan of every text', async () => {
    const random = seededRandom(8)
    for (let q = 0; q < 10; q++) {
      const text = made.text(random, q, 6)
      const { rows } = words.score(text)
      const order = Array.from(rows, (__, row) => row)
      const best = order.toSorted((a, b) => (rows[b] ?? 0) - (rows[a] ?? 0) || a - b).slice(0, 20)
      const found = await index.search({ vector: made.vector(random, made.document(random, q)), text, depth: 20 })
      const byText = found.filter(({ textRank }) => textRank !== null)
      const ranked = byText.toSorted((a, b) => (a.textRank ?? 0) - (b.textRank ?? 0))
      // Float32 here, double precision there: rows of equal scores may change places.
      const scores = (keys: readonly number[]) => keys.map((row) => (rows[row] ?? 0).toFixed(3))
      expect(scores(ranked.map(keyOf))).toEqual(scores(best))
    }
  })

  it('still finds everything while documents are replaced and deleted', async () => {
    const random = seededRandom(9)
    const numbers = Array.from({ length: 100 }, (_, i) => i * 10 + 3)
    await index.delete(numbers.map((number) => `d${number}`))
    expect((await index.info()).numChunks).toBe(NUM_CHUNKS - numbers.length * PER_DOCUMENT)
    const gone = new Set(numbers)
    const vector = made.vector(random, made.document(random, 1))
    const found = await index.search({ vector, text: made.text(random, 1, 6), depth: 100, filter: { tenth: 3 } })
    expect(found.filter(({ vectorRank }) => vectorRank !== null)).toHaveLength(100)
    expect(found.filter(({ documentId }) => gone.has(Number(documentId.slice(1))))).toEqual([])
  })

  it('is dropped at once, and its rows are deleted in the background', async () => {
    expect(await store.drop('large')).toBe(true)
    expect(await store.names()).toEqual([])
    expect(await store.open('large')).toBeNull()
    await expect(index.upsert([documentOf(0, seededRandom(1))])).rejects.toMatchObject({ code: 'index_not_found' })
    const client = new Client({ connectionString: server.url })
    await client.connect()
    const left = 'select (select count(*) from miniserve.indexes) + (select count(*) from miniserve.chunks) as n'
    while (Number((await client.query<{ n: string }>(left)).rows[0]?.n) > 0);
    expect((await client.query('select 1 from miniserve.terms limit 1')).rowCount).toBe(0)
    await client.end()
  })
})
