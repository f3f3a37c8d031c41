#!/usr/bin/env node
// `npm run bench -- counts [--context 1024] [--batch 1,16]`
// What one decoded token costs a GPU by counting: dispatches, submissions, and bytes of weights and of K and V that are read. The models are loaded by
// the engine's own code, without weights, on a GPU that is not there. JSON to bench/results/counts.json.
import { parseArgs } from 'node:util'
import { GREEDY } from '#dist/kernels/sampling.js'
import { absentStep, loadAbsentModel } from './lib/isa/absent-model.mjs'
import { run } from './lib/run.mjs'

const { values: flags } = parseArgs({
  options: { context: { type: 'string', default: '1024' }, batch: { type: 'string', default: '1,16' } },
})
const context = Number(flags.context)
const batches = flags.batch.split(',').map(Number)
const CASES = [
  ...['smollm2-135m', 'llama-3.2-1b', 'llama-3.1-8b'].flatMap((name) =>
    ['f16', 'q8', 'q4'].map((form) => [name, form]),
  ),
  ['gpt-oss-20b', 'mxfp4'],
]

/** A decode step of `batch` sequences that hold `context` tokens each. Experts: as if no two rows shared one, as far as there are others. */
async function count(name, weights, batch) {
  const model = await loadAbsentModel(name, weights, { context: context + 1, sequences: batch })
  const sequences = Array.from({ length: batch }, () => /** @type {const} */ ([context - 1, 1]))
  const samples = sequences.map((_, row) => ({ row, spec: GREEDY }))
  const submissions = await model.run(absentStep(model, sequences), samples)
  const dispatches = submissions.flat()
  const kernels = {}
  for (const { label } of dispatches) {
    const [kernel] = label.split(' ')
    kernels[kernel] = (kernels[kernel] ?? 0) + 1
  }
  const layers = model.spec?.layers ?? []
  const mlp = layers.map((layer) => layer.mlp).find((own) => 'topK' in own)
  const different = mlp === undefined ? batch : Math.min(batch, mlp.numExperts / mlp.topK)
  // A layer with a window reads no more than that of each sequence.
  const windows = layers.map(({ mixer }) => (mixer.kind === 'attention' ? mixer.window : null) ?? context)
  const read = windows.reduce((sum, window) => sum + Math.min(context, window), 0) / windows.length
  const rows = { weightBytes: model.sharedBytes + model.expertBytes * different, kvBytes: model.kvBytes * read * batch }
  return { dispatches: dispatches.length, submissions: submissions.length, kernels, ...rows }
}

await run('counts', async (save) => {
  const rows = []
  for (const [model, weights] of CASES) {
    for (const batch of batches) {
      const { dispatches, submissions, kernels, weightBytes, kvBytes } = await count(model, weights, batch)
      const bytesPerToken = Math.round((weightBytes + kvBytes) / batch)
      rows.push({ model, weights, batch, dispatches, submissions, weightBytes, kvBytes, bytesPerToken, kernels })
    }
  }
  console.table(rows, [
    'model',
    'weights',
    'batch',
    'dispatches',
    'submissions',
    'weightBytes',
    'kvBytes',
    'bytesPerToken',
  ])
  save({ context, rows })
})
