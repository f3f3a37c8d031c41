#!/usr/bin/env node
// How often does the whole pipeline answer a question right? The running server indexes held-out documents over HTTP, gets 100 questions
// written by hand (experiments/models/lm/handwritten.json, committed before any training) with "rag", and is right when the answer holds the span.
//   npm run build && node experiments/rag-answers/evaluate.mjs [--top-n 1,2,4] [--show]
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const flag = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? fallback : process.argv[at + 1]
}
const topNs = flag('top-n', '1,2,4').split(',').map(Number)
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

const folder = mkdtempSync(join(tmpdir(), 'miniserve-answers-'))
const server = spawn(process.execPath, [join(root, 'dist', 'main.js'), '--port', '0', '--data-dir', folder], {
  cwd: folder,
  stdio: ['ignore', 'ignore', 'pipe'],
})
try {
  const url = await new Promise((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      const ready = /ready on (\S+)/.exec(text)
      if (ready) resolve(ready[1])
    })
    server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
  })
  const post = async (path, body) => {
    const response = await fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return response.json()
  }
  await post('/v1/rag/documents', {
    index: 'handwritten',
    documents: documents.map(({ passage }, i) => ({ id: `doc-${i}`, text: passage })),
  })
  const results = []
  for (const topN of topNs) {
    let found = 0
    let right = 0
    for (const { id, question, answer } of questions) {
      const body = await post('/v1/completions', {
        prompt: question,
        rag: { index: 'handwritten', top_n: topN },
        max_tokens: 48,
        temperature: 0,
      })
      const text = body.choices[0].text
      const isFound = body.rag.documents.some((document) => document.id === id)
      const isRight = holds(text, answer)
      if (isFound) found++
      if (isRight) right++
      if (show)
        process.stdout.write(`${isRight ? 'ok ' : isFound ? '-- ' : 'XX '} ${question} | ${answer} | ${text.trim()}\n`)
    }
    results.push({
      topN,
      questions: questions.length,
      documentFound: found / questions.length,
      answered: right / questions.length,
      interval: interval(right, questions.length),
    })
  }
  const report = { date: new Date().toISOString(), documents: documents.length, results }
  writeFileSync(join(here, 'results.json'), `${JSON.stringify(report, null, 2)}\n`)
  console.table(results.map(({ interval: [low, high], ...row }) => ({ ...row, low, high })))
} finally {
  server.kill('SIGTERM')
  await new Promise((resolve) => (server.exitCode === null ? server.once('exit', resolve) : resolve()))
  rmSync(folder, { recursive: true, force: true })
}
