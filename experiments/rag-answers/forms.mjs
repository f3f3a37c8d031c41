#!/usr/bin/env node
// Which form of the prompt does the bundled model answer best from? Forms made by hand over the right passage of each development question, and
// over a passage that does not say: forms.json.    npm run build && node experiments/rag-answers/forms.mjs
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { analyze } from '#dist/rag/analyzer.js'
import { StaticModel } from '#dist/rag/static-model.js'
import { startServer } from '../../bench/lib/server.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const documents = JSON.parse(readFileSync(join(here, 'development.json'), 'utf8'))
const table = new StaticModel(join(here, '..', '..', 'models', 'mini-embedder'))
const words = (text) =>
  ` ${text
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()} `
const sentencesOf = (passage) => passage.match(/[^.!?]+[.!?]+["”]?\s*/g).map((sentence) => sentence.trim())

/** By the embeddings' cosine and the share of the question's words, as src/rag/closest-sentences.ts has it. */
function closeness(question, sentences) {
  const { vectors } = table.embed([question, ...sentences])
  const size = table.dimensions
  const asked = new Set(analyze(question))
  return sentences.map((sentence, i) => {
    let cosine = 0
    for (let j = 0; j < size; j++) cosine += vectors[j] * vectors[(i + 1) * size + j]
    const own = new Set(analyze(sentence))
    return Math.max(0, cosine) + [...asked].filter((term) => own.has(term)).length / Math.max(1, asked.size)
  })
}

/** The passage's sentences, closest first. */
function ranked(passage, question) {
  const sentences = sentencesOf(passage)
  const scores = closeness(question, sentences)
  return sentences.map((text, i) => ({ text, i, score: scores[i] })).sort((a, b) => b.score - a.score)
}
const closest = (passage, question, count) =>
  ranked(passage, question)
    .slice(0, count)
    .sort((a, b) => a.i - b.i)
    .map(({ text }) => text)
    .join(' ')

const prompt = (parts, question, cue = '<|quote|>') =>
  `<|im_start|>Answer from the documents.\n${parts.map((text) => `<|document|> ${text}`).join('')}<|question|>${question}${cue}`
const FORMS = {
  'the passage': (passage, question) => prompt([passage], question),
  'the passage twice': (passage, question) => prompt([passage, passage], question),
  'the question twice': (passage, question) => prompt([passage], `${question}<|question|>${question}`),
  'each sentence a document': (passage, question) => prompt(sentencesOf(passage), question),
  'each sentence on a line': (passage, question) => prompt([sentencesOf(passage).join('\n')], question),
  'sentences ordered, closest last': (passage, question) =>
    prompt(
      [
        ranked(passage, question)
          .reverse()
          .map(({ text }) => text)
          .join(' '),
      ],
      question,
    ),
  'only the closest sentence': (passage, question) => prompt([closest(passage, question, 1)], question),
  'only the two closest': (passage, question) => prompt([closest(passage, question, 2)], question),
  'the closest again, as a document': (passage, question) => prompt([passage, closest(passage, question, 1)], question),
  'the closest again, at the end': (passage, question) =>
    prompt([`${passage} ${closest(passage, question, 1)}`], question),
  'the two closest again, at the end': (passage, question) =>
    prompt([`${passage} ${closest(passage, question, 2)}`], question),
  'the passage, short answer': (passage, question) => prompt([passage], question, '<|answer|>'),
}

const server = await startServer(['--data-dir', 'data'])
const complete = async (text) => {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: text, max_tokens: 48, temperature: 0 }),
  })
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`)
  return /** @type {any} */ (await response.json()).choices[0].text
}
try {
  const forms = {}
  for (const [name, form] of Object.entries(FORMS)) {
    let [answered, declined, total] = [0, 0, 0]
    for (const [i, { passage, qa }] of documents.entries()) {
      const other = documents[(i + 7) % documents.length].passage
      for (const [question, span] of qa) {
        total++
        if (words(await complete(form(passage, question))).includes(words(span))) answered++
        if ((await complete(form(other, question))).includes('do not say')) declined++
      }
    }
    forms[name] = { answered: answered / total, declined: declined / total }
  }
  console.table(forms)
  const report = { date: new Date().toISOString(), questions: documents.flatMap(({ qa }) => qa).length, forms }
  writeFileSync(join(here, 'forms.json'), `${JSON.stringify(report, null, 2)}\n`)
} finally {
  await server.stop()
}
