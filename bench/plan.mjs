// Capacity: what a server will do under a traffic that is only described, and how many machines a promise needs. Steps are measured first, on a
// server of its own or on one at --url; then the real scheduler plays the traffic in virtual time. --check sends the same traffic to the server and
// says how far off the prediction was.
//   npm run bench -- plan [--model PATH] [--device auto] [--url URL] [--rate 4 | --clients 8] [--prompt-tokens 256] [--shared-tokens 0]
//     [--output-tokens 64] [--seconds 60] [--ttft-p95 MS] [--itl-p95 MS] [--max-num-seqs 64] [--max-num-batched-tokens 512] [--max-prefill-ms 100]
//     [--kv-tokens 65536] [--costs FILE] [--check]
// Results: bench/results/plan-clients.json or plan-rate.json
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { closedLoop, complete, createAgent } from './lib/load-generator.mjs'
import { calibrate, promptSource } from './lib/plan/calibrate.mjs'
import { poissonArrivals, simulate } from './lib/plan/simulate.mjs'
import { run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { quantile, round } from './lib/stats.mjs'

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

/** The same traffic on the real server, measured by its clients. */
async function measure(url) {
  const agent = createAgent()
  const promptOf = promptSource(29)
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
    itlP50: percent(predicted.itlMs.p50, measured.itlMs.p50),
    itlP95: percent(predicted.itlMs.p95, measured.itlMs.p95),
  }
}

await run('plan', async (save) => {
  const model = flags.model === undefined ? [] : ['--model', flags.model]
  const own =
    flags.url === undefined && (flags.costs === undefined || flags.check)
      ? await startServer([
          '--device',
          flags.device,
          '--log-level',
          'warn',
          '--no-speculation',
          '--num-kv-blocks',
          String(server.numBlocks),
          ...model,
          ...LIMITS.flatMap((name) => [`--${name}`, flags[name]]),
        ])
      : null
  const url = flags.url ?? own?.url
  try {
    const costs =
      flags.costs === undefined ? await calibrate(url, SIZES) : JSON.parse(readFileSync(flags.costs, 'utf8')).costs
    const predicted = simulate(costs, traffic, server)
    const measured = flags.check ? await measure(url) : null
    const off = measured === null ? null : differences(predicted, measured)
    const wantsMachines = flags['ttft-p95'] !== undefined || flags['itl-p95'] !== undefined
    const machines = wantsMachines ? machinesFor(costs) : null
    console.log(JSON.stringify(costs))
    const line = ({ outputTokensPerSecond, ttftMs, itlMs }) => ({
      'tokens/s': outputTokensPerSecond,
      'TTFT p50, ms': ttftMs.p50,
      'TTFT p95': ttftMs.p95,
      'ITL p50, ms': itlMs.p50,
      'ITL p95': itlMs.p95,
    })
    console.table({ predicted: line(predicted), ...(measured === null ? {} : { measured: line(measured) }) })
    if (off !== null) console.log(`prediction over measurement, percent: ${JSON.stringify(off)}`)
    if (wantsMachines) console.log(machines === null ? 'no number of machines keeps that' : `machines: ${machines}`)
    save(
      { traffic, server, costs, predicted, measured, differencePercent: off, machines },
      traffic.rate === null ? 'plan-clients' : 'plan-rate',
    )
  } finally {
    await own?.stop()
  }
})
