#!/usr/bin/env node
// How often does the whole pipeline answer a question right, and say so when the documents do not say? The running server indexes documents
// over HTTP and gets questions written by hand with "rag".
//   npm run build && node experiments/rag-answers/evaluate.mjs [--top-n default,1,2,4] [--show]     writes results.json and the table of README.md
//   … --questions development     the set that prompts are chosen on (development.json), printed only; without, the held-out one
//   … --model FILE [--limit 50]   another language model; its results stand beside those of the bundled one
//   node experiments/rag-answers/evaluate.mjs --render                                              only the table
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
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
const isDevelopment = flag('questions', 'handwritten') === 'development'
const file = isDevelopment
  ? join(here, 'development.json')
  : join(root, 'experiments', 'models', 'lm', 'handwritten.json')
const documents = JSON.parse(readFileSync(file, 'utf8'))
const all = documents.flatMap(({ qa }, i) =>
  qa.map(([question, answer]) => ({ id: `doc-${i}`, question, answer, half: i % 2 })),
)
const limit = Number(flag('limit', String(all.length)))
/** Of all documents alike. */
const questions = all.filter(
  (_, i) => Math.floor((i * limit) / all.length) !== Math.floor(((i - 1) * limit) / all.length),
)
/** A file of a language model; null: the bundled one. */
const model = flag('model', null)

const words = (text) =>
  ` ${text
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()} `
/** What models say when they decline: the bundled one's own sentence, and what others write. */
const REFUSAL =
  /\b(?:do(?:es)? not|don't|doesn't|cannot|can't|not)\b.{0,40}\b(?:say|contain|mention|provide|specif|state|answer|include|find|know|given|available|found)|no (?:information|answer|mention)/i
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

const percent = (share) => `${(share * 100).toFixed(0)} %`

/** The table between the markers of README.md, from results.json. */
function render() {
  const { models } = JSON.parse(readFileSync(resultsPath, 'utf8'))
  const lines = Object.entries(models).flatMap(([name, { date, documents: numDocuments, results }]) => [
    `**${name}**: ${results[0].questions} questions over ${numDocuments} documents, ${date.slice(0, 10)}`,
    '',
    '| `top_n` | documents in the prompt | right document cited | answer holds the span [95 %] | and cites its document | declined where no document says |',
    '|---|---|---|---|---|---|',
    ...results.map(
      ({ topN, retrieved, documentFound, answered, cited, declined, interval: [low, high] }) =>
        `| ${topN ?? 'not given'} | ${retrieved.toFixed(1)} | ${percent(documentFound)} | ${percent(answered)} [${percent(low)}, ${percent(high)}] | ${percent(cited)} | ${percent(declined)} |`,
    ),
    '',
  ])
  const path = join(here, 'README.md')
  const readme = readFileSync(path, 'utf8')
  writeFileSync(
    path,
    readme.replace(
      /(<!-- results -->\n)[\s\S]*?(<!-- \/results -->)/,
      (_, open, close) => `${open}${lines.join('\n')}\n${close}`,
    ),
  )
}

async function evaluate() {
  const server = await startServer(['--data-dir', 'data', ...(model ? ['--model', model] : [])])
  try {
    const post = async (path, body) => {
      const response = await fetch(server.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
      return /** @type {any} */ (await response.json())
    }
    const ingest = (index, isWanted) =>
      post('/v1/rag/documents', {
        index,
        documents: documents.map(({ passage }, i) => ({ id: `doc-${i}`, text: passage })).filter((_, i) => isWanted(i)),
      })
    await ingest('all', () => true)
    // A question about a document of one half is asked of the other: no document says.
    await ingest('half-0', (i) => i % 2 === 0)
    await ingest('half-1', (i) => i % 2 === 1)
    const ask = (question, index, topN) =>
      post('/v1/completions', {
        prompt: question,
        rag: { index, ...(topN === null ? {} : { top_n: topN }) },
        max_tokens: 48,
        temperature: 0,
        // Models without a template of their own go on with questions of theirs.
        ...(model && { stop: ['\n'] }),
      })
    const results = []
    for (const topN of topNs) {
      const judged = []
      for (const { id, question, answer, half } of questions) {
        const { choices, rag } = await ask(question, 'all', topN)
        const text = choices[0].text
        const isFound = rag.documents.some((document) => document.id === id)
        const isRight = holds(text, answer)
        const other = (await ask(question, `half-${1 - half}`, topN)).choices[0].text
        judged.push({ retrieved: rag.documents.length, isFound, isRight, isDeclined: REFUSAL.test(other) })
        if (show) {
          process.stdout.write(
            `${isRight ? 'ok ' : isFound ? '-- ' : 'XX '} ${question} | ${answer} | ${text.trim()} | ${other.trim()}\n`,
          )
        }
      }
      const share = (test) => mean(judged.map((entry) => Number(test(entry))))
      const answered = share(({ isRight }) => isRight)
      results.push({
        topN,
        retrieved: mean(judged.map(({ retrieved }) => retrieved)),
        questions: questions.length,
        documentFound: share(({ isFound }) => isFound),
        answered,
        interval: interval(Math.round(answered * questions.length), questions.length),
        cited: share(({ isRight, isFound }) => isRight && isFound),
        declined: share(({ isDeclined }) => isDeclined),
      })
    }
    console.table(results.map(({ interval: [low, high], ...row }) => ({ ...row, low, high })))
    if (isDevelopment) return
    const { models = {} } = JSON.parse(readFileSync(resultsPath, 'utf8'))
    const name = model ? basename(flag('name', model)) : 'the bundled model'
    const report = { date: new Date().toISOString(), documents: documents.length, results }
    writeFileSync(resultsPath, `${JSON.stringify({ models: { ...models, [name]: report } }, null, 2)}\n`)
  } finally {
    await server.stop()
  }
}

if (!process.argv.includes('--render')) await evaluate()
if (!isDevelopment) render()
