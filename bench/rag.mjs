// Retrieval: quality on the hand-written questions, ingestion, search against usearch and sqlite-vec, reranking, time to first token.
//   npm run bench -- rag [quality] [ingest] [rerank] [ttft] [search] [--quick]     all five when none is named
// Peers are taken from bench/peers when they are installed there (npm install --prefix bench/peers). Results: bench/results/rag.json
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { root, round } from './_rag/common.mjs'
import { ingestion } from './_rag/ingest.mjs'
import { quality } from './_rag/quality.mjs'
import { reranking } from './_rag/rerank.mjs'
import { search } from './_rag/search.mjs'
import { ttft } from './_rag/ttft.mjs'

// Search last: a native peer in the process can break the ONNX runtime of the sections after it.
const SECTIONS = { quality, ingest: ingestion, rerank: reranking, ttft, search }

const args = process.argv.slice(2)
const isQuick = args.includes('--quick')
const wanted = args.filter((arg) => arg !== '--quick')
const unknown = wanted.filter((name) => !Object.hasOwn(SECTIONS, name))
if (unknown.length > 0) {
  console.error(`${unknown.join(', ')}: expected ${Object.keys(SECTIONS).join(', ')} or --quick`)
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
      const results = await run({ isQuick, scratch })
      const seconds = round((performance.now() - started) / 1000, 1)
      // Sections that were not run, or failed, keep what an earlier run found, with its own date and machine.
      const saved = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {}
      mkdirSync(join(root, 'bench', 'results'), { recursive: true })
      writeFileSync(
        path,
        `${JSON.stringify({ ...saved, [name]: { ...circumstances, isQuick, seconds, results } }, null, 2)}\n`,
      )
    } catch (error) {
      console.error(`${name}: failed`, error)
      process.exitCode = 1
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
