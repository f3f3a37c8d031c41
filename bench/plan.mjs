// Capacity: what a server will do under a traffic that is only described, and how many machines a promise needs. Steps are measured first, on a
// server of its own or on one at --url; then the real scheduler plays the traffic in virtual time. --check sends the same traffic to the server and
// says how far off the prediction was.
//   npm run bench -- plan [--model PATH] [--device auto] [--url URL] [--rate 4 | --clients 8] [--prompt-tokens 256] [--shared-tokens 0]
//     [--output-tokens 64] [--seconds 60] [--ttft-p95 MS] [--itl-p95 MS] [--max-num-seqs 64] [--max-num-batched-tokens 512] [--max-prefill-ms 100]
//     [--kv-tokens 65536] [--costs FILE] [--check]
//   npm run bench -- plan --suite NAME [--model PATH] [--device auto] [--rounds 3] [--seconds 10] [--prompt-tokens 256] [--output-tokens 64]
// The second form checks several kinds of traffic: clients, rates, a shared beginning. Rounds of calibration and traffic alternate, so that what else the
// machine does meets both alike. --paced STEP,ROW,TOKEN: milliseconds of a device that is played (lib/stub-server.mjs) instead of a model.
// Results: bench/results/plan-NAME.json
import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { closedLoop, complete, createAgent } from './lib/load-generator.mjs'
import { calibrate, medianCosts, promptSource, warmUp } from './lib/plan/calibrate.mjs'
import { poissonArrivals, simulate } from './lib/plan/simulate.mjs'
import { root, run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { median, quantile, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    device: { type: 'string', default: 'auto' },
    url: { type: 'string' },
    rate: { type: 'string' },
    clients: { type: 'string', default: '4' },
    'prompt-tokens': { type: 'string', default: '256' },
    'shared-tokens': { type: 'string', default: '0' },
    'output-tokens': { type: 'string', default: '64' },
    seconds: { type: 'string', default: '60' },
    'ttft-p95': { type: 'string' },
    'itl-p95': { type: 'string' },
    'max-num-seqs': { type: 'string', default: '64' },
    'max-num-batched-tokens': { type: 'string', default: '512' },
    'max-prefill-ms': { type: 'string', default: '100' },
    'kv-tokens': { type: 'string', default: '65536' },
    costs: { type: 'string' },
    check: { type: 'boolean', default: false },
    suite: { type: 'string' },
    paced: { type: 'string' },
    rounds: { type: 'string', default: '3' },
  },
})
const traffic = {
  rate: flags.rate === undefined ? null : Number(flags.rate),
  clients: Number(flags.clients),
  promptTokens: Number(flags['prompt-tokens']),
  sharedTokens: Number(flags['shared-tokens']),
  outputTokens: Number(flags['output-tokens']),
  seconds: Number(flags.seconds),
}
const server = {
  numBlocks: Math.ceil(Number(flags['kv-tokens']) / 16),
  maxNumSeqs: Number(flags['max-num-seqs']),
  maxNumBatchedTokens: Number(flags['max-num-batched-tokens']),
  maxPrefillMs: Number(flags['max-prefill-ms']),
}
const SIZES = {
  rows: [1, 2, 4, 8, 16, 32].filter((rows) => rows <= server.maxNumSeqs),
  prompts: [16, 64, 256, 512, 1024, 2048].filter((length) => length <= Math.max(512, traffic.promptTokens)),
}
/** Flags that the server has as well. */
const LIMITS = ['max-num-seqs', 'max-num-batched-tokens', 'max-prefill-ms']
/** Beyond this no promise is worth a search. */
const MOST_MACHINES = 4096

let numMeasurements = 0

/** The same traffic on the real server, measured by its clients. */
async function measure(url, traffic) {
  const agent = createAgent()
  const promptOf = promptSource(500_000 + numMeasurements++)
  const shared = promptOf(traffic.sharedTokens)
  const results = []
  const startMs = performance.now()
  const ask = async () => {
    const prompt = [...shared, ...promptOf(Math.max(1, traffic.promptTokens - shared.length))]
    const body = { prompt, max_tokens: traffic.outputTokens, ignore_eos: true, temperature: 0 }
    results.push(await complete(agent, url, body))
  }
  if (traffic.rate === null) await closedLoop(ask, traffic.clients, traffic.seconds)
  else {
    await Promise.all(
      poissonArrivals(traffic.rate, traffic.seconds).map(async (at) => {
        const waitMs = startMs + at * 1000 - performance.now()
        await new Promise((resolve) => setTimeout(resolve, waitMs))
        await ask()
      }),
    )
  }
  const seconds = (performance.now() - startMs) / 1000
  agent.destroy()
  const failed = results.filter(({ isOk }) => !isOk).length
  if (failed > 0) throw new Error(`${failed} of ${results.length} requests failed`)
  const spread = (values) => ({ p50: round(quantile(values, 0.5), 1), p95: round(quantile(values, 0.95), 1) })
  const tokens = results.reduce((sum, { usage }) => sum + usage.completion_tokens, 0)
  return {
    outputTokensPerSecond: round(tokens / seconds, 1),
    ttftMs: spread(results.map(({ arrivals, startMs: sentMs }) => arrivals[0] - sentMs)),
    tpotMs: spread(results.map(({ arrivals }) => (arrivals.at(-1) - arrivals[0]) / Math.max(1, arrivals.length - 1))),
    itlMs: spread(results.flatMap(({ arrivals }) => arrivals.slice(1).map((at, i) => at - arrivals[i]))),
  }
}

/** The fewest machines, each with its share of the traffic, that keep the promises; null: no number does. */
function machinesFor(costs) {
  const most = { ttft: Number(flags['ttft-p95'] ?? Infinity), itl: Number(flags['itl-p95'] ?? Infinity) }
  const isKept = (machines) => {
    const share = { ...traffic, rate: traffic.rate === null ? null : traffic.rate / machines }
    if (traffic.rate === null) share.clients = Math.ceil(traffic.clients / machines)
    const { ttftMs, itlMs } = simulate(costs, share, server)
    return ttftMs.p95 <= most.ttft && itlMs.p95 <= most.itl
  }
  let enough = 1
  while (enough <= MOST_MACHINES && !isKept(enough)) enough *= 2
  if (enough > MOST_MACHINES) return null
  let tooFew = enough / 2
  while (enough - tooFew > 1) {
    const middle = Math.floor((enough + tooFew) / 2)
    if (isKept(middle)) enough = middle
    else tooFew = middle
  }
  return enough
}

/** How far a prediction is off, in percent of what was measured. */
function differences(predicted, measured) {
  const percent = (a, b) => round(100 * (a / b - 1), 1)
  return {
    outputTokensPerSecond: percent(predicted.outputTokensPerSecond, measured.outputTokensPerSecond),
    ttftP50: percent(predicted.ttftMs.p50, measured.ttftMs.p50),
    ttftP95: percent(predicted.ttftMs.p95, measured.ttftMs.p95),
    tpotP50: percent(predicted.tpotMs.p50, measured.tpotMs.p50),
    tpotP95: percent(predicted.tpotMs.p95, measured.tpotMs.p95),
  }
}

/** A server whose device has the costs that --paced says. */
async function startPaced() {
  const [stepMs, rowMs, tokenMs] = (flags.paced ?? '').split(',').map(Number)
  const options = {
    model: join(root, 'models', 'mini-1m'),
    maxNumSeqs: server.maxNumSeqs,
    maxPrefillMs: server.maxPrefillMs,
    runAhead: 1,
    traceDetail: 'contract',
    pace: { stepMs, rowMs, tokenMs },
  }
  const child = fork(join(root, 'bench', 'lib', 'stub-server.mjs'), [JSON.stringify(options)])
  const { port } = await new Promise((resolve) => child.once('message', resolve))
  const exited = new Promise((resolve) => child.once('exit', resolve))
  const stop = async () => {
    child.send('end')
    await exited
  }
  return { url: `http://127.0.0.1:${port}`, stop }
}

/** A server of its own, started with what is planned for. */
const startOwn = () =>
  startServer([
    '--device',
    flags.device,
    '--log-level',
    'warn',
    '--no-speculation',
    '--num-kv-blocks',
    String(server.numBlocks),
    ...(flags.model === undefined ? [] : ['--model', flags.model]),
    ...LIMITS.flatMap((name) => [`--${name}`, flags[name]]),
  ])

const line = ({ outputTokensPerSecond, ttftMs, tpotMs }) => ({
  'tokens/s': outputTokensPerSecond,
  'TTFT p50, ms': ttftMs.p50,
  'TTFT p95': ttftMs.p95,
  'per token p50, ms': tpotMs.p50,
  'per token p95': tpotMs.p95,
})

/** Several kinds of traffic on one server, each predicted from the calibrations around it. */
async function suite(save) {
  const own = flags.paced === undefined ? await startOwn() : await startPaced()
  try {
    const sizes = { ...SIZES, rows: SIZES.rows.filter((rows) => rows <= 16) }
    await warmUp(own.url, sizes)
    const first = await calibrate(own.url, sizes)
    const capacity =
      simulate(first, { ...traffic, rate: null, clients: 16 }, server).outputTokensPerSecond / traffic.outputTokens
    const kinds = [
      ...[1, 4, 16].map((clients) => ({ ...traffic, rate: null, clients })),
      ...[0.3, 0.6].map((share) => ({ ...traffic, rate: round(share * capacity, 2) })),
      { ...traffic, rate: null, clients: 4, sharedTokens: Math.floor((traffic.promptTokens * 3) / 4) },
    ]
    const calibrations = []
    /** @type {Awaited<ReturnType<typeof measure>>[][]} */
    const measured = kinds.map(() => [])
    for (let i = 0; i < Number(flags.rounds); i++) {
      for (const [k, kind] of kinds.entries()) {
        if (k === 0 || (k % 2 === 0 && flags.paced === undefined)) calibrations.push(await calibrate(own.url, sizes))
        measured[k].push(await measure(own.url, kind))
      }
    }
    const costs = medianCosts(calibrations)
    const rows = kinds.map((kind, k) => {
      const predicted = simulate(costs, kind, server)
      const middle = (of) => round(median(measured[k].map(of)), 1)
      const spread = (name) => ({ p50: middle((m) => m[name].p50), p95: middle((m) => m[name].p95) })
      const real = {
        outputTokensPerSecond: middle((m) => m.outputTokensPerSecond),
        ttftMs: spread('ttftMs'),
        tpotMs: spread('tpotMs'),
      }
      return { traffic: kind, predicted, measured: real, differencePercent: differences(predicted, real) }
    })
    console.log(JSON.stringify(costs))
    for (const { traffic: kind, predicted, measured: real, differencePercent } of rows) {
      console.log(JSON.stringify(kind), JSON.stringify(differencePercent))
      console.table({ predicted: line(predicted), measured: line(real) })
    }
    save({ server, paced: flags.paced, costs, rows }, `plan-${flags.suite}`)
  } finally {
    await own.stop()
  }
}

/** One traffic that the flags describe. */
async function plan() {
  const own = flags.url === undefined && (flags.costs === undefined || flags.check) ? await startOwn() : null
  const url = flags.url ?? own?.url
  try {
    if (flags.costs === undefined) await warmUp(url, SIZES)
    const costs =
      flags.costs === undefined ? await calibrate(url, SIZES) : JSON.parse(readFileSync(flags.costs, 'utf8')).costs
    const predicted = simulate(costs, traffic, server)
    const measured = flags.check ? await measure(url, traffic) : null
    const wantsMachines = flags['ttft-p95'] !== undefined || flags['itl-p95'] !== undefined
    const machines = wantsMachines ? machinesFor(costs) : null
    console.log(JSON.stringify(costs))
    console.table({ predicted: line(predicted), ...(measured === null ? {} : { measured: line(measured) }) })
    if (measured !== null)
      console.log(`prediction over measurement, percent: ${JSON.stringify(differences(predicted, measured))}`)
    if (wantsMachines) console.log(machines === null ? 'no number of machines keeps that' : `machines: ${machines}`)
  } finally {
    await own?.stop()
  }
}

await run('plan', (save) => (flags.suite === undefined ? plan() : suite(save)))
