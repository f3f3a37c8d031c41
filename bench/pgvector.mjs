// The pgvector store at size, on a real PostgreSQL: insertion, building, sizes, and searches by the share of the documents that a filter lets through,
// with recall against a scan of all vectors. Documents have ten chunks of 60 words and vectors as long as the bundled embedding model's, both made up
// around subjects (lib/rag/topics.mjs).
//   npm run bench -- pgvector [--chunks 100000] [--queries 100] [--sweep halfvec,vector] [--url URL [--vectors FILE]]
// --sweep: HNSW's settings as well, on the store's own index of half-precision numbers and on one of whole ones. --url: a server that runs elsewhere;
// the vectors are kept in the file, and where it is there the database is searched as an earlier run left it.
// Results: bench/results/pgvector-CHUNKS.json. Needs PostgreSQL with pgvector (test/rag/install-pgvector.sh).
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Client } from 'pg'
import { Bm25Index } from '#dist/rag/bm25.js'
import { createPgvectorStore } from '#dist/rag/stores/pgvector.js'
import { postgresBinaries, startPostgres } from './lib/postgres.mjs'
import { table } from './lib/rag/common.mjs'
import { topics } from './lib/rag/topics.mjs'
import { readResults, run } from './lib/run.mjs'
import { mean, quantile, round, seededRandom } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    chunks: { type: 'string', default: '100000' },
    queries: { type: 'string', default: '100' },
    sweep: { type: 'string', default: '' },
    url: { type: 'string' },
    vectors: { type: 'string' },
  },
})
const NUM_CHUNKS = Number(flags.chunks)
const NUM_QUERIES = Number(flags.queries)
const PER_DOCUMENT = 10
const DOCUMENTS_PER_UPSERT = 100
const WORDS = 60
/** That of the bundled embedding model. */
const DIMENSIONS = 256
const QUERY_WORDS = 8
const DEPTHS = [10, 50, 200, 1000]
/** Beyond it, the inverted index in this process that texts are compared with would take gigabytes. */
const MAX_COMPARED_TEXTS = 200_000
const SETTINGS = ['shared_buffers=2GB', 'max_wal_size=4GB']
const POLL_MS = 200
/** Of a histogram of similarities. */
const BUCKETS = 4096

/** Filters by the share of the documents that they let through; `every`: one document of so many. */
const SELECTIVITIES = [
  { name: 'no filter', every: 1, filter: undefined },
  { name: '10 %', every: 10, filter: { tenth: 3 } },
  { name: '1 %', every: 100, filter: { hundredth: 3 } },
  { name: '0.1 %', every: 1000, filter: { thousandth: 3 } },
  { name: '1 %, a range', every: 100, filter: { hundredth: { gt: 2, lte: 3 } } },
]

const spread = (values) => ({ p50: round(quantile(values, 0.5)), p95: round(quantile(values, 0.95)) })
const chunkKey = ({ documentId, chunk }) => Number(documentId.slice(1)) * PER_DOCUMENT + chunk

/** Fills the index through the store; returns all vectors, and the texts as the store's BM25 counts them. */
async function fill(index, made) {
  const vectors = new Float32Array(NUM_CHUNKS * DIMENSIONS)
  const words = NUM_CHUNKS <= MAX_COMPARED_TEXTS ? new Bm25Index() : null
  const random = seededRandom(5)
  let upsertMs = 0
  for (let first = 0; first < NUM_CHUNKS; first += DOCUMENTS_PER_UPSERT * PER_DOCUMENT) {
    const documents = Array.from({ length: DOCUMENTS_PER_UPSERT }, (_, d) => {
      const number = first / PER_DOCUMENT + d
      const topic = Math.floor(random() * made.numTopics)
      const centre = made.document(random, topic)
      const rows = vectors.subarray(number * PER_DOCUMENT * DIMENSIONS, (number + 1) * PER_DOCUMENT * DIMENSIONS)
      const chunks = Array.from({ length: PER_DOCUMENT }, (__, chunk) => {
        rows.set(made.vector(random, centre), chunk * DIMENSIONS)
        const text = made.text(random, topic, WORDS)
        words?.add(number * PER_DOCUMENT + chunk, number, [`d${number}.md`, text].join('\n'))
        return { chunk, text, headings: [], start: 0, end: text.length, numTokens: WORDS }
      })
      return {
        id: `d${number}`,
        source: `d${number}.md`,
        contentHash: String(number),
        origin: '',
        metadata: { tenth: number % 10, hundredth: number % 100, thousandth: number % 1000 },
        vectors: rows,
        chunks,
      }
    })
    const startMs = performance.now()
    await index.upsert(documents)
    upsertMs += performance.now() - startMs
    if (first % 100_000 === 0) console.log(`${first} chunks, ${round((first / upsertMs) * 1000, 0)}/s`)
  }
  return { vectors, words, upsertSeconds: upsertMs / 1000 }
}

/** Waits for an index of the database; seconds from now until it is there. */
async function built(client, name) {
  const startMs = performance.now()
  const isThere = `select 1 from pg_index where indexrelid = to_regclass('miniserve.${name}') and indisvalid`
  while ((await client.query(isThere)).rowCount === 0) await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  return round((performance.now() - startMs) / 1000, 1)
}

/**
 * The best chunks of each query under each filter, by a scan of all vectors: [filter][query] → keys, best first.
 * @returns {number[][][]}
 */
function exactly(vectors, queries) {
  const most = Math.max(...DEPTHS)
  const scores = new Float32Array(NUM_CHUNKS)
  const perQuery = queries.map(({ vector }) => {
    for (let row = 0; row < NUM_CHUNKS; row++) {
      let sum = 0
      for (let i = 0, at = row * DIMENSIONS; i < DIMENSIONS; i++, at++) sum += vectors[at] * vector[i]
      scores[row] = sum
    }
    return SELECTIVITIES.map(({ every }) => bestRows(scores, every, most))
  })
  return SELECTIVITIES.map((_, s) => perQuery.map((lists) => lists[s]))
}

/** The rows of the `most` best scores among the documents that pass: those above a bound that a histogram of the scores gives, sorted. */
function bestRows(scores, every, most) {
  const counts = new Uint32Array(BUCKETS + 1)
  const bucketOf = (score) => Math.floor(((Math.min(1, Math.max(-1, score)) + 1) / 2) * BUCKETS)
  const eachRow = (visit) => {
    const numDocuments = scores.length / PER_DOCUMENT
    for (let document = every === 1 ? 0 : 3; document < numDocuments; document += every)
      for (let row = document * PER_DOCUMENT; row < (document + 1) * PER_DOCUMENT; row++) visit(row)
  }
  eachRow((row) => counts[bucketOf(scores[row])]++)
  let lowest = BUCKETS
  for (let numAbove = counts[lowest]; numAbove < most && lowest > 0; numAbove += counts[lowest]) lowest--
  /** @type {number[]} */
  const near = []
  eachRow((row) => {
    if (bucketOf(scores[row]) >= lowest) near.push(row)
  })
  return near.toSorted((x, y) => scores[y] - scores[x] || x - y).slice(0, most)
}

const recallOf = (found, wanted, depth) => {
  const right = new Set(wanted.slice(0, depth))
  return found.slice(0, depth).filter((key) => right.has(key)).length / right.size
}

/** Searches as the product does them: latency, recall of what the vectors find, and whether the filter got as many as there are. */
async function searches(index, queries, exact) {
  const rows = []
  for (const [s, { name, filter }] of SELECTIVITIES.entries()) {
    for (const depth of DEPTHS) {
      const some = depth === 1000 ? queries.slice(0, Math.ceil(queries.length / 4)) : queries
      /** @type {{vector: number[], whole: number[]}} */
      const times = { vector: [], whole: [] }
      /** @type {number[]} */
      const recalls = []
      let numShort = 0
      for (const [q, { vector, text }] of some.entries()) {
        const search = { vector, depth, ...(filter && { filter }) }
        const startMs = performance.now()
        const found = await index.search({ ...search, text: '' })
        times.vector.push(performance.now() - startMs)
        const ranked = found.toSorted((a, b) => (a.vectorRank ?? 0) - (b.vectorRank ?? 0)).map(chunkKey)
        recalls.push(recallOf(ranked, exact[s][q], depth))
        if (ranked.length < Math.min(depth, exact[s][q].length)) numShort++
        const againMs = performance.now()
        await index.search({ ...search, text })
        times.whole.push(performance.now() - againMs)
      }
      rows.push({
        filter: name,
        depth,
        recall: round(mean(recalls), 4),
        vectorMs: spread(times.vector),
        withTextMs: spread(times.whole),
        tooFew: numShort,
      })
    }
  }
  return rows
}

/** What lexical search finds against all rows scored in this process. */
async function lexical(index, queries, words) {
  if (words === null) return null
  /** @type {Record<number, number[]>} */
  const recalls = { 10: [], 50: [] }
  for (const { vector, text } of queries) {
    const { rows } = words.score(text)
    const order = Array.from(rows, (_, row) => row).toSorted((a, b) => rows[b] - rows[a] || a - b)
    const found = (await index.search({ vector, text, depth: 50 }))
      .filter(({ textRank }) => textRank !== null)
      .toSorted((a, b) => a.textRank - b.textRank)
    for (const depth of [10, 50]) recalls[depth].push(recallOf(found.map(chunkKey), order, depth))
  }
  return { recallAt10: round(mean(recalls[10]), 4), recallAt50: round(mean(recalls[50]), 4) }
}

/** HNSW by itself: the size of its list, whether scans go on, and whole or half numbers. */
async function sweep(client, queries, exact) {
  const rows = []
  for (const kind of flags.sweep.split(',')) {
    const type = kind === 'halfvec' ? 'chunks_hnsw_1' : 'chunks_hnsw_whole'
    let buildSeconds = null
    if (kind === 'vector') {
      const startMs = performance.now()
      await client.query(`set maintenance_work_mem = '4GB'`)
      await client.query('drop index miniserve.chunks_hnsw_1')
      await client.query(
        `create index ${type} on miniserve.chunks using hnsw ((embedding::vector(${DIMENSIONS})) vector_ip_ops) where index_id = 1`,
      )
      buildSeconds = round((performance.now() - startMs) / 1000, 1)
    }
    const [{ bytes }] = (await client.query(`select pg_relation_size('miniserve.${type}')::float8 as bytes`)).rows
    for (const [s, { name, filter, every }] of SELECTIVITIES.entries()) {
      if (typeof Object.values(filter ?? {})[0] === 'object') continue
      for (const iterative of every === 1 ? ['off'] : ['off', 'strict_order', 'relaxed_order'])
        for (const ef of [40, 100, 200, 400, 800]) {
          const depth = 50
          await client.query(`set hnsw.ef_search = ${ef}; set hnsw.iterative_scan = ${iterative}; set jit = off`)
          await client.query('set hnsw.max_scan_tuples = 100000; set hnsw.scan_mem_multiplier = 8')
          await client.query('set enable_seqscan = off; set enable_sort = off; set enable_bitmapscan = off')
          /** @type {Record<'times' | 'recalls' | 'counts', number[]>} */
          const { times, recalls, counts } = { times: [], recalls: [], counts: [] }
          for (const [q, { vector }] of queries.entries()) {
            const startMs = performance.now()
            const condition = filter === undefined ? 'true' : `d.metadata @> $2::jsonb`
            const { rows: found } = await client.query(
              `select d.id, c.chunk, -(c.embedding <#> $1::vector) as similarity
               from miniserve.chunks c join miniserve.documents d using (document_id)
               where c.index_id = 1 and ${condition}
               order by c.embedding::${kind}(${DIMENSIONS}) <#> $1::${kind}(${DIMENSIONS}) limit ${depth}`,
              [JSON.stringify(Array.from(vector)), ...(filter === undefined ? [] : [JSON.stringify(filter)])],
            )
            times.push(performance.now() - startMs)
            const ranked = found.toSorted((a, b) => b.similarity - a.similarity)
            recalls.push(
              recallOf(
                ranked.map(({ id, chunk }) => chunkKey({ documentId: id, chunk })),
                exact[s][q],
                depth,
              ),
            )
            counts.push(found.length)
          }
          rows.push({
            kind,
            filter: name,
            iterative,
            ef,
            depth,
            recall: round(mean(recalls), 4),
            meanRows: round(mean(counts), 1),
            ...spread(times),
          })
        }
    }
    rows.push({ kind, MiB: round(bytes / 2 ** 20, 0), buildSeconds })
  }
  return rows
}

async function startServer() {
  if (flags.url !== undefined) return { url: flags.url, stop: async () => {} }
  const binaries = postgresBinaries()
  if (binaries === null) throw new Error('PostgreSQL with pgvector: expected under /usr/lib/postgresql, found none')
  return startPostgres(binaries, SETTINGS)
}

await run('pgvector', async (save) => {
  const server = await startServer()
  const store = createPgvectorStore(server.url)
  const client = new Client({ connectionString: server.url })
  try {
    await client.connect()
    const index = await store.openOrCreate('large', { model: 'made up', dimensions: DIMENSIONS })
    const made = topics(17, DIMENSIONS)
    const isKept = flags.vectors !== undefined && existsSync(flags.vectors)
    const filled = isKept
      ? { vectors: new Float32Array(Uint8Array.from(readFileSync(flags.vectors ?? '')).buffer), words: null }
      : await fill(index, made)
    const { vectors, words } = filled
    const before = readResults(`pgvector-${NUM_CHUNKS}`)
    const insertion =
      'upsertSeconds' in filled
        ? {
            chunksPerSecond: round(NUM_CHUNKS / filled.upsertSeconds, 0),
            perUpsert: DOCUMENTS_PER_UPSERT * PER_DOCUMENT,
          }
        : before?.insertion
    console.log(insertion)
    if (flags.vectors !== undefined && !isKept) writeFileSync(flags.vectors, vectors)
    // What a run has found so far is kept should it end early.
    if (!isKept) save({ chunks: NUM_CHUNKS, insertion }, `pgvector-${NUM_CHUNKS}`)
    const waited = {
      ginSeconds: await built(client, 'chunks_terms_1'),
      hnswSeconds: await built(client, 'chunks_hnsw_1'),
    }
    const build = before?.build && isKept ? before.build : waited
    console.log(build)
    const [sizes] = (
      await client.query(
        `select pg_relation_size('miniserve.chunks_hnsw_1')::float8 as hnsw, pg_relation_size('miniserve.chunks_terms_1')::float8 as gin,
                pg_table_size('miniserve.chunks')::float8 as chunks, pg_total_relation_size('miniserve.terms')::float8 as terms,
                pg_total_relation_size('miniserve.documents')::float8 as documents`,
      )
    ).rows
    const mebibytes = Object.fromEntries(
      Object.entries(sizes).map(([name, bytes]) => [name, round(Number(bytes) / 2 ** 20, 0)]),
    )
    console.log(mebibytes)
    save({ chunks: NUM_CHUNKS, insertion, build, mebibytes }, `pgvector-${NUM_CHUNKS}`)
    const random = seededRandom(99)
    const queries = Array.from({ length: NUM_QUERIES }, () => {
      const topic = Math.floor(random() * made.numTopics)
      const vector = made.vector(random, made.document(random, topic))
      return { text: made.text(random, topic, QUERY_WORDS), vector }
    })
    const exact = exactly(vectors, queries)
    const found = await searches(index, queries, exact)
    table(
      `${NUM_CHUNKS} chunks, ${DIMENSIONS} dimensions`,
      found.map(({ vectorMs, withTextMs, ...row }) => ({
        ...row,
        'vector p50': vectorMs.p50,
        'vector p95': vectorMs.p95,
        'with text p50': withTextMs.p50,
        'with text p95': withTextMs.p95,
      })),
    )
    const text = isKept ? before?.text : await lexical(index, queries, words)
    console.log(text)
    const head = {
      chunks: NUM_CHUNKS,
      dimensions: DIMENSIONS,
      queries: NUM_QUERIES,
      postgres: (await client.query('show server_version')).rows[0].server_version,
      pgvector: (await client.query(`select extversion from pg_extension where extname = 'vector'`)).rows[0].extversion,
      settings: SETTINGS,
    }
    const result = { ...head, insertion, build, mebibytes, searches: found, text }
    save(result, `pgvector-${NUM_CHUNKS}`)
    if (flags.sweep !== '') {
      const swept = await sweep(client, queries, exact)
      table('HNSW by itself', swept)
      save({ ...result, sweep: swept }, `pgvector-${NUM_CHUNKS}`)
    }
  } finally {
    await client.end()
    await store.close()
    await server.stop()
  }
})
