// What tracing costs: microseconds and bytes a request for spans, logs, store and export; 1,000 requests a second through the exporter into
// a real receiver; and a real server's throughput with everything on and off, interleaved.
//   npm run bench -- tracing [--rounds N] [--seconds N] [--no-server]
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { root, run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { median } from './lib/stats.mjs'
import { openStage, stage } from '#dist/observability/context.js'
import { Observability } from '#dist/observability/observability.js'
import { encodeTraceRequest } from '#dist/observability/otlp-encoder.js'
import { spansToOtlp } from '#dist/observability/otlp.js'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    seconds: { type: 'string', default: '10' },
    'no-server': { type: 'boolean', default: false },
  },
})
const ROUNDS = Number(flags.rounds)
const SECONDS = Number(flags.seconds)
const BATCH = 500
const STEPS = Array.from({ length: 128 }, (_, i) => 8000 + ((i * 7919) % 900))

let numRequests = 0

/** A request of 128 tokens, streamed, without retrieval: the 5 spans of the contract, as the server makes them. */
function request(observability) {
  const requestId = `cmpl-${numRequests++}`
  const trace = observability.openRequest({
    method: 'POST',
    route: '/v1/completions',
    path: '/v1/completions',
    scheme: 'http',
    host: '127.0.0.1',
    port: 8000,
    headers: { traceparent: undefined, tracestate: undefined },
    requestId,
    kind: 'generation',
  })
  const publish = (event) =>
    observability.engineSubscriber.onEvent({ requestId, choice: 0, atMs: performance.now(), ...event })
  trace.run(() => {
    trace.setGeneration({
      operation: 'text_completion',
      model: 'bench',
      numChoices: 1,
      n: 1,
      maxTokens: 129,
      temperature: 0,
      stream: true,
    })
    stage('tokenize.input', (span) => span.set({ 'llm.tokens.in': 300, 'tokenizer.name': 'bench' }))
    const arrivedMs = performance.now()
    const cache = { numCachedTokens: 256, numMissTokens: 44, missReason: 'diverged' }
    publish({ type: 'queued', numPromptTokens: 300 })
    publish({ type: 'scheduled', kind: 'first', waitUs: 50, ...cache })
    publish({ type: 'firstToken', stepId: 1 })
    const output = openStage('format.output')
    const firstTokenMs = performance.now()
    publish({
      type: 'finished',
      reason: 'length',
      errorCode: null,
      counters: {
        numPromptTokens: 300,
        ...cache,
        numRecomputedTokens: 0,
        numPreemptions: 0,
        numGeneratedTokens: 129,
        arrivedMs,
        firstScheduledMs: arrivedMs,
        firstTokenMs,
        lastTokenMs: performance.now(),
        prefillChunks: 1,
        decodeSteps: 128,
        decodeStepMicros: STEPS,
        decodeRowSum: 512,
        prefillGpuMicros: null,
        prefillGpuShareMicros: null,
        decodeGpuMicros: null,
        decodeGpuShareMicros: null,
        numDraftTokens: 0,
        numAcceptedTokens: 0,
      },
    })
    output.end({ 'llm.tokens.out': 129, 'output.format': 'sse' })
    trace.setResult({
      tokensIn: 300,
      tokensOut: 129,
      cachedTokens: 256,
      finishReasons: ['length'],
      timeToFirstTokenSeconds: 0.01,
      isScored: false,
    })
    trace.finish({ ending: 'success', status: 200 })
  })
  return trace
}

let logBytes = 0
const stream = {
  write(line) {
    logBytes += line.length
  },
}
const make = (more) =>
  new Observability({
    serviceVersion: 'bench',
    otlpEndpoint: null,
    traceDetail: 'contract',
    traceStoreSize: 0,
    trustRemote: true,
    captureContent: false,
    logLevel: 'silent',
    logFile: null,
    logStream: stream,
    ...more,
  })

/** An exporter that encodes and sends nowhere: the export's own cost. */
const encoder = {
  export(spans, done) {
    encodeTraceRequest(spans)
    done({ code: 0 })
  },
  shutdown: async () => {},
}

async function perRequest() {
  const variants = {
    'ids and metrics only (--trace-detail off)': make({ traceDetail: 'off' }),
    spans: make({}),
    'spans, store': make({ traceStoreSize: 1000 }),
    'spans, store, logs': make({ traceStoreSize: 1000, logLevel: 'info' }),
    'spans, store, logs, export': make({ traceStoreSize: 1000, logLevel: 'info', exporter: encoder }),
  }
  /** @type {Record<string, number[]>} */
  const times = Object.fromEntries(Object.keys(variants).map((name) => [name, []]))
  // The first round warms up and does not count.
  for (let round = -1; round < ROUNDS; round++) {
    for (const [name, observability] of Object.entries(variants)) {
      // CPU time, not wall time: what else runs on the machine does not count.
      const before = process.cpuUsage()
      for (let i = 0; i < BATCH; i++) request(observability)
      await observability.flush()
      const { user, system } = process.cpuUsage(before)
      if (round >= 0) times[name].push((user + system) / BATCH)
    }
  }
  for (const observability of Object.values(variants)) await observability.shutdown(1000)
  return Object.entries(times).map(([variant, list]) => ({
    variant,
    'CPU µs per request': Number(median(list).toFixed(1)),
  }))
}

async function bytes() {
  const observability = make({ traceStoreSize: 200, logLevel: 'info' })
  logBytes = 0
  for (let i = 0; i < 100; i++) request(observability)
  const trees = observability.store.list({}, { keyId: '', isAdmin: true })
  const spans = trees.flatMap((tree) => tree.spans)
  const row = {
    'OTLP protobuf': Math.round(encodeTraceRequest(spans).length / 100),
    'OTLP JSON': Math.round(JSON.stringify(spansToOtlp(spans)).length / 100),
    'log lines': Math.round(logBytes / 100),
    'store (estimate)': Math.round(observability.store.bytes / 100),
  }
  await observability.shutdown(1000)
  return row
}

/** Starts a process of ours and reads its first line. */
async function startProcess(args, options = {}) {
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['pipe', 'pipe', 'inherit'], ...options })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const { value } = await lines.next()
  return { child, lines, first: value }
}

async function throughExporter() {
  const receiver = await startProcess([join(root, 'bench', 'lib', 'otlp-receiver.mjs')])
  const observability = make({ otlpEndpoint: receiver.first, traceStoreSize: 1000, logLevel: 'info' })
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const cpu = process.cpuUsage()
  const startMs = performance.now()
  let sent = 0
  while (sent < SECONDS * 1000) {
    const due = Math.min(SECONDS * 1000, Math.floor(performance.now() - startMs))
    for (; sent < due; sent++) request(observability)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  const wallMs = performance.now() - startMs
  const used = process.cpuUsage(cpu)
  await observability.shutdown(10_000)
  receiver.child.stdin.write('count\n')
  const { value: received } = await receiver.lines.next()
  receiver.child.stdin.end()
  const { created, exported, dropped } = observability.spanCounts()
  return {
    'requests a second': Math.round(sent / (wallMs / 1000)),
    created,
    exported,
    dropped,
    received: Number(received),
    'CPU of one core, %': Number((((used.user + used.system) / 1000 / wallMs) * 100).toFixed(1)),
    'event loop p99, ms': Number((delay.percentile(99) / 1e6).toFixed(1)),
  }
}

async function serverRound(url) {
  const startMs = performance.now()
  let tokens = 0
  const client = async (n) => {
    for (let i = 0; i < 4; i++) {
      const response = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          prompt: `Report ${n}.${i} says that`,
          max_tokens: 48,
          temperature: 0,
          ignore_eos: true,
        }),
      })
      const body = /** @type {any} */ (await response.json())
      if (!response.ok) throw new Error(`the server answered ${response.status}: ${JSON.stringify(body)}`)
      tokens += body.usage.completion_tokens
    }
  }
  await Promise.all(Array.from({ length: 8 }, (_, n) => client(n)))
  return tokens / ((performance.now() - startMs) / 1000)
}

async function onAndOff() {
  const receiver = await startProcess([join(root, 'bench', 'lib', 'otlp-receiver.mjs')])
  const off = await startServer(['--log-file', '', '--trace-detail', 'off', '--log-level', 'silent'])
  const on = await startServer(['--log-file', '', '--otlp-traces-endpoint', receiver.first])
  try {
    const rates = { off: [], on: [] }
    for (let round = -1; round < ROUNDS; round++) {
      // Which goes first alternates: whatever else the machine does then falls on both.
      const order = round % 2 === 0 ? ['off', 'on'] : ['on', 'off']
      for (const name of order) {
        const rate = await serverRound((name === 'on' ? on : off).url)
        if (round >= 0) rates[name].push(rate)
      }
    }
    const ratios = rates.on.map((rate, i) => rate / rates.off[i])
    return {
      'off, tokens/s': Math.round(median(rates.off)),
      'on, tokens/s': Math.round(median(rates.on)),
      'cost, %': Number(((1 - median(ratios)) * 100).toFixed(1)),
      rounds: ROUNDS,
    }
  } finally {
    for (const server of [off, on]) await server.stop()
    receiver.child.stdin.end()
  }
}

await run('tracing', async (save) => {
  const results = {
    perRequest: await perRequest(),
    bytesPerRequest: await bytes(),
    throughExporter: await throughExporter(),
    ...(flags['no-server'] ? {} : { server: await onAndOff() }),
  }
  console.log('A streamed request of 300 + 129 tokens, 5 spans, CPU microseconds (median of interleaved rounds):')
  console.table(results.perRequest)
  console.log('Bytes of it:')
  console.table([results.bytesPerRequest])
  console.log('1,000 requests a second through the exporter into a real receiver:')
  console.table([results.throughExporter])
  if (results.server) {
    console.log('The real server, everything on against everything off:')
    console.table([results.server])
  }
  save(results)
})
