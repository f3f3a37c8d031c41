#!/usr/bin/env node
// `npm run bench -- embed --model PATH [--onnx FOLDER] [--expected FILE] [--device cpu] [--threads 1] [--rounds 5]`
// Texts per second of an embedding model on the engine's kernels, by their length, and of an encoder in ONNX of the same shape on ONNX Runtime with as
// many threads. With --expected, JSON {"texts", "vectors"} such as sentence-transformers' encode gives, also the largest difference of a component.
// JSON to bench/results/embed.json.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { TextEmbedder } from '#dist/engine/runner/encoder/text-model.js'
import { run } from './lib/run.mjs'
import { round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    onnx: { type: 'string' },
    expected: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '5' },
  },
})
const threads = Number(flags.threads)
const rounds = Number(flags.rounds)
const BATCH = 16
const LENGTHS = [16, 80, 250]
/** Every word is a token of its own in all vocabularies of English. */
const WORD = 'time '

/** The least milliseconds of several runs, and the least processor time of all threads: what other processes take does not count there. */
async function best(/** @type {() => Promise<unknown>} */ work) {
  const least = { ms: Infinity, cpuMs: Infinity }
  for (let i = 0; i < rounds + 1; i++) {
    const started = performance.now()
    const before = process.cpuUsage()
    await work()
    const { user, system } = process.cpuUsage(before)
    if (i === 0) continue
    least.ms = Math.min(least.ms, performance.now() - started)
    least.cpuMs = Math.min(least.cpuMs, (user + system) / 1000)
  }
  return least
}

/** A row of the results. */
const rate = (
  /** @type {string} */ runtime,
  /** @type {number} */ tokens,
  /** @type {{ ms: number, cpuMs: number }} */ least,
) => ({
  runtime,
  tokens,
  textsPerSecond: round((BATCH / least.ms) * 1000),
  textsPerCpuSecond: round((BATCH / least.cpuMs) * 1000),
})

async function engine(/** @type {string} */ path) {
  const device = /** @type {'cpu' | 'webgpu' | 'reference'} */ (flags.device)
  const started = performance.now()
  const embedder = await TextEmbedder.load({ path, device, threads })
  const loadMs = round(performance.now() - started)
  const speeds = []
  for (const length of LENGTHS) {
    const text = WORD.repeat(length - 2)
    let tokens = 0
    const least = await best(async () => {
      const { numTokens } = await embedder.embed(Array(BATCH).fill(text), 'document')
      tokens = numTokens[0] ?? 0
    })
    speeds.push(rate('engine', tokens, least))
  }
  /** @type {number | null} */
  let largestDifference = null
  if (flags.expected !== undefined) {
    const { texts, vectors } = JSON.parse(readFileSync(flags.expected, 'utf8'))
    const found = await embedder.embed(texts, 'plain')
    largestDifference = vectors
      .flat()
      .reduce(
        (/** @type {number} */ most, /** @type {number} */ value, /** @type {number} */ i) =>
          Math.max(most, Math.abs(value - (found.vectors[i] ?? NaN))),
        0,
      )
  }
  const { adapter } = embedder.device
  await embedder.close()
  return { loadMs, adapter, speeds, largestDifference }
}

async function onnx(/** @type {string} */ folder) {
  const require = createRequire(import.meta.resolve('@xenova/transformers'))
  const runtime = require('onnxruntime-node')
  const { version } = require('onnxruntime-node/package.json')
  const options = { intraOpNumThreads: threads, interOpNumThreads: 1 }
  const session = await runtime.InferenceSession.create(join(folder, 'onnx', 'model.onnx'), options)
  const speeds = []
  for (const tokens of LENGTHS) {
    const tensor = (/** @type {bigint} */ value) =>
      new runtime.Tensor('int64', new BigInt64Array(BATCH * tokens).fill(value), [BATCH, tokens])
    const feeds = { input_ids: tensor(500n), attention_mask: tensor(1n), token_type_ids: tensor(0n) }
    const least = await best(() => session.run(feeds))
    speeds.push(rate(`onnxruntime ${version}`, tokens, least))
  }
  return speeds
}

await run('embed', async (save) => {
  if (flags.model === undefined) throw new Error('--model: expected the path of an embedding model')
  const ours = await engine(flags.model)
  const speeds = [...ours.speeds, ...(flags.onnx === undefined ? [] : await onnx(flags.onnx))]
  console.table(speeds)
  const { adapter, loadMs, largestDifference } = ours
  console.log({ adapter, loadMs, largestDifference })
  save({ model: basename(flags.model), device: flags.device, adapter, threads, loadMs, largestDifference, speeds })
})
