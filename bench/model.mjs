// npm run bench -- model [--device cpu|webgpu|reference] [--shape NAME] [--quantization none,q8,q4,q4_k_m] [--batch 1,4,16] [--llama PATH] [--peers] ...
// Random weights of a real model's shape, as GGUF, through the runner in its worker thread: prefill and decode tokens per second at several batch
// sizes, for each quantization in turn; or `--file FILE.gguf --name NAME` instead. In the same run, turn by turn, on the same file: with --llama
// llama.cpp's llama-bench (its path, or that of a script that takes its arguments), with --peers node-llama-cpp, and a short run of the reference
// backend. Without llama-bench decode one step at a time beside two in flight; on webgpu where a step's time goes, by kernel. Models are written to TMPDIR. JSON to
// bench/results, a file per device and quantization.
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { SHAPES, writeGguf } from './lib/gguf.mjs'
import { loadLlamaBench } from './lib/llama-bench.mjs'
import { loadOurs, loadPeer, profileOurs } from './lib/model-runners.mjs'
import { measureReadBandwidth } from './lib/bandwidth/measure.mjs'
import { root, run } from './lib/run.mjs'
import { median } from './lib/stats.mjs'

const TYPES = { none: 'F16', q8: 'Q8_0', q4: 'Q4_0', q4_k_m: 'Q4_K_M' }
/** The reference computes in float64 on one thread: long enough to measure, short enough to wait for. */
const REFERENCE = { prompt: 32, tokens: 8 }

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu' },
    shape: { type: 'string', default: 'smollm2-135m' },
    quantization: { type: 'string', default: 'none,q8,q4' },
    batch: { type: 'string', default: '1,4,16' },
    prompt: { type: 'string', default: '512' },
    tokens: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string' },
    llama: { type: 'string' },
    peers: { type: 'boolean', default: false },
    file: { type: 'string' },
    name: { type: 'string' },
  },
})
const fail = (message) => {
  process.stderr.write(`bench model: ${message}\n`)
  process.exit(2)
}
const shapes = { ...SHAPES, bundled: bundledShape() }
const shape = shapes[flags.shape] ?? fail(`--shape ${flags.shape} is none of ${Object.keys(shapes).join(', ')}`)
const quantizations = flags.quantization.split(',')
for (const name of quantizations) {
  if (TYPES[name] === undefined) fail(`--quantization ${name} is none of ${Object.keys(TYPES).join(', ')}`)
}
if ((flags.file === undefined) !== (flags.name === undefined)) fail('--file and --name go together')
const batches = flags.batch.split(',').map(Number)
const prompt = Number(flags.prompt)
const tokens = Number(flags.tokens)
const rounds = Number(flags.rounds)
const threads = flags.threads === undefined ? null : Number(flags.threads)

/** The dimensions of the model in models/ that the server serves by default. */
function bundledShape() {
  const config = JSON.parse(readFileSync(join(root, 'models', 'mini-1m', 'config.json'), 'utf8'))
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

const rate = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1))

/** Loads the peers; those that cannot run are left out, with the reason. */
async function loadPeers(file, skipped) {
  const peers = []
  if (flags.llama !== undefined) {
    try {
      const program = flags.llama
      peers.push(await loadLlamaBench({ program, file, threads: threads ?? availableParallelism(), prompt, tokens }))
    } catch (error) {
      skipped.push(`llama-bench: ${error.message.split('\n')[0]}`)
    }
  }
  for (const gpu of !flags.peers ? [] : flags.device === 'webgpu' ? [false, 'vulkan'] : [false]) {
    try {
      peers.push(await loadPeer({ file, gpu, threads, prompt, tokens, batches }))
    } catch (error) {
      skipped.push(`node-llama-cpp ${gpu === false ? 'cpu' : gpu}: ${error.message.split('\n')[0]}`)
    }
  }
  return peers
}

/** Interleaved rounds over all runners and batch sizes; a peer that fails on the way is left out of the rest. */
async function measureAll(runners, skipped) {
  const samples = new Map(runners.map((runner) => [runner, batches.map(() => ({ prefill: [], decode: [] }))]))
  const attempt = async (runner, batch) => {
    try {
      return await runner.measure(batch, { prompt, tokens })
    } catch (error) {
      if (runner === runners[0]) throw error
      skipped.push(`${runner.name}: ${error.message.split('\n')[0]}`)
      samples.delete(runner)
      await runner.close()
      return null
    }
  }
  for (const runner of runners) await attempt(runner, batches[0]) // warm-up
  for (let round = 0; round < rounds; round++) {
    for (const [b, batch] of batches.entries()) {
      for (const runner of samples.keys()) {
        if (runner.batches?.includes(batch) === false) continue
        const result = await attempt(runner, batch)
        if (result === null) continue
        samples.get(runner)[b].prefill.push(result.prefill)
        samples.get(runner)[b].decode.push(result.decode)
      }
    }
  }
  return samples
}

/** Ours over the reference backend, both at REFERENCE's lengths. */
async function compareWithReference(file, ours) {
  const reference = await loadOurs({ file, device: 'reference', threads: null, ...REFERENCE, mostSequences: 1 })
  try {
    const own = await ours.measure(1, REFERENCE)
    const other = await reference.measure(1)
    return {
      ...REFERENCE,
      prefillTokensPerSecond: other.prefill,
      decodeTokensPerSecond: other.decode,
      prefillRatio: own.prefill / other.prefill,
      decodeRatio: own.decode / other.decode,
    }
  } finally {
    await reference.close()
  }
}

/** Decode at batch 1 with one step in flight and with two, by turns. */
async function compareInFlight(ours) {
  const rates = { oneInFlight: [], twoInFlight: [] }
  for (let round = 0; round < rounds; round++) {
    for (const [i, name] of Object.keys(rates).entries()) {
      rates[name].push((await ours.measure(1, { prompt, tokens }, i + 1)).decode)
    }
  }
  const oneInFlight = median(rates.oneInFlight)
  const twoInFlight = median(rates.twoInFlight)
  return { oneInFlight, twoInFlight, gain: twoInFlight / oneInFlight - 1 }
}

function printProfile(profile) {
  for (const [phase, { hostMs, stepMs, gpuMs, hostShare, dispatches, kernels }] of Object.entries(profile)) {
    process.stdout.write(
      `${phase} step: ${stepMs.toFixed(2)} ms, host ${hostMs.toFixed(2)} ms (${(100 * hostShare).toFixed(1)} %), device ${gpuMs.toFixed(2)} ms, ${dispatches} dispatches\n`,
    )
    const total = kernels.reduce((sum, { milliseconds }) => sum + milliseconds, 0)
    for (const { kernel, milliseconds, dispatches } of kernels) {
      const share = `${((100 * milliseconds) / total).toFixed(1)} %`.padStart(8)
      process.stdout.write(
        `  ${kernel.padEnd(24)}${milliseconds.toFixed(2).padStart(10)} ms${share}  x ${dispatches}\n`,
      )
    }
  }
}

function printRows(rows, weightBytes) {
  const names = rows[0].results.map(({ name }) => name)
  process.stdout.write('\nbatch  phase    ' + names.map((name) => name.padStart(22)).join('') + '\n')
  for (const { batch, results } of rows) {
    for (const phase of ['prefill', 'decode']) {
      const own = results[0][`${phase}TokensPerSecond`]
      const cells = names.map((name, r) => {
        const value = results.find((result) => result.name === name)?.[`${phase}TokensPerSecond`]
        if (value === undefined) return ''.padStart(22)
        return (r === 0 ? rate(value) : `${rate(value)} (ours ${(own / value).toFixed(2)}x)`).padStart(22)
      })
      const read =
        phase === 'decode' && batch === 1 ? `   ${((own * weightBytes) / 1e9).toFixed(1)} GB/s of weights` : ''
      process.stdout.write(`${String(batch).padStart(5)}  ${phase.padEnd(9)}${cells.join('')}${read}\n`)
    }
  }
}

/** A file to measure: its path, bytes of weights, what it is called, and whether it is to be deleted. */
function modelFile(quantization, folder) {
  if (flags.file !== undefined) {
    const weightBytes = statSync(flags.file).size
    return { file: flags.file, type: null, weightBytes, title: flags.name, name: flags.name, isOwn: false }
  }
  const type = TYPES[quantization]
  const file = join(folder, `${flags.shape}-${type}.gguf`)
  const weightBytes = writeGguf(file, shape, type)
  return {
    file,
    type,
    weightBytes,
    title: `${flags.shape} ${type}`,
    name: `${flags.shape}-${quantization}`,
    isOwn: true,
  }
}

async function benchmark({ file, type, weightBytes, title, name, isOwn }, bandwidth, save) {
  const skipped = []
  const ours = await loadOurs({
    file,
    device: flags.device,
    threads,
    prompt: Math.max(prompt, REFERENCE.prompt),
    tokens: Math.max(tokens, REFERENCE.tokens),
    mostSequences: Math.max(...batches),
  })
  const runners = [ours]
  try {
    runners.push(...(await loadPeers(file, skipped)))
    const { device } = ours.info
    // lavapipe's own setting; for the peer on the same adapter as well.
    const driverThreads =
      device.kind === 'webgpu' && device.isSoftware
        ? Number(process.env.LP_NUM_THREADS ?? availableParallelism())
        : null
    process.stdout.write(
      `\n${title}, ${(weightBytes / 1e6).toFixed(0)} MB of weights, prompt ${prompt}, ${tokens} tokens, median of ${rounds} rounds\n` +
        `${device.adapter} (${device.driver}); ${driverThreads === null ? '' : `${driverThreads} driver threads; `}loaded in ${(ours.loadMs / 1000).toFixed(1)} s; streaming read ${bandwidth.gigabytesPerSecond.toFixed(1)} GB/s on ${bandwidth.threads} threads\n`,
    )
    const samples = await measureAll(runners, skipped)
    const measured = [...samples.keys()]
    const rows = batches.map((batch, b) => ({
      batch,
      results: measured
        .filter((runner) => samples.get(runner)[b].decode.length > 0)
        .map((runner) => ({
          name: runner.name,
          prefillTokensPerSecond: median(samples.get(runner)[b].prefill),
          decodeTokensPerSecond: median(samples.get(runner)[b].decode),
          samples: samples.get(runner)[b],
        })),
    }))
    for (const reason of skipped) process.stdout.write(`skipped: ${reason}\n`)
    printRows(rows, weightBytes)
    const decodeOf = (batch) => rows.find((row) => row.batch === batch)?.results[0].decodeTokensPerSecond
    const [one, sixteen] = [decodeOf(1), decodeOf(16)]
    if (one !== undefined && sixteen !== undefined)
      console.log(`batch 16 decodes ${(sixteen / one).toFixed(1)}x batch 1`)
    const reference = flags.peers && flags.device !== 'reference' ? await compareWithReference(file, ours) : null
    if (reference !== null) {
      process.stdout.write(
        `reference backend (prompt ${REFERENCE.prompt}, ${REFERENCE.tokens} tokens): prefill ${rate(reference.prefillTokensPerSecond)} (ours ${reference.prefillRatio.toFixed(1)}x), decode ${rate(reference.decodeTokensPerSecond)} (ours ${reference.decodeRatio.toFixed(1)}x)\n`,
      )
    }
    const inFlight = flags.device === 'reference' || flags.llama !== undefined ? null : await compareInFlight(ours)
    if (inFlight !== null) {
      process.stdout.write(
        `decode, batch 1: ${rate(inFlight.oneInFlight)} tokens/s a step at a time, ${rate(inFlight.twoInFlight)} with two in flight (${(100 * inFlight.gain).toFixed(1)} %)\n`,
      )
    }
    const profile =
      flags.device === 'webgpu' ? await profileOurs({ file, device: flags.device, threads, prompt }) : null
    if (profile !== null) printProfile(profile)
    save(
      {
        shape: type === null ? { name } : { name: flags.shape, ...shape },
        type,
        weightBytes,
        prompt,
        tokens,
        rounds,
        device,
        driverThreads,
        readBandwidth: bandwidth,
        peers: measured.slice(1).map(({ name, info }) => ({ name, ...info })),
        skipped,
        rows,
        inFlight,
        profile,
        reference,
      },
      `model-${flags.device}-${name}`,
    )
  } finally {
    for (const runner of runners) await runner.close()
    if (isOwn) rmSync(file, { force: true })
  }
}

await run('model', async (save) => {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-bench-'))
  try {
    const bandwidth = await measureReadBandwidth(threads)
    for (const quantization of flags.file === undefined ? quantizations : ['none']) {
      await benchmark(modelFile(quantization, folder), bandwidth, save)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
