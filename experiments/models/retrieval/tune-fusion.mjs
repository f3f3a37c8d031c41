// Chooses the weights of src/rag/fusion.ts on questions that are not the evaluation set's.
//   node experiments/models/retrieval/tune-fusion.mjs        after npm run build; prints the weights to write into src/rag/fusion.ts
// Two sets: the development questions (40 lexical, 40 paraphrased, over 40 passages), and known-item questions over this project's own
// documents, made of some words of one sentence, since every system finds all lexical development questions. A setting is admitted when
// its lexical MRR is that of BM25 or better on both sets; of the admitted ones the best paraphrased MRR counts, and within MARGIN of it
// the setting nearest to equal weights and k = 60: 40 questions cannot tell them apart.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { analyze } from '../../../dist/rag/analyzer.js'
import { chunkDocument } from '../../../dist/rag/chunk.js'
import { FUSION_WEIGHTS } from '../../../dist/rag/fusion.js'
import { here, meanReciprocalRank, openModels, ranksOf, readSignals, readSplit, seededRandom } from './signals.mjs'

const GRID = { k: [10, 20, 60], vector: [0.1, 0.25, 0.5, 1], text: [0.5, 1, 2, 4], textPower: [1, 2, 3], rerank: [1] }
const EQUAL = { k: 60, vector: 1, text: 1, textPower: 1, rerank: 1 }
const MARGIN = 0.005
const CHUNK_TOKENS = 160
const QUESTION_WORDS = 5

const root = join(here, '..', '..', '..')

/** Chunks of the project's documents, and questions of some words of one of their sentences. */
async function knownItems({ embedder }) {
  const files = ['README.md', 'CONTRIBUTING.md', ...readdirSync(join(root, 'docs')).map((file) => join('docs', file))]
  const random = seededRandom(3)
  const documents = []
  const questions = []
  for (const file of files.filter((name) => name.endsWith('.md')).toSorted()) {
    const text = readFileSync(join(root, file), 'utf8')
    const chunks = await chunkDocument(text, 'markdown', { maxTokens: CHUNK_TOKENS, overlapTokens: 0 }, (texts) =>
      embedder.countTokens(texts),
    )
    for (const chunk of chunks) {
      const id = `${file}#${chunk.chunk}`
      documents.push({ id, text: chunk.text })
      const sentences = chunk.text
        .split(/(?<=[.:;])\s+/)
        .map((sentence) => sentence.split(/\s+/).filter((word) => analyze(word).length > 0))
        .filter((words) => words.length >= QUESTION_WORDS + 2)
      const words = sentences[Math.floor(random() * sentences.length)]
      if (!words) continue
      const kept = words
        .map((word, i) => ({ word, i, key: random() }))
        .sort((a, b) => a.key - b.key)
        .slice(0, QUESTION_WORDS)
        .sort((a, b) => a.i - b.i)
      questions.push({ document: id, kind: 'lexical', question: kept.map(({ word }) => word).join(' ') })
    }
  }
  return { documents, questions }
}

const product = (lists) =>
  Object.entries(lists).reduce(
    (settings, [name, values]) => settings.flatMap((setting) => values.map((value) => ({ ...setting, [name]: value }))),
    [{}],
  )
const distance = (setting) =>
  Object.keys(EQUAL).reduce((sum, name) => sum + Math.abs(Math.log(setting[name] / EQUAL[name])), 0)
const round = (value) => Number(value.toFixed(4))

const models = openModels()
try {
  const dev = await readSignals(readSplit('dev'), models)
  const own = await readSignals(await knownItems(models), models)
  const sets = {
    'dev lexical': dev.filter(({ kind }) => kind === 'lexical'),
    'dev paraphrased': dev.filter(({ kind }) => kind === 'paraphrased'),
    'own documents': own,
  }
  const score = async (system, weights) => {
    const scores = {}
    for (const [name, signals] of Object.entries(sets)) {
      scores[name] = round(meanReciprocalRank(await ranksOf(system, signals, weights)))
    }
    return scores
  }
  const bm25 = await score('BM25', EQUAL)
  const rows = []
  for (const weights of product(GRID)) rows.push({ ...weights, ...(await score('all fused', weights)) })
  const lexical = ['dev lexical', 'own documents']
  const admitted = rows.filter((row) => lexical.every((name) => row[name] >= bm25[name]))
  const best = Math.max(...admitted.map((row) => row['dev paraphrased']))
  const chosen = admitted
    .filter((row) => row['dev paraphrased'] >= best - MARGIN)
    .toSorted((a, b) => distance(a) - distance(b))[0]
  const report = {
    questions: Object.fromEntries(Object.entries(sets).map(([name, signals]) => [name, signals.length])),
    BM25: bm25,
    settings: rows.length,
    admitted: admitted.length,
    chosen: chosen ?? null,
    inUse: { ...FUSION_WEIGHTS, ...(await score('all fused', FUSION_WEIGHTS)) },
    equalWeights: { ...EQUAL, ...(await score('all fused', EQUAL)) },
  }
  writeFileSync(join(here, 'fusion.json'), `${JSON.stringify(report, null, 2)}\n`)
  console.table(rows.toSorted((a, b) => b['dev paraphrased'] - a['dev paraphrased']).slice(0, 25))
  console.log(report)
} finally {
  await models.close()
}
