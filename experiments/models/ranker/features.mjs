// What a ranker could go by, for each candidate of candidates.mjs: out/NAME-features.json. All of a question's candidates are scaled by their best.
//   node features.mjs train|tune
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { analyze } from '#dist/rag/analyzer.js'
import { fusedOrder, FUSION_WEIGHTS } from '#dist/rag/fusion.js'
import { StaticModel } from '#dist/rag/static-model.js'

const here = dirname(fileURLToPath(import.meta.url))
const table = new StaticModel(join(here, '..', '..', '..', 'models', 'mini-embedder'))
const WEIGHTS = FUSION_WEIGHTS.static
/** Candidates that the product reranks. */
const DEPTH = 50
/** Terms between the two of a pair, at most. */
const NEAR = 8

function scaled(values) {
  const best = Math.max(0, ...values)
  return values.map((value) => (best > 0 ? Math.max(0, value) / best : 0))
}

const cosines = (question, texts) => {
  const { vectors } = table.embed([question, ...texts])
  const size = table.dimensions
  return texts.map((_, i) => {
    let sum = 0
    for (let j = 0; j < size; j++) sum += vectors[j] * vectors[(i + 1) * size + j]
    return sum
  })
}

function areNear(sequence, pair) {
  const [a, b] = pair
  return sequence.some((term, i) => term === a && sequence.slice(Math.max(0, i - NEAR), i + NEAR + 1).includes(b))
}

/** The candidates of a question as {document, isRight, isRightFile, hand, features}. */
function featuresOf({ question, candidates }) {
  const found = fusedOrder(candidates, null, WEIGHTS)
    .slice(0, DEPTH)
    .map((i) => candidates[i])
  const sequence = analyze(question)
  const terms = [...new Set(sequence)]
  const texts = found.map(({ headings, text }) => analyze([...headings, text].join('\n')))
  const sets = texts.map((text) => new Set(text))
  const rarity = new Map(
    terms.map((term) => {
      const count = sets.filter((set) => set.has(term)).length
      return [term, Math.log(1 + (found.length - count + 0.5) / (count + 0.5))]
    }),
  )
  const weightOf = (list) => list.reduce((sum, term) => sum + (rarity.get(term) ?? 0), 0)
  const whole = weightOf(terms) || 1
  const coverage = (set) => weightOf(terms.filter((term) => set.has(term))) / whole
  const pairs = sequence.slice(1).flatMap((term, i) => (sequence[i] === term ? [] : [[sequence[i], term]]))
  const pairWeight = (pair) => Math.min(...pair.map((term) => rarity.get(term) ?? 0))
  const allPairs = pairs.reduce((sum, pair) => sum + pairWeight(pair), 0) || 1
  const nearness = (text) =>
    pairs.filter((pair) => areNear(text, pair)).reduce((sum, pair) => sum + pairWeight(pair), 0) / allPairs
  const nameOf = (source) => source.split('/').at(-1).replace(/\.[a-z.]+$/, '').replaceAll(/[-_.]/g, ' ')
  const precision = (text) => {
    const set = new Set(analyze(text))
    return set.size === 0 ? 0 : [...set].filter((term) => rarity.has(term)).length / set.size
  }
  const sentences = found.map(({ text }) => text.split(/(?<=[.!?:;])\s+|\n+/).filter((part) => part.trim() !== ''))
  const columns = {
    vector: found.map(({ similarity }) => similarity),
    text: found.map(({ textShare }) => textShare),
    document: found.map(({ documentShare }) => documentShare),
    topic: found.map(({ documentSimilarity }) => documentSimilarity),
    interaction: found.map(({ interaction }) => interaction),
    coverage: sets.map(coverage),
    'heading coverage': found.map(({ headings }) => coverage(new Set(analyze(headings.join(' '))))),
    'heading precision': found.map(({ headings }) => precision(headings.at(-1) ?? '')),
    'title coverage': found.map(({ headings }) => coverage(new Set(analyze(headings[0] ?? '')))),
    'file name precision': found.map(({ source }) => precision(nameOf(source))),
    'heading similarity': cosines(question, found.map(({ headings }) => headings.at(-1) ?? '')),
    'file name similarity': cosines(question, found.map(({ source }) => nameOf(source))),
    'closest sentence': sentences.map((parts) => Math.max(0, ...cosines(question, parts))),
    'passage without headings': cosines(question, found.map(({ text }) => text)),
    nearness: texts.map(nearness),
    position: found.map(({ chunk }) => 1 / (1 + chunk)),
    length: texts.map((text) => Math.log(1 + text.length)),
    'passages of its document': found.map(({ documentId }) => found.filter((one) => one.documentId === documentId).length),
  }
  const names = Object.keys(columns)
  const values = names.map((name) => scaled(columns[name]))
  const at = (name, i) => values[names.indexOf(name)][i]
  return found.map(({ documentId, isRight, isRightFile }, i) => ({
    document: documentId,
    isRight,
    isRightFile,
    hand:
      WEIGHTS.vector * at('vector', i) +
      WEIGHTS.text * at('text', i) +
      WEIGHTS.document * at('document', i) +
      WEIGHTS.topic * at('topic', i) +
      WEIGHTS.rerank * at('interaction', i),
    features: Object.fromEntries(names.map((name, column) => [name, values[column][i]])),
  }))
}

const [set = 'train'] = process.argv.slice(2)
const rows = JSON.parse(readFileSync(join(here, 'out', `${set}.json`), 'utf8'))
const out = rows.map((row) => ({ files: row.files, candidates: featuresOf(row) }))
writeFileSync(join(here, 'out', `${set}-features.json`), JSON.stringify(out))
