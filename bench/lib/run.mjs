// What every bench has in common: the circumstances of a measurement, its file of results, and its end.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { round } from './stats.mjs'

/** The repository. */
export const root = fileURLToPath(new URL('../..', import.meta.url))

function revision() {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
  } catch {
    return null
  }
}

/** When, of what, and on what something is measured. The load average says who else was there. */
export const circumstances = () => ({
  date: new Date().toISOString(),
  revision: revision(),
  node: process.version,
  hardware: {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    loadAverage: loadavg().map((load) => round(load)),
  },
})

const resultFile = (/** @type {string} */ name) => join(root, 'bench', 'results', `${name}.json`)

/**
 * JSON with one line per innermost object, so that a row of a table is a line of the file.
 * @param {any} value
 * @returns {string}
 */
function format(value, indent = '') {
  const isLeaf = value === null || typeof value !== 'object'
  const inner = isLeaf ? [] : Object.values(value)
  if (isLeaf || inner.every((part) => part === null || typeof part !== 'object')) return JSON.stringify(value)
  const deeper = `${indent}  `
  const parts = Object.entries(value)
    .filter(([, part]) => part !== undefined)
    .map(([key, part]) => `${deeper}${Array.isArray(value) ? '' : `${JSON.stringify(key)}: `}${format(part, deeper)}`)
  const [open, close] = Array.isArray(value) ? '[]' : '{}'
  return `${open}\n${parts.join(',\n')}\n${indent}${close}`
}

/**
 * What a bench found the last time, by the name of its file; null where it has not run.
 * @param {string} name
 */
export function readResults(name) {
  const file = resultFile(name)
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : null
}

/**
 * Writes bench/results/NAME.json.
 * @param {string} name
 * @param {object} results
 */
export function writeResults(name, results) {
  const file = resultFile(name)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, `${format(JSON.parse(JSON.stringify(results)))}\n`)
  console.log(`written: bench/results/${name}.json`)
}

/**
 * Runs a bench and ends the process: the threads of Dawn and of ONNX Runtime would keep it. What fails is printed and ends it with 1.
 * @param {string} name of the bench, and of its file of results
 * @param {(save: (results: object, file?: string) => void) => unknown} measure calls `save` with what it found, for another file with its name
 */
export async function run(name, measure) {
  const head = { bench: name, ...circumstances() }
  try {
    await measure((results, file = name) => writeResults(file, { ...head, ...results }))
    process.exit(process.exitCode ?? 0)
  } catch (error) {
    console.error(`bench ${name}:`, error)
    process.exit(1)
  }
}
