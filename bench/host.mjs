#!/usr/bin/env node
// `npm run bench -- host [--layers 16] [--steps 400] [--type Q4_0] [--batch 1,16]`
// What a decode step costs the host on the WebGPU backend: processor time of the thread from a plan to the last submit. The model is as deep as
// asked and narrow, so that the adapter's own time does not get in the way. The host's time depends on the number of dispatches, which is that of
// any model of so many layers. Beside it: what the bare calls of Dawn's Node binding take for as many dispatches (lib/bare-dispatches.mjs), which no
// change of the engine can save. JSON to bench/results/host.json.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createLocalRunner } from '#dist/engine/runner/local.js'
import { GREEDY } from '#dist/kernels/sampling.js'
import { bareDispatches } from './lib/bare-dispatches.mjs'
import { writeGguf } from './lib/gguf.mjs'
import { run } from './lib/run.mjs'
import { median, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    layers: { type: 'string', default: '16' },
    steps: { type: 'string', default: '400' },
    type: { type: 'string', default: 'Q4_0' },
    batch: { type: 'string', default: '1,16' },
  },
})
const BLOCK_SIZE = 16
const START = 100
/** Steps submitted one after another. The backend keeps as many readback buffers; with more steps in flight than the engine's two, it would create some. */
const RUN = 4
const layers = Number(flags.layers)
const steps = Number(flags.steps)
const batches = flags.batch.split(',').map(Number)
const shape = { hidden: 64, inner: 128, layers, heads: 2, kvHeads: 1, headDim: 32, vocab: 512, rope: 10000 }

const pause = new Int32Array(new SharedArrayBuffer(4))

/**
 * Milliseconds that this thread has had a processor: what other processes take does not count. Linux only. Linux brings the number up to date when the
 * thread gives its processor away, otherwise only every 4 ms: hence the pause.
 */
function threadMs() {
  Atomics.wait(pause, 0, 0, 0.05)
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

/** Steps of `batch` sequences, each token the one just sampled, RUN of them submitted one after another; the first half warms the compilers up. */
async function measure(runner, batch, blocksPerSequence) {
  const tables = Array.from({ length: batch }, (_, s) =>
    Int32Array.from({ length: blocksPerSequence }, (_, i) => s * blocksPerSequence + i),
  )
  const runs = []
  let dispatches = 0
  for (let first = 0; first < 2 * steps; first += RUN) {
    const plans = Array.from({ length: RUN }, (_, k) => ({
      stepId: first + k,
      blockCopies: [],
      sequences: tables.map((blockTable, sequence) => ({
        tokenSource: first + k === 0 ? { ids: Int32Array.of(3) } : { fromPreviousStep: sequence },
        startPosition: START + first + k,
        blockTable,
        sample: [GREEDY],
        score: null,
      })),
    }))
    const started = threadMs()
    // Everything up to the submit happens before a promise is returned.
    const pending = plans.map((plan) => runner.execute(plan))
    if (first >= steps) runs.push((threadMs() - started) / RUN)
    for (const { kernels } of await Promise.all(pending)) {
      if (kernels !== null) dispatches = kernels.reduce((sum, { count }) => sum + count, 0)
    }
  }
  return { runs, dispatches }
}

/** Milliseconds per step of the bare calls, over as many runs as `measure` makes. */
const measureBare = (dispatches) =>
  bareDispatches(dispatches, async (run, settle) => {
    const runs = []
    for (let first = 0; first < 2 * steps; first += RUN) {
      const started = threadMs()
      for (let k = 0; k < RUN; k++) run()
      if (first >= steps) runs.push((threadMs() - started) / RUN)
      await settle()
    }
    return runs
  })

await run('host', async (save) => {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-host-'))
  const rows = []
  /** @type {any} */
  let device = null
  try {
    const path = join(folder, 'model.gguf')
    writeGguf(path, shape, flags.type)
    const blocksPerSequence = Math.ceil((START + 2 * steps + 1) / BLOCK_SIZE)
    for (const batch of batches) {
      const row = { batch }
      for (const traceKernels of [true, false]) {
        const runner = createLocalRunner()
        const info = await runner.load({
          path,
          device: 'webgpu',
          quantization: 'none',
          maxModelLen: blocksPerSequence * BLOCK_SIZE,
          maxNumSeqs: Math.max(...batches),
          maxNumBatchedTokens: 512,
          blockSize: BLOCK_SIZE,
          numKvBlocks: blocksPerSequence * Math.max(...batches),
          threads: null,
          traceKernels,
          cacheDir: null,
        })
        device = info.device
        const { runs, dispatches } = await measure(runner, batch, blocksPerSequence)
        await runner.close()
        if (traceKernels) row.dispatches = dispatches
        else {
          row.hostMs = round(median(runs), 3)
          row.hostMsLeast = round(Math.min(...runs), 3)
          row.microsPerDispatch = round((1000 * row.hostMs) / row.dispatches)
          const bare = await measureBare(row.dispatches)
          row.bareMs = round(median(bare), 3)
          row.bareMsLeast = round(Math.min(...bare), 3)
        }
      }
      rows.push(row)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  console.log(`${layers} layers, ${flags.type}, ${device.adapter}`)
  console.table(rows)
  save({ adapter: device.adapter, layers, type: flags.type, steps, rows })
})
