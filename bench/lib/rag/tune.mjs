// Chooses the weight of the words in src/rag/fusion.ts, on the tuning half of the yardstick: node bench/lib/rag/tune.mjs [--embedding-model FOLDER]
// Needs npm run build. Only the ratio of the two weights matters, so that of the vectors is 1.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { table } from './common.mjs'
import { measureWeights, openYardstick } from './yardstick.mjs'

const TEXT = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2]

const { values } = parseArgs({ options: { 'embedding-model': { type: 'string' } } })
const scratch = mkdtempSync(join(tmpdir(), 'miniserve-tune-'))
try {
  const opened = await openYardstick(scratch, { embeddingModel: values['embedding-model'] ?? null })
  try {
    const rows = []
    for (const text of TEXT) rows.push({ text, ...(await measureWeights('tune', opened, { vector: 1, text })) })
    table(`Weight of the words beside vectors of ${opened.rag.embedder.name}, tuning half`, rows)
  } finally {
    await opened.rag.close()
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
