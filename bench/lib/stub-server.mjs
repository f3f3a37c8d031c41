// The whole server but for its compute, in a process of its own: the real edge, engine, traces and metrics over a runner whose tokens are there at once.
// bench/engine.mjs starts it and asks over IPC for the CPU time its thread has used. Plans and results take the way they take to the runner's thread.
// With a pace, steps take the time of a device with those costs, one after the other: bench/plan.mjs predicts a server whose device it knows.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { createEngine } from '#dist/engine/engine.js'
import { readResult, WordWriter, writePlan, writeResult } from '#dist/engine/runner/step-codec.js'
import { loadTokenizer } from '#dist/engine/tokenizer/tokenizer.js'
import { Observability } from '#dist/observability/observability.js'
import { createApp } from '#dist/server/app.js'
import { createKeys } from '#dist/server/keys.js'
import { ServerState } from '#dist/server/state.js'

const { model, maxNumSeqs, runAhead, traceDetail, pace = null, maxPrefillMs } = JSON.parse(process.argv[2])
const tokenizer = await loadTokenizer(model)
const firstText = 300

/** A token that depends on the position alone, from the part of the vocabulary that is text. */
const tokenAt = (position) => firstText + ((position * 7919) % (tokenizer.vocabSize - firstText))

/** When the paced device has done what it was given. */
let freeMs = 0

/** Milliseconds that a paced device takes for a plan: `stepMs`, `rowMs` for each sequence that decodes, `tokenMs` for each prompt token. */
function paceOf(plan) {
  if (pace === null) return 0
  const { stepMs, rowMs, tokenMs } = pace
  const counts = plan.sequences.map(({ tokenSource }) => ('ids' in tokenSource ? tokenSource.ids.length : 1))
  return counts.reduce((ms, count) => ms + (count === 1 ? rowMs : count * tokenMs), stepMs)
}

const [plans, results] = [new WordWriter(), new WordWriter()]
/** @type {any} without loading, and without blocks to read */
const runner = {
  execute(plan) {
    writePlan(plans, plan)
    const sequences = plan.sequences.map(({ tokenSource, startPosition, sample }) => {
      const numTokens = 'ids' in tokenSource ? tokenSource.ids.length : 1
      const first = startPosition + numTokens - sample.length
      return {
        tokens: sample.map((_, i) => tokenAt(first + i)),
        logprobs: sample.map(() => null),
        scores: [],
      }
    })
    const computeMs = paceOf(plan)
    writeResult(results, { stepId: plan.stepId, sequences, gpuMicros: null, kernels: null, computeMs })
    const result = readResult(results.buffer, null)
    if (pace === null) return new Promise((resolve) => setImmediate(resolve, result))
    freeMs = Math.max(freeMs, performance.now()) + computeMs
    return new Promise((resolve) => setTimeout(resolve, freeMs - performance.now(), result))
  },
  close: () => Promise.resolve(),
}
/** @type {import('#dist/engine/runner/runner.js').ModelInfo} */
const modelInfo = {
  architecture: 'stub',
  vocabSize: tokenizer.vocabSize,
  hiddenSize: 1,
  numLayers: 1,
  maxModelLen: 8192,
  eosTokenIds: [2],
  bosTokenId: 1,
  blockSize: 16,
  numKvBlocks: 8192,
  blockBytes: 1024,
  numStateSlots: 0,
  stateSlotBytes: 0,
  maxNumBatchedTokens: 512,
  weightBytes: 0,
  memory: { weightBytes: 0, kvCacheBytes: 0, scratchBytes: 0 },
  quantization: 'none',
  device: { kind: 'reference', adapter: 'stub', driver: '', isSoftware: true, kvFormat: 'f32', hasTimestamps: false },
  fingerprint: 'stub',
  adapters: [],
  notices: [],
}
const engine = createEngine({
  runner,
  modelInfo,
  tokenizer,
  chatTemplate: null,
  options: {
    modelName: 'stub',
    maxNumSeqs,
    prefixCaching: true,
    runAhead,
    speculation: false,
    ...(maxPrefillMs === undefined ? {} : { maxPrefillMs }),
    maxQueuedRequests: 256,
    maxQueuedTokens: 65_536,
  },
})
const observability = new Observability({
  serviceVersion: 'bench',
  otlpEndpoint: null,
  traceDetail,
  traceStoreSize: 1000,
  trustRemote: false,
  captureContent: false,
  tailSampling: null,
  logLevel: 'warn',
  logFile: null,
})
const state = new ServerState((model) => observability.subscribers([], model))
state.models.add({ engine, samplingDefaults: {}, promptTemplate: null })
state.ready()
const app = createApp({
  state,
  observability,
  keys: createKeys({ keys: [], adminKey: null, secret: Buffer.alloc(32) }),
  rag: null,
  version: 'bench',
  revision: null,
  settings: {
    corsOrigins: [],
    maxQueuedRequests: 256,
    maxRequestBytes: 1 << 20,
    requestTimeoutMs: 0,
    defaultSeed: null,
    maxNumSeqs,
  },
})

/** CPU time of this process's main thread, where the system tells it (Linux), else of the whole process. Milliseconds. */
function cpuMs() {
  try {
    return Number(readFileSync('/proc/self/schedstat', 'utf8').split(' ')[0]) / 1e6
  } catch {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  }
}

process.on('message', (message) => {
  if (message === 'cpu') process.send?.({ cpuMs: cpuMs() })
  else process.exit(0)
})
process.once('disconnect', () => process.exit(0))
const server = createServer(getRequestListener(app.fetch, { overrideGlobalObjects: false }))
server.listen(0, '127.0.0.1', () =>
  process.send?.({ port: /** @type {import('node:net').AddressInfo} */ (server.address()).port }),
)
