// Exact and approximate search of the same vectors in one run, one query at a time. Recall against a scan in float64.
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { createMemoryStore } from '#dist/rag/stores/memory.js'
import { quantile, round, seededRandom, time } from '../stats.mjs'
import { peer, table, versionOf, zipfWords } from './common.mjs'

/** That of the bundled embedding model. */
const DIMENSIONS = 256
const DEPTH = 10
const NUM_CENTRES = 200
const NUM_CHECKED = 20
/** Rows whose score is this near to the last place's are as good: float32 and float64 may order them differently. */
const TIE = 1e-6
const CHUNKS_PER_DOCUMENT = 100

/** Unit rows around random centres: embeddings of real text have neighbours, uniform noise has none. */
function clusteredVectors(random) {
  const centres = Float32Array.from({ length: NUM_CENTRES * DIMENSIONS }, () => random() - 0.5)
  return (row) => {
    const centre = Math.floor(random() * NUM_CENTRES) * DIMENSIONS
    let squares = 0
    for (let i = 0; i < DIMENSIONS; i++) {
      row[i] = centres[centre + i] + 0.6 * (random() - 0.5)
      squares += row[i] * row[i]
    }
    const scale = 1 / Math.sqrt(squares)
    for (let i = 0; i < DIMENSIONS; i++) row[i] *= scale
    return row
  }
}

/** A test whether a row is among the nearest, by a scan in float64. */
function nearest(query, rows, size) {
  const scores = new Float64Array(size)
  for (let r = 0; r < size; r++) {
    let sum = 0
    for (let i = 0, at = r * DIMENSIONS; i < DIMENSIONS; i++, at++) sum += query[i] * rows[at]
    scores[r] = sum
  }
  const last = scores.toSorted()[size - DEPTH]
  return (row) => scores[row] >= last - TIE
}

async function buildIndex(store, rows, size, random) {
  const index = await store.openOrCreate('bench', { model: 'bench', dimensions: DIMENSIONS })
  for (let from = 0; from < size; from += CHUNKS_PER_DOCUMENT * 10) {
    await index.upsert(
      Array.from({ length: Math.min(10, (size - from) / CHUNKS_PER_DOCUMENT) }, (_, d) => {
        const first = from + d * CHUNKS_PER_DOCUMENT
        const chunks = Array.from({ length: CHUNKS_PER_DOCUMENT }, (__, chunk) => {
          const text = zipfWords(random, 40)
          return { chunk, text, headings: [], start: 0, end: text.length, numTokens: 40 }
        })
        const id = `d${first}`
        const vectors = rows.slice(first * DIMENSIONS, (first + CHUNKS_PER_DOCUMENT) * DIMENSIONS)
        return { id, source: id, contentHash: id, origin: '', metadata: {}, chunks, vectors }
      }),
    )
  }
  return index
}

/** usearch's two ways to search; HNSW is the approximate one. */
function* usearchSystems(rows, size) {
  const usearch = peer('usearch')
  if (!usearch) return
  yield {
    // One thread, as the others: with more it is slower where cores are few.
    system: 'usearch, exact',
    run: (query) => [...usearch.exactSearch(rows, query, DIMENSIONS, DEPTH, 'ip', 1).keys].map(Number),
  }
  const hnsw = new usearch.Index({ metric: 'ip', dimensions: DIMENSIONS })
  for (let from = 0; from < size; from += 1000) {
    const keys = BigUint64Array.from({ length: Math.min(1000, size - from) }, (_, i) => BigInt(from + i))
    hnsw.add(keys, rows.subarray(from * DIMENSIONS, (from + keys.length) * DIMENSIONS), availableParallelism())
  }
  yield { system: 'usearch, HNSW (approximate)', run: (query) => [...hnsw.search(query, DEPTH, 1).keys].map(Number) }
}

/** sqlite-vec's, or nothing: the bindings are compiled when they are installed, and that may have failed. */
function* sqliteVecSystems(rows, size) {
  const Database = peer('better-sqlite3')
  const sqliteVec = peer('sqlite-vec')
  if (!Database || !sqliteVec) return
  let database
  try {
    database = new Database(':memory:')
    sqliteVec.load(database)
  } catch (error) {
    console.error(`sqlite-vec: not measured (${error.message.split('\n')[0]})`)
    database?.close()
    return
  }
  try {
    database.exec(`create virtual table v using vec0(e float[${DIMENSIONS}] distance_metric=cosine)`)
    const insert = database.prepare('insert into v(rowid, e) values (?, ?)')
    database.transaction(() => {
      for (let r = 0; r < size; r++) {
        const row = rows.subarray(r * DIMENSIONS, (r + 1) * DIMENSIONS)
        insert.run(BigInt(r + 1), Buffer.from(row.buffer, row.byteOffset, row.byteLength))
      }
    })()
    const select = database.prepare('select rowid from v where e match ? and k = ? order by distance')
    yield {
      system: 'sqlite-vec, exact',
      run: (query) => select.all(Buffer.from(query.buffer), DEPTH).map(({ rowid }) => rowid - 1),
    }
  } finally {
    database.close()
  }
}

export async function search({ isQuick, scratch }) {
  const results = []
  for (const size of isQuick ? [1000, 10_000] : [1000, 10_000, 100_000]) {
    const random = seededRandom(size)
    const fill = clusteredVectors(random)
    const rows = new Float32Array(size * DIMENSIONS)
    for (let r = 0; r < size; r++) fill(rows.subarray(r * DIMENSIONS, (r + 1) * DIMENSIONS))
    const queries = Array.from({ length: isQuick ? 50 : 200 }, () => fill(new Float32Array(DIMENSIONS)))
    const texts = queries.map(() => zipfWords(random, 8))
    const truth = queries.slice(0, NUM_CHECKED).map((query) => nearest(query, rows, size))
    const measure = async (system, run) => {
      process.stderr.write(`search: ${size} chunks, ${system}\n`)
      let found = 0
      for (const [q, isNearest] of truth.entries()) found += new Set((await run(q)).filter(isNearest)).size
      const times = await time(queries.length, 10, (q) => run(Math.max(q, 0)))
      results.push({
        chunks: size,
        system,
        p50Ms: round(quantile(times, 0.5), 3),
        p99Ms: round(quantile(times, 0.99), 3),
        recallAt10: round(found / (truth.length * DEPTH), 4),
      })
    }
    const store = createMemoryStore(join(scratch, `search-${size}`))
    try {
      const index = await buildIndex(store, rows, size, random)
      const rowOf = ({ documentId, chunk }) => Number(documentId.slice(1)) + chunk
      const find = async (q, text) =>
        (await index.search({ vector: queries[q], text, depth: DEPTH }))
          .filter((hit) => hit.vectorRank !== null)
          .map(rowOf)
      await measure('miniserve, exact', (q) => find(q, ''))
      await measure('miniserve, exact + BM25', (q) => find(q, texts[q]))
    } finally {
      await store.close()
    }
    for (const { system, run } of usearchSystems(rows, size)) await measure(system, (q) => run(queries[q]))
    for (const { system, run } of sqliteVecSystems(rows, size)) await measure(system, (q) => run(queries[q]))
  }
  table(
    `Search: best ${DEPTH} of vectors with ${DIMENSIONS} dimensions, one query at a time; miniserve's through its worker thread`,
    results.map((row) => ({
      chunks: row.chunks,
      system: row.system,
      'p50 (ms)': row.p50Ms,
      'p99 (ms)': row.p99Ms,
      'recall@10': row.recallAt10,
    })),
  )
  const wrong = results.filter(({ system, recallAt10 }) => system.startsWith('miniserve') && recallAt10 !== 1)
  if (wrong.length > 0) throw new Error(`exact search has a recall below 1: ${JSON.stringify(wrong)}`)
  return {
    dimensions: DIMENSIONS,
    peers: { usearch: versionOf('usearch'), 'sqlite-vec': versionOf('sqlite-vec') },
    rows: results,
  }
}
