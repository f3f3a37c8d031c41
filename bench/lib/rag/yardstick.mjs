// Does retrieval find? Questions with known answers over real documentation, asked of the product as it is served, and beside it BM25
// alone, the embedder alone and plain reciprocal rank fusion over the same index.
import { join } from 'node:path'
import { findFiles } from '#dist/rag/files.js'
import { indexFiles } from '#dist/rag/index-files.js'
import { createRag } from '#dist/rag/create-rag.js'
import { root } from '../run.mjs'
import { mean, quantile, round, withInterval } from '../stats.mjs'
import { table } from './common.mjs'
import { yardstickDocuments } from './corpus.mjs'
import { withCache } from './vector-cache.mjs'
import { isRight, KINDS, problemsOf, readQuestions } from './questions.mjs'

/** Passages looked at for each question. */
const DEPTH = 100
/** The constant of reciprocal rank fusion as it was published. */
const RRF_K = 60
const INDEX = 'yardstick'

const settings = (scratch, models) => ({
  store: 'memory',
  storeUrl: null,
  dataDir: join(scratch, 'data'),
  cacheDir: join(scratch, 'cache'),
  modelsDir: join(root, 'models'),
  embeddingModel: null,
  rerankerModel: null,
  hub: { cacheDir: '', endpoint: 'http://127.0.0.1:9', token: null, offline: true },
  device: 'auto',
  defaultIndex: INDEX,
  bundledFiles: [],
  // Quality is measured, not patience.
  rerankBudgetMs: 600_000,
  ...models,
})

/** The product's retrieval over the yardstick's documents. Close its `rag`. @param cache a folder that keeps the documents' vectors, for slow models. */
export const openYardstick = (scratch, models, cache = undefined) =>
  openDocuments(yardstickDocuments(scratch), scratch, models, cache)

/** The product's retrieval over the documents of a folder. Close its `rag`. */
export async function openDocuments(docs, scratch, models, cache = undefined) {
  const rag = createRag(settings(scratch, models))
  const index = await rag.openForWriting(INDEX)
  const started = performance.now()
  const { chunks } = await indexFiles(await findFiles([docs]), { index, embedder: withCache(rag.embedder, cache) })
  const seconds = (performance.now() - started) / 1000
  return { rag, index, seconds, chunks, isBundled: models.embeddingModel === null }
}

/** All passages of an index: [{documentId, headings, text, …}] */
export async function passagesOf(index) {
  const passages = []
  for (const { id } of await index.summaries()) {
    for (const chunk of (await index.get(id)).chunks) passages.push({ documentId: id, ...chunk })
  }
  return passages
}

const byRank = (found, rank) => found.filter((hit) => hit[rank] !== null).toSorted((a, b) => a[rank] - b[rank])

const reciprocal = (rank) => (rank === null ? 0 : 1 / (RRF_K + rank))

/** What the product answers, best first. */
async function ask({ rag }, question, params) {
  const { documents } = await rag.query({ query: question, index: INDEX, top_n: DEPTH, ...params })
  return documents.map(({ id, ...passage }) => ({ documentId: id, ...passage }))
}

/** The passages of each system, best first. */
function systemsOf(opened) {
  const { rag, index } = opened
  const search = async (question) => {
    const { vectors } = await rag.embedder.embed([question], { role: 'query' })
    return index.search({ vector: vectors, text: question, depth: DEPTH })
  }
  return {
    product: (question) => ask(opened, question, {}),
    'product, rerank: false': (question) => ask(opened, question, { rerank: false }),
    'BM25 alone': async (question) => byRank(await search(question), 'textRank'),
    'embedder alone': async (question) => byRank(await search(question), 'vectorRank'),
    'reciprocal rank fusion': async (question) => {
      const found = await search(question)
      const score = ({ vectorRank, textRank }) => reciprocal(vectorRank) + reciprocal(textRank)
      return found.toSorted((a, b) => score(b) - score(a))
    },
  }
}

/** Rank of the first distinct right document, and whether a right passage is among the first five. */
function judge(question, passages) {
  const documents = [...new Set(passages.map(({ documentId }) => documentId))]
  const place = documents.findIndex((id) => question.files.includes(id))
  return {
    kind: question.kind,
    reciprocal: place < 0 ? 0 : 1 / (place + 1),
    isFirst: place === 0,
    isAmongFive: place >= 0 && place < 5,
    hasPassage: passages.slice(0, 5).some((passage) => isRight(question, passage)),
  }
}

const share = (judged, field) => round(mean(judged.map((entry) => Number(entry[field]))), 3)

const summary = (judged) => ({
  questions: judged.length,
  recallAt1: share(judged, 'isFirst'),
  recallAt5: share(judged, 'isAmongFive'),
  mrr: share(judged, 'reciprocal'),
  rightPassageAt5: share(judged, 'hasPassage'),
})

/** Every system on one half: {system: {all, keyword, paraphrase, table}}, and the paired differences to BM25. */
export async function measure(half, opened) {
  const questions = readQuestions(half)
  const problems = problemsOf(questions, await passagesOf(opened.index), opened.isBundled)
  if (problems.length > 0) throw new Error(`bench/rag/${half}.jsonl:\n${problems.join('\n')}`)
  const systems = {}
  const judgedBy = {}
  const times = []
  for (const [name, find] of Object.entries(systemsOf(opened))) {
    const judged = []
    for (const question of questions) {
      const started = performance.now()
      const passages = await find(question.question)
      if (name === 'product') times.push(performance.now() - started)
      judged.push(judge(question, passages))
    }
    judgedBy[name] = judged
    const kinds = KINDS.map((kind) => [kind, summary(judged.filter((entry) => entry.kind === kind))])
    systems[name] = { all: summary(judged), ...Object.fromEntries(kinds) }
  }
  const differences = Object.fromEntries(
    ['BM25 alone', 'embedder alone'].map((other) => {
      const paired = (field) =>
        withInterval(judgedBy.product.map((entry, i) => Number(entry[field]) - Number(judgedBy[other][i][field])))
      return [other, { recallAt1: paired('isFirst'), recallAt5: paired('isAmongFive'), mrr: paired('reciprocal') }]
    }),
  )
  return {
    half,
    questions: questions.length,
    systems,
    productMinus: differences,
    queryMs: { p50: round(quantile(times, 0.5), 1), p95: round(quantile(times, 0.95), 1) },
  }
}

/** One half under weights of a request's own. */
export async function measureWeights(half, opened, weights) {
  const judged = []
  for (const question of readQuestions(half)) {
    judged.push(judge(question, await ask(opened, question.question, { weights })))
  }
  return summary(judged)
}

const columns = ({ recallAt1, recallAt5, mrr }) =>
  `${recallAt1.toFixed(2)} / ${recallAt5.toFixed(2)} / ${mrr.toFixed(2)}`

export function show(title, { systems }) {
  table(
    `${title}: recall@1 / recall@5 / MRR by document`,
    Object.entries(systems).map(([system, kinds]) => ({
      system,
      ...Object.fromEntries(
        ['all', ...KINDS].map((kind) => [`${kind} (${kinds[kind].questions})`, columns(kinds[kind])]),
      ),
      'right passage@5': kinds.all.rightPassageAt5.toFixed(2),
    })),
  )
}

/** The report half, unless `--half tune` says otherwise; with the bundled models, unless flags name others. */
export async function yardstick({ scratch, options }) {
  const { half = 'report', 'embedding-model': embeddingModel, 'reranker-model': rerankerModel } = options
  const models = { embeddingModel: embeddingModel ?? null, rerankerModel: rerankerModel ?? null }
  const opened = await openYardstick(scratch, models, options.cache)
  try {
    const measured = await measure(half, opened)
    const { documents, chunks } = { documents: (await opened.index.info()).numDocuments, chunks: opened.chunks }
    // Vectors that were kept say nothing of the model's speed.
    const chunksPerSecond = options.cache === undefined ? round(chunks / opened.seconds, 0) : null
    show(`Yardstick, ${half} half, ${opened.rag.embedder.name}, ${documents} documents, ${chunks} passages`, measured)
    return { embedder: opened.rag.embedder.name, documents, chunks, chunksPerSecond, ...measured }
  } finally {
    await opened.rag.close()
  }
}
