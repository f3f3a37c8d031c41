#!/usr/bin/env node
// How often does the whole pipeline answer a question right? The running server indexes held-out documents over HTTP, gets 100 questions
// written by hand (experiments/models/lm/handwritten.json, committed before any training) with "rag", and is right when the answer holds the span.
//   npm run build && node experiments/rag-answers/evaluate.mjs [--top-n default,1,2,4] [--show]     writes results.json and the table of README.md
//   node experiments/rag-answers/evaluate.mjs --render                                              only the table
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startServer } from '../../bench/lib/server.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const flag = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? fallback : process.argv[at + 1]
}
/** null: what the request gets that names no top_n. */
const topNs = flag('top-n', 'default,1,2,4')
  .split(',')
  .map((value) => (value === 'default' ? null : Number(value)))
const show = process.argv.includes('--show')
const documents = JSON.parse(readFileSync(join(root, 'experiments', 'models', 'lm', 'handwritten.json'), 'utf8'))
const questions = documents.flatMap(({ qa }, i) =>
  qa.map(([question, answer]) => ({ id: `doc-${i}`, question, answer })),
)

const words = (text) =>
  ` ${text
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()} `
const holds = (text, span) => words(text).includes(words(span))

/** Wilson's 95 % interval of a share. */
function interval(hits, total) {
  const z = 1.96
  const p = hits / total
  const centre = (p + (z * z) / (2 * total)) / (1 + (z * z) / total)
  const half = (z * Math.sqrt((p * (1 - p)) / total + (z * z) / (4 * total * total))) / (1 + (z * z) / total)
  return [centre - half, centre + half].map((value) => Number(value.toFixed(3)))
}

const resultsPath = join(here, 'results.json')
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length

/** The table between the markers of README.md, from results.json. */
function render() {
  const { date, documents: numDocuments, results } = JSON.parse(readFileSync(resultsPath, 'utf8'))
  const percent = (share) => `${(share * 100).toFixed(0)} %`
  const lines = [
    `${results[0].questions} questions over ${numDocuments} documents, ${date.slice(0, 10)}`,
    '',
    '| `top_n` | documents in the prompt | right document among them | answer holds the span [95 %] |',
    '|---|---|---|---|',
    ...results.map(
      ({ topN, retrieved, documentFound, answered, interval: [low, high] }) =>
        `| ${topN ?? 'not given'} | ${retrieved.toFixed(1)} | ${percent(documentFound)} | ${percent(answered)} [${percent(low)}, ${percent(high)}] |`,
    ),
  ]
  const path = join(here, 'README.md')
  const readme = readFileSync(path, 'utf8')
  writeFileSync(
    path,
    readme.replace(
      /(<!-- results -->\n)[\s\S]*?(<!-- \/results -->)/,
      (_, open, close) => `${open}${lines.join('\n')}\n\n${close}`,
    ),
  )
}

async function evaluate() {
  const server = await startServer(['--data-dir', 'data'])
  const { url } = server
  try {
    const post = async (path, body) => {
      const response = await fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
      return /** @type {any} */ (await response.json())
    }
    await post('/v1/rag/documents', {
      index: 'handwritten',
      documents: documents.map(({ passage }, i) => ({ id: `doc-${i}`, text: passage })),
    })
    const results = []
    for (const topN of topNs) {
      let found = 0
      const retrieved = []
      let right = 0
      for (const { id, question, answer } of questions) {
        const body = await post('/v1/completions', {
          prompt: question,
          rag: { index: 'handwritten', ...(topN === null ? {} : { top_n: topN }) },
          max_tokens: 48,
          temperature: 0,
        })
        const text = body.choices[0].text
        retrieved.push(body.rag.documents.length)
        const isFound = body.rag.documents.some((document) => document.id === id)
        const isRight = holds(text, answer)
        if (isFound) found++
        if (isRight) right++
        if (show)
          process.stdout.write(
            `${isRight ? 'ok ' : isFound ? '-- ' : 'XX '} ${question} | ${answer} | ${text.trim()}\n`,
          )
      }
      results.push({
        topN,
        retrieved: mean(retrieved),
        questions: questions.length,
        documentFound: found / questions.length,
        answered: right / questions.length,
        interval: interval(right, questions.length),
      })
    }
    const report = { date: new Date().toISOString(), documents: documents.length, results }
    writeFileSync(resultsPath, `${JSON.stringify(report, null, 2)}\n`)
    console.table(results.map(({ interval: [low, high], ...row }) => ({ ...row, low, high })))
  } finally {
    await server.stop()
  }
}

if (!process.argv.includes('--render')) await evaluate()
render()
