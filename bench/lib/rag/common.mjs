// What the sections of bench/rag.mjs share: models, made-up documents, tables, peers.
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createModelWorkers } from '#dist/rag/model-workers.js'
import { BUNDLED_EMBEDDER } from '#dist/rag/create-rag.js'
import { root } from '../run.mjs'
import { seededRandom } from '../stats.mjs'

/** The bundled embedding model in its thread. */
export function openModels() {
  const workers = createModelWorkers()
  const folder = join(root, 'models', BUNDLED_EMBEDDER)
  return {
    embedder: workers.embedder({ kind: 'static', name: BUNDLED_EMBEDDER, folder }),
    close: () => workers.close(),
  }
}

export function table(title, rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  const cells = [columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? '')))]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i].length)))
  const line = (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  console.log(`\n${title}\n\n${line(cells[0])}\n| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`)
  for (const row of cells.slice(1)) console.log(line(row))
}

const WORDS = Array.from({ length: 20_000 }, (_, i) => `w${i.toString(36)}`)

const zipf =
  (/** @type {readonly string[]} */ words) => (/** @type {() => number} */ random, /** @type {number} */ count) =>
    Array.from(
      { length: count },
      () => words[Math.floor(Math.exp(random() * Math.log(words.length))) - 1] ?? words[0],
    ).join(' ')

/** Words that the bundled model's tokenizer has whole, in its order, which is that of their frequency; with the frequencies of natural text. */
export function englishWords() {
  const file = join(root, 'models', BUNDLED_EMBEDDER, 'tokenizer.json')
  const { model } = JSON.parse(readFileSync(file, 'utf8'))
  return zipf(Object.keys(model.vocab).filter((word) => /^[a-z]{2,}$/.test(word)))
}

/** Words with the frequencies of natural text: rank r about as often as 1 / r. */
export const zipfWords = zipf(WORDS)

/** Markdown documents of six sections each. */
export function syntheticDocuments(count) {
  const random = seededRandom(7)
  const sentence = () => `${zipfWords(random, 14)}.`
  return Array.from({ length: count }, (_, i) => ({
    id: `d${i}.md`,
    text: Array.from(
      { length: 6 },
      (__, s) => `## Section ${s}\n\n${Array.from({ length: 6 }, sentence).join(' ')}`,
    ).join('\n\n'),
  }))
}

const peers = createRequire(join(root, 'bench', 'peers', 'package.json'))

/** A peer's module, null where it is not installed. */
export function peer(name) {
  try {
    return peers(name)
  } catch (error) {
    const reason = error.code === 'MODULE_NOT_FOUND' ? 'npm install --prefix bench/peers' : error.message
    console.error(`${name}: not measured (${reason.split('\n')[0]})`)
    return null
  }
}

export const versionOf = (name) => {
  const path = join(root, 'bench', 'peers', 'node_modules', name, 'package.json')
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).version : null
}
