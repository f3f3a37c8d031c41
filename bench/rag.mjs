// Retrieval: the yardstick (questions over real documentation), ingestion, search against usearch and sqlite-vec, time to first token.
//   npm run bench -- rag [yardstick] [ingest] [ttft] [search] [--quick]     all four when none is named
//   npm run bench -- rag yardstick --half tune          the half that weights are chosen on; the other is looked at for the report only
//   npm run bench -- rag yardstick --embedding-model FOLDER [--reranker-model FOLDER]     another pair of models, kept under its name
// Peers are taken from bench/peers when they are installed there (npm install --prefix bench/peers). Results: bench/results/rag.json
import { execFileSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { basename, join } from 'node:path'
import { root, round } from './_rag/common.mjs'
import { ingestion } from './_rag/ingest.mjs'
import { search } from './_rag/search.mjs'
import { ttft } from './_rag/ttft.mjs'
import { yardstick } from './_rag/yardstick.mjs'

// Search last: a native peer in the process can break the ONNX runtime of the sections after it.
const SECTIONS = { yardstick, ingest: ingestion, ttft, search }

const { values: options, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    half: { type: 'string' },
    'embedding-model': { type: 'string' },
    'reranker-model': { type: 'string' },
  },
})
const isQuick = options.quick
const unknown = wanted.filter((name) => !Object.hasOwn(SECTIONS, name))
if (unknown.length > 0) {
  console.error(`${unknown.join(', ')}: expected ${Object.keys(SECTIONS).join(', ')}`)
  process.exit(2)
}

const git = () => {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
  } catch {
    return null
  }
}

const path = join(root, 'bench', 'results', 'rag.json')
const scratch = mkdtempSync(join(tmpdir(), 'miniserve-bench-rag-'))
try {
  for (const [name, run] of Object.entries(SECTIONS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    const circumstances = {
      date: new Date().toISOString(),
      revision: git(),
      node: process.version,
      cpu: cpus()[0]?.model,
      threads: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      loadAverage: round(loadavg()[0]),
    }
    const started = performance.now()
    try {
      const results = await run({ isQuick, scratch, options })
      // Another half, or another pair of models, stands beside the bundled models' report.
      const kind = [options.half, options['embedding-model'], options['reranker-model']]
        .filter(Boolean)
        .map((text) => basename(text))
      const key = [name, ...kind].join(' ')
      const seconds = round((performance.now() - started) / 1000, 1)
      // Sections that were not run, or failed, keep what an earlier run found, with its own date and machine.
      const saved = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {}
      mkdirSync(join(root, 'bench', 'results'), { recursive: true })
      writeFileSync(
        path,
        `${JSON.stringify({ ...saved, [key]: { ...circumstances, isQuick, seconds, results } }, null, 2)}\n`,
      )
    } catch (error) {
      console.error(`${name}: failed`, error)
      process.exitCode = 1
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
