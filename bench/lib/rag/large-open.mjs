// Opens the index of large.mjs in a process of its own, as a server does when it starts, and asks it: node large-open.mjs DATA-DIR. Prints JSON.
import { join } from 'node:path'
import { createRag } from '#dist/rag/create-rag.js'
import { root } from '../run.mjs'
import { quantile, round, seededRandom } from '../stats.mjs'
import { englishWords } from './common.mjs'

const QUERIES = 200
const words = englishWords()
const [dataDir = ''] = process.argv.slice(2)
const rag = createRag({
  store: 'memory',
  storeUrl: null,
  dataDir,
  cacheDir: join(dataDir, 'cache'),
  modelsDir: join(root, 'models'),
  embeddingModel: null,
  rerankerModel: null,
  device: 'cpu',
  hub: { cacheDir: '', endpoint: 'http://127.0.0.1:9', token: null, offline: true },
  defaultIndex: 'large',
  bundledFiles: [],
  rerankBudgetMs: 60_000,
})
try {
  // The model is there in any case.
  await rag.embedder.load()
  const before = process.memoryUsage.rss()
  const cpu = process.cpuUsage()
  const started = performance.now()
  await rag.readDefaultIndex()
  const openSeconds = (performance.now() - started) / 1000
  const openCpu = process.cpuUsage(cpu)
  const grownMiB = (process.memoryUsage.rss() - before) / 2 ** 20
  const random = seededRandom(9)
  const times = []
  const queryCpu = process.cpuUsage()
  for (let i = 0; i < QUERIES + 10; i++) {
    const query = words(random, 8)
    const asked = performance.now()
    await rag.query({ query })
    if (i >= 10) times.push(performance.now() - asked)
  }
  const spent = process.cpuUsage(queryCpu)
  // Of all threads: what a busy machine does not change.
  const openCpuSeconds = round((openCpu.user + openCpu.system) / 1e6, 2)
  const queryCpuMs = round((spent.user + spent.system) / 1000 / (QUERIES + 10), 1)
  const ms = (/** @type {number} */ share) => round(quantile(times, share), 1)
  const queryMs = { p50: ms(0.5), p95: ms(0.95), p99: ms(0.99) }
  const grown = round(grownMiB, 0)
  console.log(
    JSON.stringify({ openSeconds: round(openSeconds, 2), openCpuSeconds, grownMiB: grown, queryCpuMs, queryMs }),
  )
} finally {
  await rag.close()
}
