// What the product's own code finds for each question of a set: one implementation of search and fusion, the one that is served.
// Needs `npm run build`.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createEmbedder } from '../../../dist/rag/embedder.js'
import { FUSION_WEIGHTS, fusedOrder } from '../../../dist/rag/fusion.js'
import { createModelProcess } from '../../../dist/rag/models.js'
import { createReranker } from '../../../dist/rag/reranker.js'
import { DEFAULT_TOP_K } from '../../../dist/rag/retrieve.js'
import { BUNDLED_EMBEDDER, BUNDLED_RERANKER } from '../../../dist/rag/service.js'
import { MemoryIndex } from '../../../dist/rag/stores/memory-index.js'

export const here = dirname(fileURLToPath(import.meta.url))
const models = join(here, '..', '..', '..', 'models')

export const readLines = (path) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line))

export const readSplit = (split) => ({
  documents: readLines(join(here, split, 'documents.jsonl')),
  questions: readLines(join(here, split, 'questions.jsonl')),
})

/** The bundled models in their process. */
export function openModels() {
  const modelProcess = createModelProcess()
  const model = (name) => ({ kind: 'folder', name, folder: join(models, name) })
  return {
    embedder: createEmbedder(model(BUNDLED_EMBEDDER), modelProcess),
    reranker: createReranker(model(BUNDLED_RERANKER), modelProcess),
    close: () => modelProcess.close(),
  }
}

/** An index of whole passages: one chunk a document. */
export async function indexOf(documents, { embedder }) {
  const { dimensions } = await embedder.load()
  const index = new MemoryIndex(dimensions)
  const { vectors } = await embedder.embed(
    documents.map(({ text }) => text),
    { role: 'document' },
  )
  documents.forEach(({ id, text }, i) => {
    const chunks = [{ chunk: 0, text, headings: [], start: 0, end: text.length, numTokens: 0 }]
    const row = vectors.slice(i * dimensions, (i + 1) * dimensions)
    index.put({ id, source: '', contentHash: id, origin: '', metadata: {}, chunks, vectors: row })
  })
  return index
}

/**
 * For each question: all passages with their places in both searches, and a function that has some of them reranked (each pair once).
 * `passages` is the size of the index, the rank of what is not found.
 */
export async function readSignals({ documents, questions }, openedModels) {
  const { embedder, reranker } = openedModels
  const index = await indexOf(documents, openedModels)
  const asked = await embedder.embed(
    questions.map(({ question }) => question),
    { role: 'query' },
  )
  const dimensions = asked.vectors.length / questions.length
  return questions.map(({ question, document, kind }, i) => {
    const vector = asked.vectors.slice(i * dimensions, (i + 1) * dimensions)
    const known = new Map()
    return {
      kind,
      target: document,
      passages: documents.length,
      search: (depth) => index.search({ vector, text: question, depth }),
      async relevance(candidates) {
        const unknown = candidates.filter(({ documentId }) => !known.has(documentId))
        const { scores } = await reranker.rerank(
          question,
          unknown.map(({ text }) => text),
        )
        unknown.forEach(({ documentId }, j) => known.set(documentId, scores[j]))
        return candidates.map(({ documentId }) => known.get(documentId))
      },
    }
  })
}

const take = (candidates, order) => order.map((i) => candidates[i])
const byRank = (candidates, rank) =>
  candidates.filter((hit) => hit[rank] !== null).toSorted((a, b) => a[rank] - b[rank])

/** The order of each system, best first. `all fused` is what `retrieve` does. */
export const SYSTEMS = {
  BM25: ({ search, passages }) => byRank(search(passages), 'textRank'),
  embed: ({ search, passages }) => byRank(search(passages), 'vectorRank'),
  async 'embed + rerank'({ search, passages, relevance }) {
    const candidates = byRank(search(passages), 'vectorRank').slice(0, DEFAULT_TOP_K)
    const only = { k: 0, vector: 0, text: 0, textPower: 1, rerank: 1 }
    return take(candidates, fusedOrder(candidates, await relevance(candidates), only))
  },
  'BM25 + embed': ({ search }, weights) => {
    const found = search(DEFAULT_TOP_K)
    return take(found, fusedOrder(found, null, weights)).slice(0, DEFAULT_TOP_K)
  },
  async 'all fused'(signal, weights) {
    const candidates = SYSTEMS['BM25 + embed'](signal, weights)
    return take(candidates, fusedOrder(candidates, await signal.relevance(candidates), weights))
  },
}

/** Rank of the right passage for every question; that of the last passage when it is not found. */
export async function ranksOf(system, signals, weights) {
  const ranks = []
  for (const signal of signals) {
    const place = (await SYSTEMS[system](signal, weights)).findIndex(({ documentId }) => documentId === signal.target)
    ranks.push(place < 0 ? signal.passages : place + 1)
  }
  return ranks
}

/** mulberry32: uniform in [0, 1). */
export function seededRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
export const meanReciprocalRank = (ranks) => mean(ranks.map((rank) => 1 / rank))

/** Mean with its 95 % percentile bootstrap interval over the questions. */
export function withInterval(values, resamples = 10_000) {
  const random = seededRandom(1)
  const means = Array.from({ length: resamples }, () => {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)]
    return sum / values.length
  }).sort((a, b) => a - b)
  const at = (share) => means[Math.min(resamples - 1, Math.floor(resamples * share))]
  return [mean(values), at(0.025), at(0.975)].map((value) => Number(value.toFixed(4)))
}

export const KINDS = ['lexical', 'paraphrased']

/** Recall@5 and MRR of every system by kind of question, and the MRR of all fused minus BM25's. */
export async function evaluate({ documents, questions }, models) {
  const signals = await readSignals({ documents, questions }, models)
  const results = Object.fromEntries(KINDS.map((kind) => [kind, {}]))
  const reciprocals = {}
  for (const system of Object.keys(SYSTEMS)) {
    const ranks = await ranksOf(system, signals, FUSION_WEIGHTS)
    for (const kind of KINDS) {
      const ofKind = ranks.filter((_, i) => signals[i].kind === kind)
      const reciprocal = ofKind.map((rank) => 1 / rank)
      ;(reciprocals[kind] ??= {})[system] = reciprocal
      results[kind][system] = {
        'recall@5': withInterval(ofKind.map((rank) => (rank <= 5 ? 1 : 0))),
        mrr: withInterval(reciprocal),
      }
    }
  }
  // The same questions under both systems: the interval of the difference is what "not worse" is judged by.
  const fusedMinusBm25 = Object.fromEntries(
    KINDS.map((kind) => [
      kind,
      withInterval(reciprocals[kind]['all fused'].map((value, i) => value - reciprocals[kind].BM25[i])),
    ]),
  )
  return { passages: documents.length, questions: questions.length, results, fusedMinusBm25 }
}
