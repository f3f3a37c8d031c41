// Load on a real server over HTTP and SSE: requests a second, output tokens a second, time to first token and between tokens, prefix hits, preemptions;
// closed-loop and Poisson arrivals, independent, shared-prefix and multi-turn prompts; a 4,000-token prefix cold and warm; tracing off and on,
// interleaved; run-ahead off and on likewise; a long prompt cold, from disk, from host memory and from the pool. Where the system tells it (Linux), the
// CPU time of each of the server's threads per token. What scheduling a step and delivering a token cost: bench/engine.mjs.
//   npm run bench -- serve [--device cpu|reference|webgpu|auto] [--model PATH] [--concurrency 1,4,16] [--rate 2,8] [--seconds 10] [--tokens 64] [--rounds 4] [--clients 4] [--only closed|poisson|workloads|prefix|tiers|runahead|speculation|tracing|peers] [--peer PATH_OF_LLAMA_SERVER]
// Results: a file per section, bench/results/serve-SECTION.json
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { startLlamaServer } from './lib/llama-server.mjs'
import { closedLoop, complete, createAgent } from './lib/load-generator.mjs'
import { run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { mean, median, quantile, round, seededRandom } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'auto' },
    model: { type: 'string' },
    concurrency: { type: 'string', default: '1,4,16' },
    rate: { type: 'string', default: '2,8' },
    seconds: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '4' },
    clients: { type: 'string', default: '4' },
    peer: { type: 'string' },
    only: { type: 'string' },
  },
})
/** A result names files, and not where they lie on the machine that made it. */
const SAVED_FLAGS = Object.fromEntries(
  Object.entries(flags).map(([name, value]) => [name, /^(model|peer)$/.test(name) ? basename(String(value)) : value]),
)
const SECONDS = Number(flags.seconds)
const TOKENS = Number(flags.tokens)
const numbers = (list) => list.split(',').map(Number)
const wants = (name) => flags.only === undefined || flags.only.split(',').includes(name)

const spread = (values) => ({ p50: quantile(values, 0.5), p95: quantile(values, 0.95), p99: quantile(values, 0.99) })
const WORDS =
  'the river runs past an old mill where a grey cat sleeps on warm stones and children throw bread to slow brown ducks'.split(
    ' ',
  )
const words = (random, count) =>
  Array.from({ length: count }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ')

/** Of each server, for the CPU time of its threads. */
const pids = new Map()

/** CPU time in milliseconds of a server's threads: of the one that serves, and of all others together; null where the system does not tell. */
function threadCpuMs(url) {
  const pid = pids.get(url)
  try {
    const times = readdirSync(`/proc/${pid}/task`).map((thread) => ({
      isMain: Number(thread) === pid,
      ms: Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e6,
    }))
    const sum = (isMain) => times.filter((time) => time.isMain === isMain).reduce((total, { ms }) => total + ms, 0)
    return { serving: sum(true), others: sum(false) }
  } catch {
    return null
  }
}

/** A server of its own in a folder of its own, or in a given one that stays; `use` gets its URL. */
async function withServer(args, use, /** @type {string | null} */ keptFolder = null) {
  const model = flags.model === undefined ? [] : ['--model', flags.model]
  const server = await startServer(['--device', flags.device, '--log-level', 'warn', ...model, ...args], keptFolder)
  pids.set(server.url, server.pid)
  try {
    return await use(server.url)
  } finally {
    await server.stop()
  }
}

const agent = createAgent()
const send = (url, body) => complete(agent, url, { max_tokens: TOKENS, ignore_eos: true, temperature: 0.8, ...body })

async function counter(url, name) {
  // A peer counts other things.
  if (!pids.has(url)) return 0
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line.startsWith(`miniserve_${name}`))
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

/** Runs `load`, which calls back with each finished request, and sums up what happened between its start and its end. */
async function measure(url, load) {
  const before = {
    preemptions: await counter(url, 'num_preemptions_total'),
    queries: await counter(url, 'prefix_cache_queries_total'),
    hits: await counter(url, 'prefix_cache_hits_total'),
  }
  const results = []
  const startCpuMs = threadCpuMs(url)
  const startMs = performance.now()
  await load((result) => results.push(result))
  const seconds = (performance.now() - startMs) / 1000
  const endCpuMs = threadCpuMs(url)
  const ok = results.filter((result) => result.isOk)
  const outputTokens = ok.reduce((sum, result) => sum + result.usage.completion_tokens, 0)
  const queries = (await counter(url, 'prefix_cache_queries_total')) - before.queries
  const hits = (await counter(url, 'prefix_cache_hits_total')) - before.hits
  return {
    requests: ok.length,
    failed: results.length - ok.length,
    seconds: round(seconds, 2),
    requestsPerSecond: round(ok.length / seconds, 2),
    outputTokensPerSecond: round(outputTokens / seconds, 1),
    ttftMs: spread(ok.flatMap((result) => (result.arrivals.length === 0 ? [] : [result.arrivals[0] - result.startMs]))),
    itlMs: spread(ok.flatMap((result) => result.arrivals.slice(1).map((atMs, i) => atMs - result.arrivals[i]))),
    cpuMicrosPerToken:
      startCpuMs === null || endCpuMs === null || outputTokens === 0
        ? null
        : {
            serving: round(((endCpuMs.serving - startCpuMs.serving) * 1000) / outputTokens, 1),
            others: round(((endCpuMs.others - startCpuMs.others) * 1000) / outputTokens, 1),
          },
    hitRate: queries === 0 ? 0 : round(hits / queries, 3),
    preemptions: (await counter(url, 'num_preemptions_total')) - before.preemptions,
  }
}

/** `concurrency` clients, each sending its next request when the last is answered. */
const closed = (url, concurrency, seconds, next) => (done) =>
  closedLoop(async (index) => done(await send(url, next(index))), concurrency, seconds)

/** Requests at exponential distances, whether or not the server keeps up. */
const poisson = (url, rate, seconds, next) => async (done) => {
  const random = seededRandom(7)
  const endMs = performance.now() + seconds * 1000
  const open = []
  const one = async (body) => done(await send(url, body))
  while (performance.now() < endMs) {
    open.push(one(next(open.length)))
    await new Promise((resolve) => setTimeout(resolve, (-Math.log(1 - random()) / rate) * 1000))
  }
  await Promise.all(open)
}

/** Prompts: nothing in common; one long prefix for all; conversations that grow by what was answered. */
let numWorkloads = 0
function workload(kind) {
  // Another seed each: what one load left in the cache is not what the next one asks for.
  const random = seededRandom(7919 * ++numWorkloads)
  const prefix = words(random, 300)
  const turns = new Map()
  const prompt = (client) => {
    if (kind === 'shared-prefix') return `${prefix} ${words(random, 12)}`
    if (kind === 'multi-turn') {
      const history = turns.get(client) ?? words(random, 30)
      const grown = history.length > 4000 ? words(random, 30) : `${history} ${words(random, 8)}`
      turns.set(client, grown)
      return grown
    }
    return words(random, 32)
  }
  return (client) => ({ prompt: prompt(client), seed: Math.floor(random() * 2 ** 31) })
}

/** Prints what a load did, as a row of the table; returns it with its label. */
function row(section, label, result) {
  const { ttftMs: t, itlMs: i } = result
  const cell = (value, width = 8) => String(round(value, 1) ?? '-').padStart(width)
  process.stdout.write(
    `${section.padEnd(10)}${label.padEnd(26)}${cell(result.requestsPerSecond)}${cell(result.outputTokensPerSecond, 9)}${cell(t.p50)}${cell(t.p95)}${cell(t.p99)}${cell(i.p50)}${cell(i.p95)}${cell(i.p99)}${cell(result.hitRate * 100, 7)}${cell(result.preemptions, 6)}${cell(result.failed, 6)}\n`,
  )
  return { section, label, ...result }
}
const header = () =>
  process.stdout.write(
    `\n${'section'.padEnd(10)}${'load'.padEnd(26)}${['req/s', 'tok/s', 'ttft50', 'ttft95', 'ttft99', 'itl50', 'itl95', 'itl99', 'hit %', 'preem', 'fail'].map((name, i) => name.padStart([8, 9, 8, 8, 8, 8, 8, 8, 7, 6, 6][i])).join('')}\n`,
  )

/** So many clients, each with its next request when the last is answered. */
async function closedLoad(url) {
  const rows = []
  for (const concurrency of numbers(flags.concurrency)) {
    const load = closed(url, concurrency, SECONDS, workload('independent'))
    rows.push(row('closed', `${concurrency} clients`, await measure(url, load)))
  }
  return { rows }
}

/** Arrivals at random, so many per second. */
async function poissonLoad(url) {
  const rows = []
  for (const rate of numbers(flags.rate)) {
    const load = poisson(url, rate, SECONDS, workload('independent'))
    rows.push(row('poisson', `${rate} requests/s`, await measure(url, load)))
  }
  return { rows }
}

/** Prompts that share their beginning. */
async function sharedLoad(url) {
  const rows = []
  for (const kind of ['shared-prefix', 'multi-turn']) {
    rows.push(row('workload', `${kind}, 8 clients`, await measure(url, closed(url, 8, SECONDS, workload(kind)))))
  }
  return { rows }
}

/** Time to first token of a long prompt, and of another one with the same beginning. */
async function prefix(url) {
  const ttft = ({ arrivals, startMs }) => arrivals[0] - startMs
  /** @type {number[][]} */
  const [cold, warm] = [[], []]
  for (let i = 0; i < 3; i++) {
    const ids = Array.from({ length: 4000 }, (_, j) => 300 + ((j * 7 + i * 131) % 600))
    const ask = (tail) => send(url, { prompt: [...ids, 300 + tail], max_tokens: 4 })
    cold.push(ttft(await ask(1)))
    warm.push(ttft(await ask(2)))
  }
  const found = { tokens: 4000, coldTtftMs: round(median(cold), 1), warmTtftMs: round(median(warm), 1) }
  console.log(`prefix of 4,000 tokens: ttft cold ${found.coldTtftMs} ms, warm ${found.warmTtftMs} ms`)
  return { prefix: found }
}

/**
 * Two settings of the server, both running, loaded in turns, so that drift of the machine falls on both.
 * @param {string} section
 * @param {readonly { name: string, args: string[] }[]} settings
 * @param {() => (client: number) => object} prompts what clients ask for, made anew for each load
 */
async function interleaved(section, settings, prompts = () => workload('independent')) {
  const totals = settings.map(() => /** @type {number[]} */ ([]))
  const rows = []
  await withServer(settings[0].args, (first) =>
    withServer(settings[1].args, async (second) => {
      for (const url of [first, second]) await closed(url, 2, Math.min(3, SECONDS), workload('independent'))(() => {})
      for (let round = 0; round < Number(flags.rounds); round++) {
        for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) {
          const measured = await measure(
            [first, second][i],
            closed([first, second][i], Number(flags.clients), SECONDS, prompts()),
          )
          totals[i].push(measured.outputTokensPerSecond)
          rows.push(row(section, `${settings[i].name}, round ${round + 1}`, measured))
        }
      }
    }),
  )
  const [a, b] = totals.map(median)
  // Of each round's pair: the machine's own drift from round to round is larger than what is looked for.
  const ratios = totals[0].map((before, i) => totals[1][i] / before)
  const differencePercent = round((mean(ratios) - 1) * 100, 2)
  const spreadPercent = round((Math.max(...ratios) - Math.min(...ratios)) * 100, 1)
  console.log(
    `${section}: ${settings[0].name} ${a} tok/s, ${settings[1].name} ${b} tok/s (${differencePercent} %; pairs differ by up to ${spreadPercent} points)`,
  )
  return { rows, [section]: { [settings[0].name]: a, [settings[1].name]: b, differencePercent, spreadPercent } }
}

/** Our server and llama-server on the same file, both running, loaded by turns: what one has over the other, at each number of clients. */
async function peers(program) {
  const most = Math.max(...numbers(flags.concurrency))
  const slots = ['-np', String(most), '-c', String(1024 * most)]
  const rows = []
  const ratios = []
  const peer = await startLlamaServer(program, String(flags.model), slots)
  try {
    await withServer([], async (url) => {
      const sides = [
        { name: 'miniserve', url },
        { name: 'llama-server', url: peer.url },
      ]
      for (const { url: each } of sides) await closed(each, 2, Math.min(3, SECONDS), workload('independent'))(() => {})
      for (const clients of numbers(flags.concurrency)) {
        /** @type {Awaited<ReturnType<typeof measure>>[][]} */
        const found = sides.map(() => [])
        for (let round = 0; round < Number(flags.rounds); round++) {
          for (const [i, side] of sides.entries()) {
            const load = closed(side.url, clients, SECONDS, workload('independent'))
            found[i].push(row('peers', `${side.name}, ${clients} clients`, await measure(side.url, load)))
            rows.push(found[i].at(-1))
          }
        }
        const ratio = (value) => round(median(found[0].map((ours, round) => value(ours) / value(found[1][round]))), 2)
        ratios.push({
          clients,
          tokensPerSecond: ratio((result) => result.outputTokensPerSecond),
          itlP95: ratio((result) => result.itlMs.p95),
          ttftP50: ratio((result) => result.ttftMs.p50),
        })
        console.log(`${clients} clients, miniserve over llama-server: ${JSON.stringify(ratios.at(-1))}`)
      }
    })
  } finally {
    await peer.stop()
  }
  return { rows, ratios }
}

/**
 * Time to first token of one long prompt by where its KV blocks are: nowhere, on disk after a restart, in host memory, in the pool. The pool holds two
 * such prompts, so that others between two askings push the first one's blocks out of it; host memory, where it is used, holds all of them.
 */
async function tiers() {
  const numTokens = 2000
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-bench-tiers-'))
  const ids = (seed) => {
    const random = seededRandom(seed)
    return Array.from({ length: numTokens }, () => 300 + Math.floor(random() * 600))
  }
  const ask = async (url, round) => {
    const { isOk, arrivals, startMs, usage } = await send(url, { prompt: ids(round), max_tokens: 4, temperature: 0 })
    if (!isOk) throw new Error('a request of the tiers failed')
    return { ttftMs: arrivals[0] - startMs, cachedTokens: usage.prompt_tokens_details.cached_tokens }
  }
  const common = ['--num-kv-blocks', String(2 * Math.ceil((numTokens + 16) / 16)), '--kv-cache-dir', join(folder, 'kv')]
  const [noMemory, memory] = [
    [...common, '--kv-host-memory', '0'],
    [...common, '--kv-host-memory', '1GiB'],
  ]
  /** @type {Record<'cold' | 'disk' | 'host' | 'pool', { ttftMs: number, cachedTokens: number }[]>} */
  const found = { cold: [], disk: [], host: [], pool: [] }
  try {
    for (let round = 0; round < Number(flags.rounds); round++) {
      await withServer(
        noMemory,
        async (url) => {
          await ask(url, 1000 + round)
          found.cold.push(await ask(url, round))
          found.pool.push(await ask(url, round))
        },
        folder,
      )
      await withServer(
        memory,
        async (url) => {
          await ask(url, 2000 + round)
          found.disk.push(await ask(url, round))
          for (let other = 0; other < 3; other++) await ask(url, 3000 + 10 * round + other)
          found.host.push(await ask(url, round))
        },
        folder,
      )
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const summary = {}
  for (const [tier, list] of Object.entries(found)) {
    const ttftMs = round(median(list.map((item) => item.ttftMs)), 1)
    const cachedTokens = median(list.map((item) => item.cachedTokens))
    summary[tier] = { ttftMs, cachedTokens }
    console.log(`${numTokens} tokens, ${tier.padEnd(5)} ttft ${ttftMs} ms, ${cachedTokens} tokens cached`)
  }
  return { tiers: { tokens: numTokens, ...summary } }
}

/** Sections that share a server; each has a file of results. */
const ON_ONE_SERVER = { closed: closedLoad, poisson: poissonLoad, workloads: sharedLoad, prefix }
const RUN_AHEAD = [
  { name: 'run-ahead 0', args: ['--run-ahead', '0'] },
  { name: 'run-ahead 1', args: ['--run-ahead', '1'] },
]
const SPECULATION = [
  { name: 'speculation off', args: ['--no-speculation'] },
  { name: 'speculation on', args: [] },
]
/** Text to be said again, which prompt lookup guesses; and text drawn at temperature 1, which it cannot. Greedy text lies between. */
const SPECULATED = {
  copied: () => {
    const random = seededRandom(7919 * ++numWorkloads)
    return () => {
      const text = words(random, 60)
      return { prompt: `${text}.\n\nThe same text once more:\n\n${text.slice(0, 40)}`, temperature: 0 }
    }
  },
  greedy: () => {
    const next = workload('independent')
    return (client) => ({ ...next(client), temperature: 0 })
  },
  drawn: () => {
    const next = workload('independent')
    return (client) => ({ ...next(client), temperature: 1 })
  },
}
const TRACING = [
  { name: 'tracing off', args: ['--trace-detail', 'off'] },
  { name: 'tracing on', args: ['--trace-detail', 'contract'] },
]

await run('serve', async (save) => {
  header()
  const sections = Object.entries(ON_ONE_SERVER).filter(([name]) => wants(name))
  if (sections.length > 0) {
    await withServer([], async (url) => {
      const server = await (await fetch(`${url}/version`)).json()
      await closed(url, 2, Math.min(3, SECONDS), workload('independent'))(() => {})
      for (const [name, section] of sections)
        save({ flags: SAVED_FLAGS, server, ...(await section(url)) }, `serve-${name}`)
    })
  }
  if (wants('tiers')) save({ flags: SAVED_FLAGS, ...(await tiers()) }, 'serve-tiers')
  if (wants('runahead')) {
    save({ flags: SAVED_FLAGS, ...(await interleaved('runahead', RUN_AHEAD)) }, `serve-runahead-${flags.clients}`)
  }
  if (wants('speculation')) {
    const found = {}
    for (const [name, prompts] of Object.entries(SPECULATED))
      Object.assign(found, { [name]: (await interleaved(name, SPECULATION, prompts))[name] })
    save({ flags: SAVED_FLAGS, speculation: found }, 'serve-speculation')
  }
  if (wants('tracing')) save({ flags: SAVED_FLAGS, ...(await interleaved('tracing', TRACING)) }, 'serve-tracing')
  if (flags.peer !== undefined && wants('peers'))
    save({ flags: SAVED_FLAGS, ...(await peers(flags.peer)) }, 'serve-peers')
  agent.destroy()
})
