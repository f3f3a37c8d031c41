// Load on a real server over HTTP and SSE: requests a second, output tokens a second, time to first token and between tokens, prefix hits, preemptions;
// closed-loop and Poisson arrivals, independent, shared-prefix and multi-turn prompts; a 4,000-token prefix cold and warm; tracing off and on,
// interleaved. And, in this process, what scheduling a step and delivering a token cost.
//   npm run bench -- serve [--device cpu|reference|webgpu|auto] [--model PATH] [--concurrency 1,4,16] [--rate 2,8] [--seconds 10] [--tokens 64] [--rounds 4] [--only micro|closed|poisson|workloads|prefix|runahead|tracing]
// Results: bench/results/serve.json
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Choice } from '../dist/engine/choice.js'
import { SamplingState } from '../dist/engine/sampling.js'
import { Scheduler } from '../dist/engine/scheduler.js'
import { Sequence } from '../dist/engine/sequence.js'
import { loadTokenizer } from '../dist/engine/tokenizer.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'auto' },
    model: { type: 'string' },
    concurrency: { type: 'string', default: '1,4,16' },
    rate: { type: 'string', default: '2,8' },
    seconds: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '4' },
    only: { type: 'string' },
  },
})
const SECONDS = Number(flags.seconds)
const TOKENS = Number(flags.tokens)
const numbers = (list) => list.split(',').map(Number)
const wants = (name) => flags.only === undefined || flags.only.split(',').includes(name)

const quantile = (values, q) => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted.length === 0 ? null : sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]
}
const spread = (values) => ({ p50: quantile(values, 0.5), p95: quantile(values, 0.95), p99: quantile(values, 0.99) })
const rounded = (value, digits = 1) => (value === null || value === undefined ? null : Number(value.toFixed(digits)))

/** Seeded, so that every run sends the same prompts at the same times. */
function createRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const WORDS =
  'the river runs past an old mill where a grey cat sleeps on warm stones and children throw bread to slow brown ducks'.split(
    ' ',
  )
const words = (random, count) =>
  Array.from({ length: count }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ')

/** A server of its own in a folder of its own; `use` gets its URL. */
async function withServer(args, use) {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-bench-serve-'))
  const model = flags.model === undefined ? [] : ['--model', flags.model]
  const server = spawn(
    process.execPath,
    [join(root, 'dist', 'main.js'), '--port', '0', '--device', flags.device, '--log-level', 'warn', ...model, ...args],
    {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  )
  const exited = new Promise((resolve) => server.once('exit', resolve))
  try {
    const url = await new Promise((resolve, reject) => {
      let text = ''
      server.stderr.on('data', (chunk) => {
        text += chunk
        const ready = /ready on (\S+)/.exec(text)
        if (ready) resolve(ready[1])
      })
      server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
    })
    return await use(url)
  } finally {
    server.kill('SIGTERM')
    await exited
    rmSync(folder, { recursive: true, force: true })
  }
}

/** One streamed completion: when it began, when each text arrived, and the counts the server tells at the end. */
async function complete(url, body) {
  const startMs = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      max_tokens: TOKENS,
      ignore_eos: true,
      temperature: 0.8,
      stream: true,
      stream_options: { include_usage: true },
      ...body,
    }),
  })
  if (!response.ok) return { isOk: false, status: response.status, startMs, endMs: performance.now() }
  const arrivals = []
  const decoder = new TextDecoder()
  let [buffered, text, usage] = ['', '', null]
  for await (const bytes of response.body) {
    const atMs = performance.now()
    buffered += decoder.decode(bytes, { stream: true })
    const lines = buffered.split('\n')
    buffered = lines.pop()
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue
      const chunk = JSON.parse(line.slice(6))
      if (chunk.error) return { isOk: false, status: 200, startMs, endMs: atMs }
      usage = chunk.usage ?? usage
      const piece = chunk.choices?.[0]?.text ?? ''
      if (piece === '') continue
      text += piece
      arrivals.push(atMs)
    }
  }
  return { isOk: usage !== null, startMs, endMs: performance.now(), arrivals, text, usage }
}

async function counter(url, name) {
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
  const startMs = performance.now()
  await load((result) => results.push(result))
  const seconds = (performance.now() - startMs) / 1000
  const ok = results.filter((result) => result.isOk)
  const outputTokens = ok.reduce((sum, result) => sum + result.usage.completion_tokens, 0)
  const queries = (await counter(url, 'prefix_cache_queries_total')) - before.queries
  const hits = (await counter(url, 'prefix_cache_hits_total')) - before.hits
  return {
    requests: ok.length,
    failed: results.length - ok.length,
    seconds: rounded(seconds, 2),
    requestsPerSecond: rounded(ok.length / seconds, 2),
    outputTokensPerSecond: rounded(outputTokens / seconds),
    ttftMs: spread(ok.flatMap((result) => (result.arrivals.length === 0 ? [] : [result.arrivals[0] - result.startMs]))),
    itlMs: spread(ok.flatMap((result) => result.arrivals.slice(1).map((atMs, i) => atMs - result.arrivals[i]))),
    hitRate: queries === 0 ? 0 : rounded(hits / queries, 3),
    preemptions: (await counter(url, 'num_preemptions_total')) - before.preemptions,
  }
}

/** `concurrency` clients, each sending its next request when the last is answered. */
const closedLoop = (url, concurrency, seconds, next) => (done) => {
  const endMs = performance.now() + seconds * 1000
  const client = async (index) => {
    while (performance.now() < endMs) done(await complete(url, next(index)))
  }
  return Promise.all(Array.from({ length: concurrency }, (_, index) => client(index)))
}

/** Requests at exponential distances, whether or not the server keeps up. */
const poisson = (url, rate, seconds, next) => async (done) => {
  const random = createRandom(7)
  const endMs = performance.now() + seconds * 1000
  const open = []
  const send = async (body) => done(await complete(url, body))
  while (performance.now() < endMs) {
    open.push(send(next(open.length)))
    await new Promise((resolve) => setTimeout(resolve, (-Math.log(1 - random()) / rate) * 1000))
  }
  await Promise.all(open)
}

/** Prompts: nothing in common; one long prefix for all; conversations that grow by what was answered. */
let numWorkloads = 0
function workload(kind) {
  // Another seed each: what one load left in the cache is not what the next one asks for.
  const random = createRandom(7919 * ++numWorkloads)
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

const rows = []
function report(section, label, result) {
  rows.push({ section, label, ...result })
  const { ttftMs: t, itlMs: i } = result
  const cell = (value, width = 8) => String(rounded(value) ?? '-').padStart(width)
  process.stdout.write(
    `${section.padEnd(10)}${label.padEnd(26)}${cell(result.requestsPerSecond)}${cell(result.outputTokensPerSecond, 9)}${cell(t.p50)}${cell(t.p95)}${cell(t.p99)}${cell(i.p50)}${cell(i.p95)}${cell(i.p99)}${cell(result.hitRate * 100, 7)}${cell(result.preemptions, 6)}${cell(result.failed, 6)}\n`,
  )
}
const header = () =>
  process.stdout.write(
    `\n${'section'.padEnd(10)}${'load'.padEnd(26)}${['req/s', 'tok/s', 'ttft50', 'ttft95', 'ttft99', 'itl50', 'itl95', 'itl99', 'hit %', 'preem', 'fail'].map((name, i) => name.padStart([8, 9, 8, 8, 8, 8, 8, 8, 7, 6, 6][i])).join('')}\n`,
  )

/** Microseconds of planning a step and settling it with 64 sequences decoding. */
function microSchedule() {
  const numSeqs = 64
  const params = {
    temperature: 0.8,
    topK: 40,
    topP: 0.95,
    minP: 0,
    seed: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    repetitionPenalty: 1,
    logitBias: null,
  }
  const scheduler = new Scheduler({
    blockSize: 16,
    numBlocks: 4096,
    maxNumSeqs: numSeqs,
    maxNumBatchedTokens: 8192,
    maxSampleRows: 1024,
    hash: (parent, tokens) => `${parent.length}${tokens[0]}${Math.random()}`,
  })
  for (let i = 0; i < numSeqs; i++) {
    const promptTokens = Array.from({ length: 100 }, (_, j) => (i * 100 + j) % 4000)
    const sampling = new SamplingState(
      { params, seed: 1, choice: 0, minTokens: 0, endTokenIds: [], logprobs: -1, vocabSize: 4096 },
      promptTokens,
    )
    scheduler.add(
      new Sequence({
        requestId: `r${i}`,
        choice: 0,
        arrival: i,
        priority: 0,
        promptTokens,
        maxOutputTokens: 900,
        sampling,
        promptLogprobs: -1,
        cacheRoot: 'root',
        hasGrammar: false,
        lookup: null,
        arrivedMs: 0,
      }),
    )
  }
  const durations = []
  for (let step = 0; step < 800; step++) {
    const startMs = performance.now()
    const planned = scheduler.schedule().step
    for (const entry of planned.sequences) {
      scheduler.settle(entry, 1)
      entry.sequence.tokens.push((step * 31) % 4000)
      entry.sequence.counters.firstTokenMs ??= 1
      scheduler.publish(entry.sequence)
    }
    if (step > 100) durations.push((performance.now() - startMs) * 1000)
  }
  return { p50: rounded(quantile(durations, 0.5)), p95: rounded(quantile(durations, 0.95)), sequences: numSeqs }
}

/** Microseconds a token takes from its id to a TokenEvent and its frame: detokenizing, stop strings, JSON. */
async function microDeliver() {
  const tokenizer = await loadTokenizer(flags.model ?? join(root, 'models', 'mini-1m'))
  const request = {
    n: 1,
    ignoreEos: true,
    stop: ['\n\nQuestion:', 'END'],
    stopTokenIds: [],
    includeStopString: false,
    logprobs: -1,
    minTokens: 0,
  }
  const ids = tokenizer.encode(words(createRandom(3), 4000), { addSpecialTokens: false })
  const sampling = { push() {} }
  const sequence = new Sequence({
    requestId: 'r',
    choice: 0,
    arrival: 0,
    priority: 0,
    promptTokens: [1],
    maxOutputTokens: 1e9,
    sampling,
    promptLogprobs: -1,
    cacheRoot: null,
    hasGrammar: false,
    lookup: null,
    arrivedMs: 0,
  })
  const choice = new Choice({ sequence, request, tokenizer, eosTokenIds: [], matcher: null })
  let numBytes = 0
  const run = (tokens) => {
    for (const token of tokens) {
      const { event } = choice.accept([token], [null])
      if (event !== null)
        numBytes +=
          `data: ${JSON.stringify({ id: 'cmpl-1', object: 'text_completion', created: 1, model: 'm', choices: [{ index: 0, text: event.text, logprobs: null, finish_reason: null }] })}\n\n`
            .length
    }
  }
  run(ids.slice(0, 2000))
  const startMs = performance.now()
  run(ids)
  return {
    perTokenMicros: rounded(((performance.now() - startMs) * 1000) / ids.length, 2),
    tokens: ids.length,
    bytes: numBytes,
  }
}

const result = {
  date: new Date().toISOString(),
  node: process.version,
  cpu: cpus()[0]?.model,
  cores: cpus().length,
  memoryGiB: rounded(totalmem() / 2 ** 30),
  loadAverage: loadavg().map((load) => rounded(load, 2)),
  flags,
}

if (wants('micro')) {
  result.micro = { scheduleMicros: microSchedule(), deliver: await microDeliver() }
  process.stdout.write(
    `schedule + commit, 64 sequences: ${result.micro.scheduleMicros.p50} us p50, ${result.micro.scheduleMicros.p95} us p95 (goal 100)\n`,
  )
  process.stdout.write(`delivery: ${result.micro.deliver.perTokenMicros} us a token (goal 20)\n`)
}
header()
if (['closed', 'poisson', 'workloads', 'prefix'].some(wants)) {
  await withServer([], async (url) => {
    const version = await (await fetch(`${url}/version`)).json()
    result.server = version
    await closedLoop(url, 2, Math.min(3, SECONDS), workload('independent'))(() => {})
    if (wants('closed')) {
      for (const concurrency of numbers(flags.concurrency))
        report(
          'closed',
          `${concurrency} clients`,
          await measure(url, closedLoop(url, concurrency, SECONDS, workload('independent'))),
        )
    }
    if (wants('poisson')) {
      for (const rate of numbers(flags.rate))
        report(
          'poisson',
          `${rate} requests/s`,
          await measure(url, poisson(url, rate, SECONDS, workload('independent'))),
        )
    }
    if (wants('workloads')) {
      for (const kind of ['shared-prefix', 'multi-turn'])
        report('workload', `${kind}, 8 clients`, await measure(url, closedLoop(url, 8, SECONDS, workload(kind))))
    }
    if (wants('prefix')) {
      const ttft = ({ arrivals, startMs }) => arrivals[0] - startMs
      const [cold, warm] = [[], []]
      for (let i = 0; i < 3; i++) {
        const ids = Array.from({ length: 4000 }, (_, j) => 300 + ((j * 7 + i * 131) % 600))
        const ask = (tail) => complete(url, { prompt: [...ids, 300 + tail], max_tokens: 4 })
        cold.push(ttft(await ask(1)))
        warm.push(ttft(await ask(2)))
      }
      result.prefix = {
        tokens: 4000,
        coldTtftMs: rounded(quantile(cold, 0.5)),
        warmTtftMs: rounded(quantile(warm, 0.5)),
      }
      process.stdout.write(
        `prefix of 4,000 tokens: ttft cold ${result.prefix.coldTtftMs} ms, warm ${result.prefix.warmTtftMs} ms (goal 1/10)\n`,
      )
    }
  })
}

/** Two settings of the server, both running, loaded in turns, so that drift of the machine falls on both. */
async function interleaved(section, settings) {
  const totals = settings.map(() => [])
  await withServer(settings[0].args, (first) =>
    withServer(settings[1].args, async (second) => {
      for (const url of [first, second])
        await closedLoop(url, 2, Math.min(3, SECONDS), workload('independent'))(() => {})
      for (let round = 0; round < Number(flags.rounds); round++) {
        for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) {
          const measured = await measure(
            [first, second][i],
            closedLoop([first, second][i], 4, SECONDS, workload('independent')),
          )
          totals[i].push(measured.outputTokensPerSecond)
          report(section, `${settings[i].name}, round ${round + 1}`, measured)
        }
      }
    }),
  )
  const [a, b] = totals.map((values) => quantile(values, 0.5))
  result[section] = { [settings[0].name]: a, [settings[1].name]: b, differencePercent: rounded((b / a - 1) * 100, 2) }
  process.stdout.write(
    `${section}: ${settings[0].name} ${a} tok/s, ${settings[1].name} ${b} tok/s (${result[section].differencePercent} %)\n`,
  )
}

if (wants('runahead')) {
  await interleaved('runahead', [
    { name: 'run-ahead 0', args: ['--run-ahead', '0'] },
    { name: 'run-ahead 1', args: ['--run-ahead', '1'] },
  ])
}
if (wants('tracing')) {
  await interleaved('tracing', [
    { name: 'tracing off', args: ['--trace-detail', 'off'] },
    { name: 'tracing on', args: ['--trace-detail', 'contract'] },
  ])
}

result.rows = rows
mkdirSync(join(root, 'bench', 'results'), { recursive: true })
writeFileSync(join(root, 'bench', 'results', 'serve.json'), `${JSON.stringify(result, null, 2)}\n`)
process.stdout.write('bench/results/serve.json\n')
