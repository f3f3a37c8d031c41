// What serving costs beside the compute: planning and committing a step, delivering a token (detokenizing, stop strings, its frame), and the serving
// thread's CPU time per token over real HTTP streams, with a runner whose tokens are there at once (bench/lib/stub-server.mjs).
//   npm run bench -- engine [--model PATH] [--concurrency 1,16,64] [--seconds 5] [--tokens 256] [--only schedule|delivery|http]
// Results: bench/results/engine.json
import { fork } from 'node:child_process'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { Choice } from '#dist/engine/requests/choice.js'
import { SamplingState } from '#dist/engine/requests/sampling.js'
import { Scheduler } from '#dist/engine/schedule/scheduler.js'
import { Sequence } from '#dist/engine/schedule/sequence.js'
import { loadTokenizer } from '#dist/engine/tokenizer/tokenizer.js'
import { completionShape } from '#dist/server/completion-shape.js'
import { closedLoop, complete, createAgent } from './lib/load-generator.mjs'
import { root, run } from './lib/run.mjs'
import { quantile, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'models', 'mini-1m') },
    concurrency: { type: 'string', default: '1,16,64' },
    seconds: { type: 'string', default: '5' },
    tokens: { type: 'string', default: '256' },
    only: { type: 'string' },
  },
})
const wants = (name) => flags.only === undefined || flags.only.split(',').includes(name)

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
        promptHashes: [],
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
    if (planned === null) throw new Error('the scheduler planned no step')
    for (const entry of planned.sequences) {
      scheduler.settle(entry, 1)
      entry.sequence.tokens.push((step * 31) % 4000)
      entry.sequence.counters.firstTokenMs ??= 1
      scheduler.publish(entry.sequence)
    }
    if (step > 100) durations.push((performance.now() - startMs) * 1000)
  }
  return { p50: round(quantile(durations, 0.5), 1), p95: round(quantile(durations, 0.95), 1), sequences: numSeqs }
}

/** Microseconds a token takes from its id to a TokenEvent and its frame: detokenizing, stop strings, JSON. */
async function microDeliver() {
  const tokenizer = await loadTokenizer(flags.model)
  /** @type {any} as much of a request as delivery reads */
  const request = {
    n: 1,
    ignoreEos: true,
    stop: ['\n\nQuestion:', 'END'],
    stopTokenIds: [],
    includeStopString: false,
    logprobs: -1,
    minTokens: 0,
  }
  const words = 'the river runs past an old mill where a grey cat sleeps on warm stones and children throw bread'.split(
    ' ',
  )
  const text = Array.from({ length: 4000 }, (_, i) => words[(i * 7919) % words.length]).join(' ')
  const ids = tokenizer.encode(text, { addSpecialTokens: false })
  /** @type {any} */
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
    promptHashes: [],
    hasGrammar: false,
    lookup: null,
    arrivedMs: 0,
  })
  const choice = new Choice({
    sequence,
    request,
    tokenizer,
    eosTokenIds: [],
    matcher: null,
    toolCalls: null,
    reasoningParser: null,
  })
  /** @type {any} as much of a job as its shape reads */
  const job = {
    requestId: 'cmpl-0123456789abcdef01234567',
    created: 1_700_000_000,
    model: 'mini-1m',
    returnTokenIds: false,
    echo: false,
    shown: { choices: 1, logprobs: -1 },
    generation: { ...request, prompts: [{ ids: [1] }] },
  }
  const shape = completionShape(job, [])
  let numBytes = 0
  const run = (tokens) => {
    for (const token of tokens) {
      const { event } = choice.accept([token], [null])
      if (event === null) continue
      const frames = shape.token(event)
      numBytes += Buffer.byteLength(typeof frames === 'string' ? frames : [...frames].join(''))
    }
  }
  run(ids)
  // In slices, of which the middle one counts: what interrupts the process falls on few of them.
  const durations = []
  for (let start = 0; start + 100 <= ids.length; start += 100) {
    const startMs = performance.now()
    run(ids.slice(start, start + 100))
    durations.push(((performance.now() - startMs) * 1000) / 100)
  }
  return {
    perTokenMicros: { p50: round(quantile(durations, 0.5), 2), p95: round(quantile(durations, 0.95), 2) },
    tokens: ids.length,
    bytes: numBytes,
  }
}

/** A server process, loaded at one concurrency; microseconds of its serving thread per token. */
async function overHttp(concurrency) {
  const options = { model: flags.model, maxNumSeqs: 64, runAhead: 1, traceDetail: 'contract' }
  const child = fork(join(root, 'bench', 'lib', 'stub-server.mjs'), [JSON.stringify(options)], {
    execArgv: process.env.BENCH_PROFILE ? ['--cpu-prof', `--cpu-prof-dir=${process.env.BENCH_PROFILE}`] : [],
  })
  const answer = () => new Promise((resolve) => child.once('message', resolve))
  const agent = createAgent()
  try {
    const { port } = await answer()
    const url = `http://127.0.0.1:${port}`
    let numTokens = 0
    let numReads = 0
    let numSent = 0
    const send = async () => {
      const result = await complete(agent, url, {
        prompt: `request ${numSent++} of many`,
        max_tokens: Number(flags.tokens),
        ignore_eos: true,
        stop: ['\n\nQuestion:', 'END'],
      })
      if (!result.isOk) throw new Error(`the server answered ${result.status}`)
      numTokens += result.usage.completion_tokens
      numReads += result.numReads
    }
    const cpuMs = async () => {
      const message = answer()
      child.send('cpu')
      return (await message).cpuMs
    }
    await closedLoop(send, concurrency, 2)
    numTokens = numReads = 0
    const [startMs, startCpuMs] = [performance.now(), await cpuMs()]
    await closedLoop(send, concurrency, Number(flags.seconds))
    const cpuMicros = ((await cpuMs()) - startCpuMs) * 1000
    const seconds = (performance.now() - startMs) / 1000
    return {
      concurrency,
      cpuMicrosPerToken: round(cpuMicros / numTokens, 1),
      tokensPerSecond: round(numTokens / seconds, 1),
      readsPerToken: round(numReads / numTokens, 3),
    }
  } finally {
    agent.destroy()
    child.send('exit')
    await new Promise((resolve) => child.once('exit', resolve))
  }
}

await run('engine', async (save) => {
  const result = { flags: { ...flags, model: basename(flags.model) } }
  if (wants('schedule')) {
    result.scheduleMicros = microSchedule()
    const { p50, p95, sequences } = result.scheduleMicros
    console.log(`schedule + commit, ${sequences} sequences: ${p50} us p50, ${p95} us p95`)
  }
  if (wants('delivery')) {
    result.delivery = await microDeliver()
    const { p50, p95 } = result.delivery.perTokenMicros
    console.log(`delivery: ${p50} us per token p50, ${p95} p95`)
  }
  if (wants('http')) {
    result.http = []
    for (const concurrency of flags.concurrency.split(',').map(Number)) {
      const measured = await overHttp(concurrency)
      result.http.push(measured)
      console.log(
        `${concurrency} streams: ${measured.cpuMicrosPerToken} us of the serving thread per token, ${measured.tokensPerSecond} tokens/s, ${measured.readsPerToken} reads per token`,
      )
    }
  }
  save(result)
})
