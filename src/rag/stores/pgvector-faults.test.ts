/** The pgvector store when its database is slow, short of something or gone, and its filters on random data: under MINISERVE_TEST_LEVEL=full. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { postgresBinaries, startPostgres } from '../../../bench/lib/postgres.mjs'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import { matchesFilter } from '../filter.ts'
import type { EmbeddedDocument, FilterCondition, MetadataFilter, MetadataScalar } from '../vector-index.ts'
import type { LargeIndexOptions } from './large-indexes.ts'
import { createPgvectorStore } from './pgvector.ts'

const DIMENSIONS = 12
const SPEC = { model: 'test@1', dimensions: DIMENSIONS }
const QUERY = { vector: new Float32Array(DIMENSIONS).fill(0.1), text: 'part', depth: 10 }
const UNAVAILABLE = expect.objectContaining({ code: 'store_unavailable' })

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

const binaries = process.env['MINISERVE_TEST_LEVEL'] === 'full' ? postgresBinaries() : null

async function setUp(settings?: readonly string[], options: LargeIndexOptions = {}) {
  const server = await startPostgres(binaries ?? '', settings)
  cleanups.push(() => server.stop())
  const store = createPgvectorStore(server.url, options)
  cleanups.push(() => store.close())
  return { server, store }
}

async function clientOf(url: string): Promise<Client> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  cleanups.push(() => client.end())
  return client
}

const documents = (numbers: readonly number[], random = seededRandom(1)): EmbeddedDocument[] =>
  numbers.map((number) => syntheticDocument(`d${number}`, DIMENSIONS, random))
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i)

describe.runIf(binaries !== null)('filters', () => {
  const FIELDS = ['a', 'b', 'ü', "o'b", 'constructor', 'id', 'source']
  const NUMBERS = [0, -0, 1, -1, 0.1, 1e-7, 1e21, 2 ** 53, -1e308, 5e-324]
  const TEXTS = [
    '',
    'a',
    'A',
    'ab',
    'b',
    'ä',
    '\u{1F600}',
    '\uE000',
    '0',
    '1',
    'true',
    'null',
    '%',
    '_',
    "'",
    '\\',
    'd1',
    'd12.md',
  ]
  const SCALARS: readonly MetadataScalar[] = [null, true, false, ...NUMBERS, ...TEXTS]

  it.each([
    ['of a small index', 1_000_000],
    ['of one that is large', 20],
  ])('%s pass the same documents as filter.ts, on random data', async (_, minChunks) => {
    const { store } = await setUp(undefined, { minChunks, quietMs: 3_600_000 })
    const index = await store.openOrCreate('filtered', SPEC)
    const random = seededRandom(minChunks)
    const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T
    const scalars = () => Array.from({ length: Math.floor(random() * 4) }, () => pick(SCALARS))
    const made = documents(range(0, 120), random).map((document) => ({
      ...document,
      metadata: Object.fromEntries(
        FIELDS.filter(() => random() < 0.5).map((field) => [field, random() < 0.3 ? scalars() : pick(SCALARS)]),
      ),
    }))
    await index.upsert(made)
    const condition = (): FilterCondition => {
      const kind = random()
      if (kind < 0.25) return pick(SCALARS)
      if (kind < 0.4) return scalars()
      const operators = {
        ne: pick(SCALARS),
        gt: pick([...NUMBERS, ...TEXTS]),
        gte: pick([...NUMBERS, ...TEXTS]),
        lt: pick([...NUMBERS, ...TEXTS]),
        lte: pick([...NUMBERS, ...TEXTS]),
        prefix: pick(TEXTS),
        exists: random() < 0.5,
      }
      const [always] = Object.entries(operators).toSorted(() => random() - 0.5)
      const chosen = Object.entries(operators).filter(([name]) => name === always?.[0] || random() < 0.15)
      return Object.fromEntries(chosen) as FilterCondition
    }
    let numPassed = 0
    for (let i = 0; i < 400; i++) {
      const fields = FIELDS.filter(() => random() < 0.2)
      const filter: MetadataFilter = Object.fromEntries(
        (fields.length > 0 ? fields : ['a']).map((f) => [f, condition()]),
      )
      const hits = await index.search({ ...QUERY, depth: 1000, filter })
      const expected = made.filter((document) => matchesFilter(document, filter)).map(({ id }) => id)
      const ids = [...new Set(hits.map(({ documentId }) => documentId))]
      expect([filter, ids.toSorted()]).toEqual([filter, expected.toSorted()])
      numPassed += expected.length
    }
    expect(numPassed).toBeGreaterThan(500)
  })
})

describe.runIf(binaries !== null)('statements', () => {
  it('of a search are few and scan no counts', async () => {
    const { store } = await setUp()
    const index = await store.openOrCreate('x', SPEC)
    await index.upsert(documents(range(0, 50)))
    // Connections are set up.
    await index.search(QUERY)
    const texts: string[] = []
    const query = vi.spyOn(Client.prototype, 'query')
    cleanups.push(() => query.mockRestore())
    const note = () => {
      texts.push(...query.mock.calls.map(([text]) => String(text)))
      query.mockClear()
    }
    await index.search(QUERY)
    await index.search({ ...QUERY, filter: { group: 2 } })
    note()
    expect(texts.length).toBeLessThanOrEqual(14)
    expect((await (await store.open('x'))?.info())?.numChunks).toBeGreaterThan(0)
    await index.info()
    note()
    expect(texts.filter((text) => /\bcount\(|pg_column_size/i.test(text))).toEqual([])
  })

  it('that wait for a lock end when their caller is gone', async () => {
    const { server, store } = await setUp()
    const index = await store.openOrCreate('x', SPEC)
    await index.upsert(documents([1]))
    const other = await clientOf(server.url)
    await other.query('begin; lock table miniserve.chunks in access exclusive mode')
    const leaving = new AbortController()
    const searches = range(0, 20).map(() => index.search(QUERY, leaving.signal))
    const ended = Promise.allSettled(searches)
    // Another connection: a transaction sees the activity as it was when it first asked.
    const watching = await clientOf(server.url)
    const blocked = `select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock'`
    while (((await watching.query<{ n: number }>(blocked)).rows[0]?.n ?? 0) < 4);
    leaving.abort(new Error('gone'))
    expect((await ended).map(({ status }) => status)).toEqual(range(0, 20).map(() => 'rejected'))
    await other.query('rollback')
    expect((await index.search(QUERY)).length).toBeGreaterThan(0)
  })

  it('that take too long are cancelled by the database, and the store continues', async () => {
    const { server, store } = await setUp()
    const index = await store.openOrCreate('x', SPEC)
    await index.upsert(documents([1]))
    const other = await clientOf(server.url)
    await other.query('begin; lock table miniserve.chunks in access exclusive mode')
    const both = await Promise.allSettled([index.search(QUERY), index.upsert(documents([2]))])
    expect(both).toEqual([
      { status: 'rejected', reason: UNAVAILABLE },
      { status: 'rejected', reason: UNAVAILABLE },
    ])
    await other.query('rollback')
    expect(await index.info()).toMatchObject({ numDocuments: 1 })
    await index.upsert(documents([2]))
    expect(await index.info()).toMatchObject({ numDocuments: 2 })
  }, 60_000)
})

describe.runIf(binaries !== null)('a database', () => {
  it('whose connections break during a load has only whole documents and correct counts', async () => {
    const { server, store } = await setUp()
    const index = await store.openOrCreate('x', SPEC)
    const other = await clientOf(server.url)
    const kept: number[] = []
    let numFailed = 0
    for (let round = 0; round < 40; round++) {
      const batch = range(round * 5, round * 5 + 5)
      const storing = index.upsert(documents(batch)).then(
        () => kept.push(...batch),
        (error: unknown) => {
          expect(error).toEqual(UNAVAILABLE)
          numFailed++
        },
      )
      if (round % 2 === 1) {
        await other.query(
          `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'miniserve' and state <> 'idle'`,
        )
      }
      await storing
    }
    // A commit that was on its way when the connection broke may have been carried out: its batch is there as a whole.
    const found = (await index.summaries()).map(({ id }) => Number(id.slice(1)))
    expect(found).toEqual(expect.arrayContaining(kept))
    for (const number of found)
      expect(found).toEqual(expect.arrayContaining(range(number - (number % 5), number - (number % 5) + 5)))
    const counted = await other.query(
      `select (select count(*) from miniserve.documents)::int as documents, (select count(*) from miniserve.chunks)::int as chunks,
              (select sum(num_chunks) from miniserve.terms where term = 'part')::int as parts`,
    )
    const { numDocuments, numChunks } = await index.info()
    expect(counted.rows).toEqual([{ documents: numDocuments, chunks: numChunks, parts: numChunks }])
    await index.upsert(documents(range(0, 200)))
    expect((await index.info()).numDocuments).toBe(200)
    expect(numFailed).toBeLessThan(40)
  })

  it('with too few connections answers some callers, and the others with store_unavailable', async () => {
    const { server, store } = await setUp(['fsync=off', 'max_connections=6', 'superuser_reserved_connections=0'])
    const index = await store.openOrCreate('x', SPEC)
    await index.upsert(documents(range(0, 20)))
    const others = [await clientOf(server.url), await clientOf(server.url), await clientOf(server.url)]
    const outcomes = await Promise.allSettled(range(0, 40).map(() => index.search(QUERY)))
    for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toEqual(UNAVAILABLE)
    await Promise.all(others.map((client) => client.end()))
    expect((await index.search(QUERY)).length).toBeGreaterThanOrEqual(QUERY.depth)
  })

  const canMount = (() => {
    if (binaries === null || process.getuid?.() !== 0) return false
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-mount-'))
    const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]).status === 0
    if (isMounted) spawnSync('umount', [folder])
    rmSync(folder, { recursive: true })
    return isMounted
  })()
  it.runIf(canMount)(
    `whose disk is full refuses documents, loses none, and takes them once there is room${canMount ? '' : ' (skipped: needs root and mount)'}`,
    async () => {
      const { server, store } = await setUp()
      const folder = mkdtempSync(join(tmpdir(), 'miniserve-small-'))
      execFileSync('mount', [
        '-t',
        'tmpfs',
        '-o',
        'size=24m,mode=0700,uid=' + execFileSync('id', ['-u', 'postgres'], { encoding: 'utf8' }).trim(),
        'tmpfs',
        folder,
      ])
      cleanups.unshift(() => {
        execFileSync('umount', [folder])
        rmSync(folder, { recursive: true })
      })
      const admin = await clientOf(server.url)
      await admin.query(`create tablespace small location '${folder}'`)
      await admin.query('alter role miniserve set default_tablespace = small')
      const index = await store.openOrCreate('x', SPEC)
      let numKept = 0
      let failure: unknown = null
      while (failure === null) {
        try {
          await index.upsert(documents(range(numKept, numKept + 500)))
          numKept += 500
        } catch (error) {
          failure = error
        }
      }
      expect(failure).toEqual(UNAVAILABLE)
      expect(String(failure)).toContain('53100')
      expect(numKept).toBeGreaterThan(500)
      expect(await index.info()).toMatchObject({ numDocuments: numKept })
      expect((await index.search(QUERY)).length).toBeGreaterThanOrEqual(QUERY.depth)
      execFileSync('mount', ['-o', 'remount,size=64m', folder])
      await index.upsert(documents(range(numKept, numKept + 500)))
      expect(await index.info()).toMatchObject({ numDocuments: numKept + 500 })
    },
    120_000,
  )
})
