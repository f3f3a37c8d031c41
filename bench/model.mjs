// npm run bench -- model --device cpu|webgpu|reference [--shape NAME] [--quantization none|q8|q4] [--batch 1,4,16] [--peers] ...
// Random weights of a real model's shape, as GGUF, through the runner in its worker thread: prefill and decode tokens per second at several batch
// sizes; with --peers the same file through node-llama-cpp, turn by turn in the same run. JSON to bench/results.
import { fork } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, existsSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, release, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { SHAPES, writeGguf } from './_gguf.mjs'
import { createWorkerRunner } from '../dist/engine/runner/worker-runner.js'
import { measureReadBandwidth } from '../dist/kernels/cpu/bandwidth.js'

const here = dirname(fileURLToPath(import.meta.url))
const TYPES = { none: 'F16', q8: 'Q8_0', q4: 'Q4_0' }

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu' },
    shape: { type: 'string', default: 'smollm2-135m' },
    quantization: { type: 'string', default: 'none' },
    batch: { type: 'string', default: '1,4,16' },
    prompt: { type: 'string', default: '512' },
    tokens: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string' },
    peers: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
})
const fail = (message) => {
  process.stderr.write(`bench model: ${message}\n`)
  process.exit(2)
}
const shapes = { ...SHAPES, bundled: bundledShape() }
const shape = shapes[flags.shape] ?? fail(`--shape ${flags.shape} is none of ${Object.keys(shapes).join(', ')}`)
const type =
  TYPES[flags.quantization] ?? fail(`--quantization ${flags.quantization} is none of ${Object.keys(TYPES).join(', ')}`)
const batches = flags.batch.split(',').map(Number)
const prompt = Number(flags.prompt)
const tokens = Number(flags.tokens)
const rounds = Number(flags.rounds)
const threads = flags.threads === undefined ? null : Number(flags.threads)
const mostSequences = Math.max(...batches)
const blockSize = 16
const blocksPerSequence = Math.ceil((prompt + tokens + 2) / blockSize)

/** The dimensions of the model in models/ that the server serves by default. */
function bundledShape() {
  const config = JSON.parse(readFileSync(join(here, '..', 'models', 'mini-1m', 'config.json'), 'utf8'))
  return {
    hidden: config.hidden_size,
    inner: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    vocab: config.vocab_size,
    rope: config.rope_theta,
  }
}

const GREEDY = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0,
  choice: 0,
  repetition: null,
  adjustments: null,
  mask: null,
  logprobs: -1,
}

/** Ours: a worker runner over the file, measured like the peer. */
async function loadOurs(file) {
  const runner = createWorkerRunner()
  const started = performance.now()
  const info = await runner.load({
    path: file,
    device: flags.device,
    quantization: 'none',
    kernelSet: 'invariant',
    retune: false,
    maxModelLen: blocksPerSequence * blockSize,
    maxNumSeqs: mostSequences,
    maxNumBatchedTokens: 512,
    blockSize,
    numKvBlocks: blocksPerSequence * mostSequences,
    threads,
    traceKernels: false,
    cacheDir: null,
  })
  const loadMs = performance.now() - started
  let stepId = 0
  const blockTable = (sequence) =>
    Int32Array.from({ length: blocksPerSequence }, (_, i) => sequence * blocksPerSequence + i)
  const plan = (sequences) => ({ stepId: stepId++, blockCopies: [], sequences })

  async function measure(batch) {
    let started = performance.now()
    for (let sequence = 0; sequence < batch; sequence++) {
      for (let at = 0; at < prompt; at += 512) {
        const ids = Int32Array.from(
          { length: Math.min(512, prompt - at) },
          (_, i) => 300 + (((at + i) * 7 + sequence * 13) % 1000),
        )
        const sample = at + ids.length === prompt ? [GREEDY] : []
        const one = { tokenSource: { ids }, startPosition: at, blockTable: blockTable(sequence), sample, score: null }
        await runner.execute(plan([one]))
      }
    }
    const prefillMs = performance.now() - started
    const step = (i) =>
      runner.execute(
        plan(
          Array.from({ length: batch }, (_, sequence) => ({
            tokenSource: i === 0 ? { ids: Int32Array.of(300) } : { fromPreviousStep: sequence },
            startPosition: prompt + i,
            blockTable: blockTable(sequence),
            sample: [GREEDY],
            score: null,
          })),
        ),
      )
    // Two steps in flight, as the engine runs them.
    started = performance.now()
    let previous = step(0)
    for (let i = 1; i < tokens; i++) {
      const next = step(i)
      await previous
      previous = next
    }
    await previous
    const decodeMs = performance.now() - started
    return { prefill: (batch * prompt * 1000) / prefillMs, decode: (batch * tokens * 1000) / decodeMs }
  }
  return { info, loadMs, measure, close: () => runner.close() }
}

/** node-llama-cpp over the same file, in its own process. */
async function loadPeer(file, gpu) {
  const child = fork(join(here, 'peers', 'llama.mjs'), { stdio: ['ignore', 2, 2, 'ipc'] })
  const ask = (message) =>
    new Promise((resolve, reject) => {
      const onExit = (code) => reject(new Error(`the peer exited with code ${code}`))
      child.once('exit', onExit)
      child.once('message', ({ value, error }) => {
        child.off('exit', onExit)
        if (error === undefined) resolve(value)
        else reject(new Error(error))
      })
      child.send(message)
    })
  try {
    const info = await ask({
      file,
      gpu,
      threads: threads ?? Math.min(8, availableParallelism()),
      prompt,
      tokens,
      batches,
    })
    return { info, measure: (batch) => ask({ batch }), close: () => child.kill() }
  } catch (error) {
    child.kill()
    throw error
  }
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]
const rate = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1))

const folder = mkdtempSync(join(tmpdir(), 'miniserve-bench-'))
const runners = []
try {
  const file = join(folder, `${flags.shape}-${type}.gguf`)
  const weightBytes = writeGguf(file, shape, type)
  const bandwidth = await measureReadBandwidth(threads)
  const ours = await loadOurs(file)
  runners.push({ name: `miniserve ${flags.device}`, ...ours })
  const skipped = []
  if (flags.peers) {
    if (!existsSync(join(here, 'peers', 'node_modules'))) fail('--peers needs npm install in bench/peers')
    for (const gpu of flags.device === 'webgpu' ? [false, 'vulkan'] : [false]) {
      const name = `node-llama-cpp ${gpu === false ? 'cpu' : gpu}`
      try {
        runners.push({ name, ...(await loadPeer(file, gpu)) })
      } catch (error) {
        skipped.push(`${name}: ${error.message.split('\n')[0]}`)
      }
    }
  }
  const { device } = ours.info
  process.stdout.write(
    `${flags.shape} ${type}, ${(weightBytes / 1e6).toFixed(0)} MB of weights, prompt ${prompt}, ${tokens} tokens, median of ${rounds} rounds\n` +
      `${device.adapter} (${device.driver}); loaded in ${(ours.loadMs / 1000).toFixed(1)} s; streaming read ${bandwidth.gigabytesPerSecond.toFixed(1)} GB/s on ${bandwidth.threads} threads\n`,
  )
  for (const reason of skipped) process.stdout.write(`skipped: ${reason}\n`)

  const samples = runners.map(() => batches.map(() => ({ prefill: [], decode: [] })))
  for (const runner of runners) await runner.measure(batches[0]) // warm-up
  for (let round = 0; round < rounds; round++) {
    for (const [b, batch] of batches.entries()) {
      for (const [r, runner] of runners.entries()) {
        const { prefill, decode } = await runner.measure(batch)
        samples[r][b].prefill.push(prefill)
        samples[r][b].decode.push(decode)
      }
    }
  }

  const rows = batches.map((batch, b) => ({
    batch,
    results: runners.map(({ name }, r) => ({
      name,
      prefillTokensPerSecond: median(samples[r][b].prefill),
      decodeTokensPerSecond: median(samples[r][b].decode),
      samples: samples[r][b],
    })),
  }))
  process.stdout.write('\nbatch  phase    ' + runners.map(({ name }) => name.padStart(22)).join('') + '\n')
  for (const { batch, results } of rows) {
    for (const phase of ['prefill', 'decode']) {
      const own = results[0][`${phase}TokensPerSecond`]
      const cells = results.map((result, r) => {
        const value = result[`${phase}TokensPerSecond`]
        return (r === 0 ? rate(value) : `${rate(value)} (ours ${(own / value).toFixed(2)}x)`).padStart(22)
      })
      const read =
        phase === 'decode' && batch === 1 ? `   ${((own * weightBytes) / 1e9).toFixed(1)} GB/s of weights` : ''
      process.stdout.write(`${String(batch).padStart(5)}  ${phase.padEnd(9)}${cells.join('')}${read}\n`)
    }
  }
  const decodeOf = (batch) => rows.find((row) => row.batch === batch)?.results[0].decodeTokensPerSecond
  if (decodeOf(1) !== undefined && decodeOf(16) !== undefined)
    process.stdout.write(`batch 16 decodes ${(decodeOf(16) / decodeOf(1)).toFixed(1)}x batch 1\n`)

  const report = {
    bench: 'model',
    date: new Date().toISOString(),
    shape: { name: flags.shape, ...shape },
    type,
    weightBytes,
    prompt,
    tokens,
    rounds,
    device,
    hardware: { cpu: cpus()[0]?.model, cores: availableParallelism(), memoryBytes: totalmem(), kernel: release() },
    node: process.version,
    readBandwidth: bandwidth,
    peers: runners.slice(1).map(({ name, info }) => ({ name, ...info })),
    skipped,
    rows,
  }
  const out = flags.out ?? join(here, 'results', `model-${flags.device}-${flags.shape}-${flags.quantization}.json`)
  mkdirSync(dirname(out), { recursive: true })
  writeFileSync(out, `${JSON.stringify(report, null, 2)}\n`)
} finally {
  for (const runner of runners) await runner.close()
  rmSync(folder, { recursive: true, force: true })
}
