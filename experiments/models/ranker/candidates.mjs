// What the search finds for the questions, with the scores that order it, for train.mjs to learn from: out/NAME.json.
//   node candidates.mjs train|tune
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isRight, problemsOf, readQuestions } from '../../../bench/lib/rag/questions.mjs'
import { openDocuments, openYardstick, passagesOf } from '../../../bench/lib/rag/yardstick.mjs'
import { StaticModel } from '#dist/rag/static-model.js'
import { trainingDocuments } from './documents.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..', '..')
/** As many by each search as the product asks for. */
const DEPTH = 50

const [set = 'train'] = process.argv.slice(2)
const models = { embeddingModel: null, rerankerModel: null }
const scratch = mkdtempSync(join(tmpdir(), 'miniserve-ranker-'))
try {
  const opened =
    set === 'train'
      ? await openDocuments(trainingDocuments(scratch), scratch, models)
      : await openYardstick(scratch, models)
  const { rag, index } = opened
  const questions =
    set === 'train'
      ? readFileSync(join(here, 'questions.jsonl'), 'utf8')
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line))
      : readQuestions(set)
  for (const problem of problemsOf(questions, await passagesOf(index))) console.log(problem)
  const table = new StaticModel(join(root, 'models', 'mini-embedder'))
  const rows = []
  for (const question of questions) {
    const { vectors } = await rag.embedder.embed([question.question], { role: 'query' })
    const found = await index.search({ vector: vectors, text: question.question, depth: DEPTH })
    const interactions = table.interact(question.question, found)
    rows.push({
      ...question,
      candidates: found.map((candidate, i) => ({
        ...candidate,
        interaction: interactions[i],
        isRightFile: question.files.includes(candidate.documentId),
        isRight: isRight(question, candidate),
      })),
    })
  }
  mkdirSync(join(here, 'out'), { recursive: true })
  writeFileSync(join(here, 'out', `${set}.json`), JSON.stringify(rows))
  console.log(`${set}: ${rows.length} questions, ${opened.chunks} passages`)
  await rag.close()
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
