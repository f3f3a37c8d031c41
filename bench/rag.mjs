// Retrieval: quality on the hand-written questions, ingestion, search against usearch and sqlite-vec, reranking, time to first token.
//   npm run bench -- rag [quality] [ingest] [search] [rerank] [ttft] [--quick]     all five when none is named
// Peers are taken from bench/peers when they are installed there (npm install --prefix bench/peers). Results: bench/results/rag.json
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createEmbedder } from '../dist/rag/embedder.js'
import { ingest } from '../dist/rag/ingest.js'
import { createModelThread } from '../dist/rag/models.js'
import { createReranker } from '../dist/rag/reranker.js'
import { fuse, fuseReranked } from '../dist/rag/retrieve.js'
import { BUNDLED_EMBEDDER, BUNDLED_RERANKER } from '../dist/rag/service.js'
import { createMemoryStore } from '../dist/rag/stores/memory.js'
import { MemoryIndex } from '../dist/rag/stores/memory-index.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const args = process.argv.slice(2)
const isQuick = args.includes('--quick')
const wanted = args.filter((arg) => !arg.startsWith('--'))
const runs = (name) => wanted.length === 0 || wanted.includes(name)

const scratch = mkdtempSync(join(tmpdir(), 'miniserve-bench-rag-'))
const thread = createModelThread()
const model = (name) => ({ kind: 'folder', name, folder: join(root, 'models', name) })
const embedder = createEmbedder(model(BUNDLED_EMBEDDER), thread)
const reranker = createReranker(model(BUNDLED_RERANKER), thread)

/** mulberry32: uniform in [0, 1). */
function seededRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

const percentile = (values, share) => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}
const round = (value, digits = 2) => (value === null ? null : Number(value.toFixed(digits)))
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length

/** Milliseconds of each of `count` runs, after `warmup` that do not count. */
async function time(count, warmup, run) {
  const times = []
  for (let i = -warmup; i < count; i++) {
    const started = performance.now()
    await run(i)
    if (i >= 0) times.push(performance.now() - started)
  }
  return times
}

function table(title, rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  const cells = [columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? '')))]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i].length)))
  const line = (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  console.log(`\n${title}\n\n${line(cells[0])}\n| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`)
  for (const row of cells.slice(1)) console.log(line(row))
}

const readLines = (path) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line))

/** Value with its 95 % percentile bootstrap interval over the questions. */
function withInterval(values) {
  const random = seededRandom(1)
  const means = Array.from({ length: 5000 }, () => {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)]
    return sum / values.length
  })
  return {
    value: round(mean(values), 3),
    low: round(percentile(means, 0.025), 3),
    high: round(percentile(means, 0.975), 3),
  }
}

/** Recall@5 and MRR of each way to search, by the product's own code, over the hand-written evaluation questions. */
async function quality() {
  const folder = join(root, 'experiments', 'models', 'retrieval', 'eval')
  const documents = readLines(join(folder, 'documents.jsonl'))
  const questions = readLines(join(folder, 'questions.jsonl'))
  const { dimensions } = await embedder.load()
  const index = new MemoryIndex(dimensions)
  const { vectors } = await embedder.embed(
    documents.map(({ text }) => text),
    { role: 'document' },
  )
  documents.forEach(({ id, text }, i) => {
    const chunks = [{ chunk: 0, text, headings: [], start: 0, end: text.length, numTokens: 0 }]
    index.put({
      id,
      source: '',
      contentHash: id,
      origin: '',
      metadata: {},
      chunks,
      vectors: vectors.slice(i * dimensions, (i + 1) * dimensions),
    })
  })
  const asked = await embedder.embed(
    questions.map(({ question }) => question),
    { role: 'query' },
  )
  const ranks = {}
  const note = (system, kind, place) =>
    ((ranks[system] ??= {})[kind] ??= []).push(place < 0 ? documents.length : place + 1)
  for (const [i, { question, document, kind }] of questions.entries()) {
    const vector = asked.vectors.slice(i * dimensions, (i + 1) * dimensions)
    const all = index.search({ vector, text: question, depth: documents.length })
    const place = (list) => list.findIndex(({ documentId }) => documentId === document)
    const by = (rank) => all.filter((hit) => hit[rank] !== null).toSorted((a, b) => a[rank] - b[rank])
    note('BM25', kind, place(by('textRank')))
    note('embed', kind, place(by('vectorRank')))
    const reordered = async (candidates, weights) => {
      const { scores } = await reranker.rerank(
        question,
        candidates.map(({ text }) => text),
      )
      return fuseReranked(scores, weights).map((j) => candidates[j])
    }
    note(
      'embed + rerank',
      kind,
      place(await reordered(by('vectorRank').slice(0, 20), { vector: 1, text: 1, search: 0, rerank: 1 })),
    )
    const fused = fuse(index.search({ vector, text: question, depth: 20 })).slice(0, 20)
    note('BM25 + embed', kind, place(fused))
    note('all fused', kind, place(await reordered(fused)))
  }
  const results = []
  for (const [system, byKind] of Object.entries(ranks)) {
    for (const [kind, places] of Object.entries(byKind)) {
      const recall = withInterval(places.map((place) => (place <= 5 ? 1 : 0)))
      results.push({
        system,
        kind,
        questions: places.length,
        recallAt5: recall,
        mrr: withInterval(places.map((place) => 1 / place)),
      })
    }
  }
  const show = ({ value, low, high }) => `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`
  table(
    'Quality: hand-written questions over documents that were not trained on',
    results.map((row) => ({
      system: row.system,
      questions: row.kind,
      'recall@5': show(row.recallAt5),
      MRR: show(row.mrr),
    })),
  )
  return results
}

const WORDS = Array.from({ length: 20_000 }, (_, i) => `w${i.toString(36)}`)

/** Words with the frequencies of natural text: rank r about as often as 1 / r. */
const zipfWord = (random) => WORDS[Math.floor(Math.exp(random() * Math.log(WORDS.length))) - 1] ?? WORDS[0]

/** Markdown through cutting, embedding and storing, and how long the main thread stalls meanwhile. */
async function ingestion() {
  const random = seededRandom(7)
  const numDocuments = isQuick ? 40 : 200
  const sentence = () => `${Array.from({ length: 14 }, () => zipfWord(random)).join(' ')}.`
  const documents = Array.from({ length: numDocuments }, (_, i) => ({
    id: `d${i}.md`,
    source: `d${i}.md`,
    format: 'markdown',
    metadata: {},
    origin: '',
    text: Array.from(
      { length: 6 },
      (__, s) => `## Section ${s}\n\n${Array.from({ length: 6 }, sentence).join(' ')}`,
    ).join('\n\n'),
  }))
  const { fingerprint, dimensions } = await embedder.load()
  const store = createMemoryStore(join(scratch, 'ingest'))
  const index = await store.openOrCreate('ingest', { model: fingerprint, dimensions })
  const lag = async (work) => {
    const delay = monitorEventLoopDelay({ resolution: 2 })
    delay.enable()
    const started = performance.now()
    const result = await work()
    delay.disable()
    // The histogram counts the timer's own period of 2 ms.
    return { result, seconds: (performance.now() - started) / 1000, p99Ms: Math.max(0, delay.percentile(99) / 1e6 - 2) }
  }
  const idle = await lag(() => sleep(2000))
  const run = await lag(() => ingest(documents, { index, embedder }))
  const again = await lag(() => ingest(documents, { index, embedder }))
  await store.close()
  const results = {
    documents: numDocuments,
    chunks: run.result.chunks,
    chunksPerSecond: round(run.result.chunks / run.seconds, 1),
    unchangedDocumentsPerSecond: round(again.result.unchanged / again.seconds, 0),
    eventLoopDelayP99Ms: round(run.p99Ms),
    idleEventLoopDelayP99Ms: round(idle.p99Ms),
  }
  table('Ingestion: bundled embedding model, memory store', [
    {
      chunks: results.chunks,
      'chunks/s': results.chunksPerSecond,
      'unchanged documents/s': results.unchangedDocumentsPerSecond,
      'event loop delay p99 (ms)': results.eventLoopDelayP99Ms,
      'the same, idle (ms)': results.idleEventLoopDelayP99Ms,
    },
  ])
  return results
}

const peers = createRequire(join(root, 'bench', 'peers', 'package.json'))
function peer(name) {
  try {
    return peers(name)
  } catch (error) {
    console.error(
      `${name}: not measured (${error.code === 'MODULE_NOT_FOUND' ? 'npm install --prefix bench/peers' : error.message})`,
    )
    return null
  }
}
const versionOf = (name) => {
  const path = join(root, 'bench', 'peers', 'node_modules', name, 'package.json')
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).version : null
}

/** An SQLite database with sqlite-vec, or null: the bindings are compiled when they are installed, and that may have failed. */
function openSqliteVec() {
  const Database = peer('better-sqlite3')
  const sqliteVec = peer('sqlite-vec')
  if (!Database || !sqliteVec) return null
  try {
    const database = new Database(':memory:')
    sqliteVec.load(database)
    return database
  } catch (error) {
    console.error(`sqlite-vec: not measured (${error.message.split('\n')[0]})`)
    return null
  }
}

const DEPTH = 10

/** Exact and approximate search of the same vectors in one run. Recall against a scan in float64. */
async function search() {
  const { dimensions } = await embedder.load()
  const results = []
  for (const size of isQuick ? [1000, 10_000] : [1000, 10_000, 100_000]) {
    const random = seededRandom(size)
    // Around 200 centres: embeddings of real text have neighbours, uniform noise has none.
    const centres = Float32Array.from({ length: 200 * dimensions }, () => random() - 0.5)
    const rows = new Float32Array(size * dimensions)
    const fill = (row) => {
      const centre = Math.floor(random() * 200) * dimensions
      let squares = 0
      for (let i = 0; i < dimensions; i++) {
        row[i] = centres[centre + i] + 0.6 * (random() - 0.5)
        squares += row[i] * row[i]
      }
      const scale = 1 / Math.sqrt(squares)
      for (let i = 0; i < dimensions; i++) row[i] *= scale
      return row
    }
    for (let r = 0; r < size; r++) fill(rows.subarray(r * dimensions, (r + 1) * dimensions))
    const numQueries = isQuick ? 50 : 200
    const queries = Array.from({ length: numQueries }, () => fill(new Float32Array(dimensions)))
    const texts = queries.map(() => Array.from({ length: 8 }, () => zipfWord(random)).join(' '))
    const truth = queries.slice(0, 50).map((query) => {
      const scores = Array.from({ length: size }, (_, r) => {
        let sum = 0
        for (let i = 0; i < dimensions; i++) sum += query[i] * rows[r * dimensions + i]
        return { r, sum }
      })
      return new Set(
        scores
          .sort((a, b) => b.sum - a.sum)
          .slice(0, DEPTH)
          .map(({ r }) => r),
      )
    })
    const measure = async (system, run) => {
      let found = 0
      for (const [q, expected] of truth.entries()) for (const row of await run(q)) if (expected.has(row)) found++
      const times = await time(numQueries, 10, (q) => run(Math.max(q, 0)))
      results.push({
        chunks: size,
        system,
        p50Ms: round(percentile(times, 0.5), 3),
        p99Ms: round(percentile(times, 0.99), 3),
        recallAt10: round(found / (truth.length * DEPTH), 4),
      })
    }

    const store = createMemoryStore(join(scratch, `search-${size}`))
    const index = await store.openOrCreate('bench', { model: 'bench', dimensions })
    const perDocument = 100
    for (let from = 0; from < size; from += perDocument * 10) {
      await index.upsert(
        Array.from({ length: Math.min(10, (size - from) / perDocument) }, (_, d) => {
          const first = from + d * perDocument
          const chunks = Array.from({ length: perDocument }, (__, chunk) => {
            const text = Array.from({ length: 60 }, () => zipfWord(random)).join(' ')
            return { chunk, text, headings: [], start: 0, end: text.length, numTokens: 60 }
          })
          const id = `d${first}`
          return {
            id,
            source: id,
            contentHash: id,
            origin: '',
            metadata: {},
            chunks,
            vectors: rows.slice(first * dimensions, (first + perDocument) * dimensions),
          }
        }),
      )
    }
    const rowOf = ({ documentId, chunk }) => Number(documentId.slice(1)) + chunk
    await measure('miniserve, exact', async (q) =>
      (await index.search({ vector: queries[q], text: '', depth: DEPTH })).map(rowOf),
    )
    await measure('miniserve, exact + BM25', async (q) =>
      (await index.search({ vector: queries[q], text: texts[q], depth: DEPTH }))
        .filter((hit) => hit.vectorRank !== null)
        .map(rowOf),
    )
    await store.close()

    const usearch = peer('usearch')
    if (usearch) {
      const hnsw = new usearch.Index({ metric: 'ip', dimensions })
      for (let from = 0; from < size; from += 1000) {
        const keys = BigUint64Array.from({ length: Math.min(1000, size - from) }, (_, i) => BigInt(from + i))
        hnsw.add(keys, rows.subarray(from * dimensions, (from + keys.length) * dimensions))
      }
      await measure('usearch, HNSW', (q) => [...hnsw.search(queries[q], DEPTH, 1).keys].map(Number))
      await measure('usearch, exact', (q) =>
        [...usearch.exactSearch(rows, queries[q], dimensions, DEPTH, 'ip').keys].map(Number),
      )
    }
    const database = openSqliteVec()
    if (database) {
      database.exec(`create virtual table v using vec0(e float[${dimensions}] distance_metric=cosine)`)
      const insert = database.prepare('insert into v(rowid, e) values (?, ?)')
      database.transaction(() => {
        for (let r = 0; r < size; r++) {
          const row = rows.subarray(r * dimensions, (r + 1) * dimensions)
          insert.run(BigInt(r + 1), Buffer.from(row.buffer, row.byteOffset, row.byteLength))
        }
      })()
      const select = database.prepare('select rowid from v where e match ? and k = ? order by distance')
      await measure('sqlite-vec, exact', (q) =>
        select.all(Buffer.from(queries[q].buffer), DEPTH).map(({ rowid }) => rowid - 1),
      )
      database.close()
    }
  }
  table(
    `Search: best ${DEPTH}, one query at a time`,
    results.map((row) => ({
      chunks: row.chunks,
      system: row.system,
      'p50 (ms)': row.p50Ms,
      'p99 (ms)': row.p99Ms,
      'recall@10': row.recallAt10,
    })),
  )
  return { dimensions, peers: { usearch: versionOf('usearch'), 'sqlite-vec': versionOf('sqlite-vec') }, rows: results }
}

/** Passages of about 100 words against a question. */
async function reranking() {
  const passages = readLines(join(root, 'experiments', 'models', 'retrieval', 'eval', 'documents.jsonl')).map(
    ({ text }) => text,
  )
  const results = []
  for (const count of [5, 20, 50]) {
    const times = await time(isQuick ? 10 : 30, 3, (i) =>
      reranker.rerank(`How are blocks reused, question ${i}?`, passages.slice(0, count)),
    )
    results.push({ candidates: count, p50Ms: round(percentile(times, 0.5)), p99Ms: round(percentile(times, 0.99)) })
  }
  table(
    'Reranking: bundled cross-encoder',
    results.map((row) => ({ candidates: row.candidates, 'p50 (ms)': row.p50Ms, 'p99 (ms)': row.p99Ms })),
  )
  return results
}

/** Milliseconds from sending a streamed completion to its first text. */
async function firstTokenMs(url, body) {
  const started = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ max_tokens: 8, temperature: 0, stream: true, ignore_eos: true, ...body }),
  })
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
  let first = null
  for await (const line of createInterface({ input: Readable.fromWeb(response.body) })) {
    const frame = line.startsWith('data: {') ? JSON.parse(line.slice(6)) : null
    if (frame?.choices?.[0]?.text && first === null) first = performance.now() - started
  }
  return first ?? performance.now() - started
}

/** The whole way, through the server over the bundled index: without retrieval, with it for new questions, and for repeated ones. */
async function ttft() {
  const server = spawn(process.execPath, [join(root, 'dist', 'main.js'), '--port', '0', '--log-file', ''], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, MINISERVE_CACHE_DIR: join(scratch, 'cache'), MINISERVE_DATA_DIR: join(scratch, 'data') },
  })
  try {
    const url = await new Promise((resolve, reject) => {
      let text = ''
      server.stderr.setEncoding('utf8').on('data', (piece) => {
        text += piece
        const found = /https?:\/\/[\w.:[\]]+/.exec(text)
        if (found && text.includes('ready')) resolve(found[0])
      })
      server.once('exit', (code) => reject(new Error(`the server ended with code ${code}: ${text}`)))
    })
    const subjects = [
      'span tree',
      'prefix cache',
      'rag index',
      'port flag',
      'trace store',
      'rerank',
      'embeddings',
      'stop strings',
      'queue',
      'device',
    ]
    const questions = subjects.flatMap((subject) => [
      `What is the ${subject}?`,
      `How do I set the ${subject}?`,
      `Where is the ${subject} described?`,
    ])
    // The first one waits for the bundled index.
    const firstMs = await firstTokenMs(url, { prompt: 'What is miniserve?', rag: true })
    const plain = []
    const cold = []
    const warm = []
    for (const prompt of questions) {
      plain.push(await firstTokenMs(url, { prompt }))
      cold.push(await firstTokenMs(url, { prompt, rag: true }))
      warm.push(await firstTokenMs(url, { prompt, rag: true }))
    }
    const row = (name, times) => ({
      request: name,
      p50Ms: round(percentile(times, 0.5), 1),
      p99Ms: round(percentile(times, 0.99), 1),
    })
    const results = [
      row('no retrieval', plain),
      row('retrieval, new question', cold),
      row('retrieval, repeated question', warm),
    ]
    table(
      'Time to first token, bundled models',
      results.map(({ request, p50Ms, p99Ms }) => ({ request, 'p50 (ms)': p50Ms, 'p99 (ms)': p99Ms })),
    )
    return { firstRequestMs: round(firstMs, 1), rows: results }
  } finally {
    server.kill('SIGTERM')
  }
}

const git = () => {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
  } catch {
    return null
  }
}

const path = join(root, 'bench', 'results', 'rag.json')
const earlier = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {}
const results = {}
try {
  for (const [name, run] of Object.entries({ quality, ingest: ingestion, search, rerank: reranking, ttft })) {
    if (!runs(name)) continue
    results[name] = {
      date: new Date().toISOString(),
      revision: git(),
      node: process.version,
      cpu: cpus()[0]?.model,
      threads: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      loadAverage: round(loadavg()[0]),
      results: await run(),
    }
  }
  // Sections that were not run keep what an earlier run found, with its own date and machine.
  mkdirSync(join(root, 'bench', 'results'), { recursive: true })
  writeFileSync(path, `${JSON.stringify({ ...earlier, ...results }, null, 2)}\n`)
} finally {
  await thread.close()
  rmSync(scratch, { recursive: true, force: true })
}
