// An index of 100,000 passages: how fast texts become vectors, how long a server needs to open the index, what memory it takes, and how long a
// query takes from text to passages. Documents have 100 passages of 90 English words with the
// frequencies of natural text.
import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createMemoryStore } from '#dist/rag/stores/memory.js'
import { round, seededRandom } from '../stats.mjs'
import { englishWords, openModels, table } from './common.mjs'

const PER_DOCUMENT = 100
const PER_UPSERT = 10
const WORDS = 90
const words = englishWords()

export async function large({ isQuick, scratch }) {
  const size = isQuick ? 10_000 : 100_000
  const { embedder, close } = openModels()
  const dataDir = join(scratch, 'large')
  const store = createMemoryStore(join(dataDir, 'rag'))
  let embedSeconds = 0
  const started = performance.now()
  try {
    const { fingerprint, dimensions } = await embedder.load()
    const index = await store.openOrCreate('large', { model: fingerprint, dimensions })
    const random = seededRandom(3)
    for (let first = 0; first < size; first += PER_DOCUMENT * PER_UPSERT) {
      const texts = Array.from({ length: PER_DOCUMENT * PER_UPSERT }, () => words(random, WORDS))
      const asked = performance.now()
      const { vectors } = await embedder.embed(texts, { role: 'document' })
      embedSeconds += (performance.now() - asked) / 1000
      await index.upsert(
        Array.from({ length: PER_UPSERT }, (_, d) => {
          const from = d * PER_DOCUMENT
          const chunks = texts.slice(from, from + PER_DOCUMENT).map((text, chunk) => {
            const start = chunk * text.length
            return { chunk, text, headings: ['Large'], start, end: start + text.length, numTokens: WORDS }
          })
          const id = `d${first + from}`
          const rows = vectors.slice(from * dimensions, (from + PER_DOCUMENT) * dimensions)
          return { id, source: id, contentHash: id, origin: '', metadata: {}, chunks, vectors: rows }
        }),
      )
    }
    await store.close()
  } finally {
    await close()
  }
  const buildSeconds = (performance.now() - started) / 1000
  const child = fileURLToPath(new URL('large-open.mjs', import.meta.url))
  const opened = JSON.parse(execFileSync(process.execPath, [child, dataDir], { encoding: 'utf8' }))
  const { size: bytes } = statSync(join(dataDir, 'rag', 'large.idx'))
  const results = {
    passages: size,
    embeddedPerSecond: round(size / embedSeconds, 0),
    buildSeconds: round(buildSeconds, 1),
    fileMiB: round(bytes / 2 ** 20, 0),
    ...opened,
  }
  const { queryMs, ...row } = results
  table('A large index, bundled embedding model, memory store', [
    { ...row, 'query p50 (ms)': queryMs.p50, 'p95 (ms)': queryMs.p95 },
  ])
  return results
}
