/**
 * The tour: the whole server in one process and one screen, on the bundled model and the reference backend. Read it first.
 * Every part is the real one; main.ts wires them the same way, with the runner in a worker and a socket in front.
 */
import { Writable } from 'node:stream'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { loadChatTemplate } from '../src/engine/chat/chat-template.ts'
import { createEngine } from '../src/engine/engine.ts'
import type { Engine } from '../src/engine/request.ts'
import { createLocalRunner } from '../src/engine/runner/local.ts'
import { loadTokenizer } from '../src/engine/tokenizer/tokenizer.ts'
import { Observability } from '../src/observability/observability.ts'
import { createApp } from '../src/server/app.ts'
import { createKeys } from '../src/server/keys.ts'
import { ServerState } from '../src/server/state.ts'

const MODEL = new URL('../models/mini-1m', import.meta.url).pathname

let engine: Engine
let observability: Observability
let app: ReturnType<typeof createApp>
const logLines: string[] = []

beforeAll(async () => {
  // 1. Compute: weights, kernels and the KV pool behind an interface that takes step plans.
  const runner = createLocalRunner()
  const modelInfo = await runner.load({
    path: MODEL,
    device: 'reference',
    quantization: 'none',
    maxModelLen: 512,
    maxNumSeqs: 8,
    maxNumBatchedTokens: 64,
    blockSize: 16,
    numKvBlocks: 64,
    threads: null,
    traceKernels: false,
    cacheDir: null,
  })

  // 2. Engine: requests in, token events out.
  const tokenizer = await loadTokenizer(MODEL)
  engine = createEngine({
    runner,
    modelInfo,
    tokenizer,
    chatTemplate: await loadChatTemplate(MODEL, tokenizer),
    options: {
      modelName: 'tiny',
      maxNumSeqs: 8,
      prefixCaching: true,
      runAhead: 1,
      speculation: true,
      maxQueuedRequests: 16,
      maxQueuedTokens: 4096,
    },
  })

  // 3. Observability: subscribes to the engine, which knows nothing of it.
  observability = new Observability({
    serviceVersion: 'test',
    otlpEndpoint: null,
    traceDetail: 'contract',
    traceStoreSize: 10,
    trustRemote: true,
    captureContent: false,
    logLevel: 'info',
    logFile: null,
    logStream: new Writable({
      write(chunk: Buffer, _, done) {
        logLines.push(...chunk.toString().trim().split('\n'))
        done()
      },
    }),
  })

  // 4. Server: OpenAI's wire around it.
  const state = new ServerState(() => [observability.engineSubscriber])
  state.models.add({ engine, samplingDefaults: {}, promptTemplate: null })
  state.ready()
  app = createApp({
    state,
    observability,
    keys: createKeys({ keys: [], adminKey: null, secret: Buffer.alloc(32) }),
    rag: null,
    version: 'test',
    revision: null,
    settings: {
      corsOrigins: [],
      maxQueuedRequests: 16,
      maxRequestBytes: 1 << 20,
      requestTimeoutMs: 30_000,
      defaultSeed: null,
      maxNumSeqs: 64,
    },
  })
})

afterAll(async () => {
  await engine?.close()
  await observability?.shutdown(1000)
})

const post = (path: string, body: object) =>
  app.request(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

it('completes a prompt, leaves a whole trace, and tells the story in the log', async () => {
  const response = await post('/v1/completions', { prompt: 'The river', max_tokens: 8, temperature: 0 })
  expect(response.status).toBe(200)
  const body = (await response.json()) as { choices: { text: string }[]; usage: { completion_tokens: number } }
  expect(body.choices[0]?.text.length).toBeGreaterThan(0)

  const traceId = response.headers.get('x-trace-id') ?? ''
  const trace = JSON.stringify(await (await app.request(`/v1/traces/${traceId}`)).json())
  for (const name of ['http.handler', 'tokenize.input', 'llm.prefill', 'llm.decode', 'format.output']) {
    expect(trace).toContain(`"${name}"`)
  }
  expect(await (await app.request(`/v1/traces/${traceId}/validate`)).json()).toMatchObject({ ok: true, breaches: [] })
  await observability.flush()
  expect(
    logLines.filter((line) => line.includes(traceId)).map((line) => (JSON.parse(line) as { msg: string }).msg),
  ).toEqual(['request.received', 'input.tokenized', 'prefill.done', 'decode.done', 'response.sent'])
})

it('streams the same text, token by token', async () => {
  const prompt = { prompt: 'The river', max_tokens: 8, temperature: 0 }
  const whole = (await (await post('/v1/completions', prompt)).json()) as { choices: { text: string }[] }
  const frames = (await (await post('/v1/completions', { ...prompt, stream: true })).text())
    .split('\n\n')
    .filter(Boolean)
  expect(frames.at(-1)).toBe('data: [DONE]')
  const text = frames
    .slice(0, -1)
    .map((frame) => (JSON.parse(frame.slice(6)) as { choices: { text: string }[] }).choices[0]?.text ?? '')
  expect(text.join('')).toBe(whole.choices[0]?.text)
})

it('serves many at once, each as if it were alone', async () => {
  const prompts = ['The river', 'A cat', 'One day', 'The old house']
  const ask = async (prompt: string) => {
    const response = await post('/v1/completions', { prompt, max_tokens: 8, temperature: 1, seed: 5 })
    return ((await response.json()) as { choices: { text: string }[] }).choices[0]?.text
  }
  const together = await Promise.all(prompts.map(ask))
  for (const [i, prompt] of prompts.entries()) expect(await ask(prompt)).toBe(together[i])
})

it('holds nothing when nothing runs', () => {
  expect(observability.open()).toEqual({ requests: 0, spans: 0, engine: 0 })
  expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 })
})
