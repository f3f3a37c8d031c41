// Retrieval: the yardstick (questions over real documentation), ingestion, search against usearch and sqlite-vec, time to first token.
//   npm run bench -- rag [yardstick] [ablation] [ingest] [large] [ttft] [search] [--quick]     all when none is named
//   npm run bench -- rag yardstick --half tune          the half that weights are chosen on; the other is looked at for the report only
//   npm run bench -- rag yardstick --embedding-model FOLDER [--reranker-model FOLDER]     another pair of models, kept under its name
//                                  [--cache FOLDER]                                       and its vectors of the documents, there
// Peers are taken from bench/peers when they are installed there (npm install --prefix bench/peers). Results: bench/results/rag.json
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ablation } from './lib/rag/ablation.mjs'
import { ingestion } from './lib/rag/ingest.mjs'
import { large } from './lib/rag/large.mjs'
import { search } from './lib/rag/search.mjs'
import { ttft } from './lib/rag/ttft.mjs'
import { yardstick } from './lib/rag/yardstick.mjs'
import { circumstances, readResults, run, writeResults } from './lib/run.mjs'
import { round } from './lib/stats.mjs'

// Search last: a native peer in the process can break the ONNX runtime of the sections after it.
const SECTIONS = { yardstick, ablation, ingest: ingestion, large, ttft, search }

const { values: options, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    half: { type: 'string' },
    'embedding-model': { type: 'string' },
    'reranker-model': { type: 'string' },
    cache: { type: 'string' },
  },
})
const isQuick = options.quick
const unknown = wanted.filter((name) => !Object.hasOwn(SECTIONS, name))
if (unknown.length > 0) {
  console.error(`${unknown.join(', ')}: expected ${Object.keys(SECTIONS).join(', ')}`)
  process.exit(2)
}

/** Another half, or another pair of models, stands beside the bundled models' report. */
const kind = [options.half, options['embedding-model'], options['reranker-model']]
  .filter((text) => text !== undefined)
  .map((text) => basename(text))

await run('rag', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'miniserve-bench-rag-'))
  try {
    for (const [name, section] of Object.entries(SECTIONS)) {
      if (wanted.length > 0 && !wanted.includes(name)) continue
      const head = circumstances()
      const started = performance.now()
      try {
        const results = await section({ isQuick, scratch, options })
        const seconds = round((performance.now() - started) / 1000, 1)
        // Sections that were not run, or failed, keep what an earlier run found, with its own date and machine.
        writeResults('rag', {
          ...readResults('rag'),
          [[name, ...kind].join(' ')]: { ...head, isQuick, seconds, results },
        })
      } catch (error) {
        console.error(`${name}: failed`, error)
        process.exitCode = 1
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})
