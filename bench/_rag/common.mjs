// What the sections of bench/rag.mjs share: models, timing, tables.
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createEmbedder } from '../../dist/rag/embedder.js'
import { createStaticThread } from '../../dist/rag/models.js'
import { BUNDLED_EMBEDDER } from '../../dist/rag/service.js'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** The bundled embedding model in its thread. */
export function openModels() {
  const thread = createStaticThread()
  const folder = join(root, 'models', BUNDLED_EMBEDDER)
  return {
    embedder: createEmbedder({ kind: 'static', name: BUNDLED_EMBEDDER, folder }, thread),
    close: () => thread.close(),
  }
}

/** mulberry32: uniform in [0, 1). */
export function seededRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Mean with its 95 % percentile bootstrap interval over the values. */
export function withInterval(values, resamples = 10_000) {
  const random = seededRandom(1)
  const means = Array.from({ length: resamples }, () => {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)]
    return sum / values.length
  }).sort((a, b) => a - b)
  const at = (share) => means[Math.min(resamples - 1, Math.floor(resamples * share))]
  return [mean(values), at(0.025), at(0.975)].map((value) => round(value, 3))
}

export const percentile = (values, share) => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}
export const round = (value, digits = 2) => (value === null ? null : Number(value.toFixed(digits)))
export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length

/** Milliseconds of each of `count` runs, after `warmup` that do not count. */
export async function time(count, warmup, run) {
  const times = []
  for (let i = -warmup; i < count; i++) {
    const started = performance.now()
    await run(i)
    if (i >= 0) times.push(performance.now() - started)
  }
  return times
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

/** Words with the frequencies of natural text: rank r about as often as 1 / r. */
export const zipfWords = (random, count) =>
  Array.from(
    { length: count },
    () => WORDS[Math.floor(Math.exp(random() * Math.log(WORDS.length))) - 1] ?? WORDS[0],
  ).join(' ')

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
