// Scores BM25, the embedder, the reranker and their fusion, and writes results.json and the table of README.md.
//   node experiments/models/retrieval/evaluate.mjs dev      after npm run build: the development questions, over their passages and over all
//   node experiments/models/retrieval/evaluate.mjs eval     the published set. Choose nothing by it
//   node experiments/models/retrieval/evaluate.mjs          the table from results.json
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FUSION_WEIGHTS } from '../../../dist/rag/fusion.js'
import { evaluate, here, KINDS, openModels, readSplit } from './signals.mjs'

const TITLES = {
  eval: 'Evaluation set',
  dev: 'Dev split',
  'dev with distractors': 'Dev questions over the passages of both splits',
}
const [BEGIN, END] = ['<!-- results -->', '<!-- /results -->']

const resultsPath = join(here, 'results.json')
const saved = existsSync(resultsPath) ? JSON.parse(readFileSync(resultsPath, 'utf8')) : {}

const cell = ([value, low, high]) => `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`

function render() {
  const lines = []
  for (const [split, title] of Object.entries(TITLES)) {
    if (!saved[split]) continue
    const { questions, passages, results, fusedMinusBm25 } = saved[split]
    lines.push(
      '',
      `**${title}**: ${questions} questions over ${passages} passages, value [95 % bootstrap interval]`,
      '',
      '| | lexical recall@5 | lexical MRR | paraphrased recall@5 | paraphrased MRR |',
      '|---|---|---|---|---|',
      ...Object.keys(results.lexical).map((system) => {
        const cells = KINDS.flatMap((kind) => [results[kind][system]['recall@5'], results[kind][system].mrr])
        return `| ${system} | ${cells.map(cell).join(' | ')} |`
      }),
      '',
      `MRR of all fused minus BM25's, paired: lexical ${cell(fusedMinusBm25.lexical)}, paraphrased ${cell(fusedMinusBm25.paraphrased)}.`,
    )
  }
  const path = join(here, 'README.md')
  const readme = readFileSync(path, 'utf8')
  const [before, rest] = [readme.slice(0, readme.indexOf(BEGIN)), readme.slice(readme.indexOf(END))]
  writeFileSync(path, `${before}${BEGIN}\n${lines.join('\n').trimStart()}\n\n${rest}`)
}

const split = process.argv[2]
if (split === 'dev' || split === 'eval') {
  const models = openModels()
  try {
    const own = readSplit(split)
    saved.settings = FUSION_WEIGHTS
    saved[split] = await evaluate(own, models)
    if (split === 'dev') {
      const documents = [...own.documents, ...readSplit('eval').documents]
      saved['dev with distractors'] = await evaluate({ documents, questions: own.questions }, models)
    }
  } finally {
    await models.close()
  }
  writeFileSync(resultsPath, `${JSON.stringify(saved, null, 1)}\n`)
} else if (split !== undefined) {
  throw new Error(`expected dev, eval or nothing, found ${split}`)
}
render()
