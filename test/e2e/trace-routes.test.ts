/**
 * Each generation and retrieval route, ended in each way that one server can be made to: the traces that reach a real OTLP receiver hold the
 * span contract, by the product's validator and by trace-account.ts, and the sums of all of them are the metrics.
 */
import { request as httpRequest } from 'node:http'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { formatBreach, validateTraces } from '../../src/observability/validate.ts'
import { type Route, type RouteName, patternOf, ROUTES } from '../../src/server/routes.ts'
import { OtlpReceiver, type ReceivedSpan, toOtlp } from './otlp-receiver.ts'
import { brokenUpstream, fault, newTrace, PROMPT_EXPORT } from './provocations.ts'
import { ServerProcess } from './server-process.ts'
import { contradictions, linesOf, valueOf } from './trace-account.ts'

/** A request of a route. Bodies that are no bytes are sent as JSON. */
interface Sample {
  readonly path: string
  readonly body?: object | Buffer
  readonly headers?: Readonly<Record<string, string>>
}

/** What a request of a generation route may ask for. */
interface Wishes {
  readonly stream?: boolean
  readonly isLong?: boolean
  readonly rag?: object
  readonly text?: string
}

const KEY = { authorization: 'Bearer k' }
const questionOf = ({ text = 'Where is the mill?' }: Wishes) => text
const messagesOf = (wishes: Wishes) => [{ role: 'user', content: questionOf(wishes) }]
const length = ({ isLong = false }: Wishes, min: number) => (isLong ? 1500 : min)
const common = ({ stream = false, rag, isLong = false }: Wishes) => ({
  stream,
  ...(rag ? { rag } : {}),
  ...(isLong ? { ignore_eos: true } : {}),
})

const GENERATION = {
  createCompletion: (wishes: Wishes) => ({
    ...common(wishes),
    prompt: questionOf(wishes),
    max_tokens: length(wishes, 5),
  }),
  createChatCompletion: (wishes: Wishes) => ({
    ...common(wishes),
    messages: messagesOf(wishes),
    max_completion_tokens: length(wishes, 5),
  }),
  createResponse: (wishes: Wishes) => ({
    ...common(wishes),
    input: questionOf(wishes),
    max_output_tokens: length(wishes, 16),
  }),
  createMessage: (wishes: Wishes) => ({
    ...common(wishes),
    messages: messagesOf(wishes),
    max_tokens: length(wishes, 5),
  }),
}

const QUESTION = { query: 'Who keeps the mill?', index: 'town' }
const MCP = {
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: { name: 'search_documents', arguments: QUESTION },
}

const RETRIEVAL = {
  createEmbeddings: { path: '/v1/embeddings', body: { input: ['The mill', 'The tower'] } },
  rerank: { path: '/v1/rerank', body: { query: 'mill', documents: ['The mill', 'The tower'] } },
  score: { path: '/v1/score', body: { text_1: 'mill', text_2: ['The mill', 'The tower'] } },
  putDocuments: { path: '/v1/rag/documents', body: { index: 'other', documents: [{ id: 'a', text: 'A tower.' }] } },
  putFile: {
    path: '/v1/rag/files?index=other&name=b.txt',
    body: Buffer.from('A bridge.'),
    headers: { 'content-type': 'application/octet-stream' },
  },
  getDocument: { path: '/v1/rag/documents/mill?index=town' },
  deleteDocument: { path: '/v1/rag/documents/spare?index=town' },
  listIndexes: { path: '/v1/rag/indexes' },
  deleteIndex: { path: '/v1/rag/indexes/spare' },
  queryIndex: { path: '/v1/rag/query', body: QUESTION },
  callMcp: { path: '/mcp', body: MCP, headers: { accept: 'application/json, text/event-stream' } },
} satisfies Partial<Record<RouteName, Sample>>

type GenerationRoute = keyof typeof GENERATION
const generationRoutes = Object.keys(GENERATION) as GenerationRoute[]
const retrievalRoutes = Object.keys(RETRIEVAL) as (keyof typeof RETRIEVAL)[]
const shapes = generationRoutes.flatMap((name) => [false, true].map((stream) => ({ name, stream })))

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'

let receiver: OtlpReceiver
/** Two sequences run and eight wait. The slow device keeps the long ones running while the queue fills. */
let server: ServerProcess
/** Little time for a generation, and a vector store that refuses connections. Not at the default level. */
let hurried: ServerProcess | null = null

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  const flags = ['--otlp-traces-endpoint', receiver.url, '--api-key=k']
  const queue = ['--device=reference', '--max-num-seqs=2', '--max-queued-requests=8', '--shutdown-timeout=0.5']
  const noStore = ['--rag-store=pgvector', '--rag-store-url=postgres://127.0.0.1:1/none']
  const env = { ...PROMPT_EXPORT, ...fault('requests') }
  const slow = [...flags, ...noStore, '--request-timeout=1', '--device=reference']
  ;[server, hurried] = await Promise.all([
    ServerProcess.start([...flags, ...queue], env),
    isFull ? ServerProcess.start(slow, PROMPT_EXPORT) : null,
  ])
  const documents = ['mill', 'spare'].map((id) => ({ id, text: `The ${id} stands beside the river.` }))
  for (const index of ['town', 'spare']) {
    const { status } = await server.post('/v1/rag/documents', { index, documents }, KEY)
    expect(status).toBe(200)
  }
})
afterAll(async () => {
  await Promise.all([server?.stop(), hurried?.stop()])
  await receiver?.close()
})

interface Ended {
  readonly what: string
  readonly traceId: string
  readonly status: number | null
  readonly text?: string
}

interface Running {
  readonly what: string
  readonly traceId: string
  readonly abort: AbortController
  readonly response: Promise<Response>
}

/** Sends a request. */
function send(to: ServerProcess, name: RouteName, { path, body, headers }: Sample): Running {
  const { traceId, headers: traced } = newTrace()
  const abort = new AbortController()
  const isBytes = Buffer.isBuffer(body)
  const response = fetch(to.url + path, {
    method: ROUTES[name].method,
    headers: { ...(body && !isBytes ? { 'content-type': 'application/json' } : {}), ...KEY, ...traced, ...headers },
    ...(body ? { body: isBytes ? Uint8Array.from(body) : JSON.stringify(body) } : {}),
    signal: abort.signal,
  })
  response.catch(() => {})
  return { what: `${name} ${body && 'stream' in body && body.stream ? 'streamed' : 'whole'}`, traceId, abort, response }
}

const generate = (to: ServerProcess, name: GenerationRoute, wishes: Wishes, headers = {}): Running =>
  send(to, name, { path: ROUTES[name].path, body: GENERATION[name](wishes), headers })

/** Reads the answer to its end. */
async function ended({ what, traceId, response }: Running): Promise<Ended> {
  const given = await response
  expect(given.headers.get('x-trace-id'), what).toBe(traceId)
  return { what, traceId, status: given.status, text: await given.text() }
}

/** Hangs up. The client has seen a status if the headers came. */
async function left({ what, traceId, response, abort }: Running): Promise<Ended> {
  abort.abort()
  const status = await response.then((given) => given.status).catch(() => null)
  return { what, traceId, status }
}

const spansOf = (traceId: string): ReceivedSpan[] => receiver.spans.filter((span) => span.traceId === traceId)

/** The trees of the requests, each without a breach or a contradiction. */
async function expectTraces(by: ServerProcess, all: readonly Ended[]): Promise<void> {
  const wrong: string[] = []
  for (const { what, traceId, status, text } of all) {
    await receiver.until(() => spansOf(traceId).find(({ name }) => name === 'http.handler') ?? null)
    const spans = spansOf(traceId)
    const lines = await linesOf([by], traceId)
    const account = { spans, lines, status, ...(text === undefined ? {} : { text }) }
    const found = [...contradictions(account), ...validateTraces(toOtlp(spans), 'contract').map(formatBreach)]
    wrong.push(...found.map((fact) => `${what}: ${fact}`))
  }
  expect(wrong).toEqual([])
}

const statusesOf = (all: readonly Ended[]) => [...new Set(all.map(({ status }) => status))]
const nameOfEnd = ({ traceId }: Ended) => {
  const root = spansOf(traceId).find(({ name }) => name === 'http.handler')
  return String(valueOf(root, 'error.type') ?? 'none')
}
const endsOf = (all: readonly Ended[]) => [...new Set(all.map(nameOfEnd))]
const treeOf = ({ traceId }: Ended) => spansOf(traceId).map(({ name }) => name)

/** Resolves when the requests have their first token. */
async function receivedFirst(all: readonly Running[]): Promise<void> {
  for (const { traceId } of all)
    await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'prefill.done')
}

const metricsOf = async (from: ServerProcess): Promise<string> => (await from.get('/metrics', KEY)).text()

/** Asks until the metric has the value, a limited number of times. */
async function expectMetric(from: ServerProcess, name: string, value: number): Promise<void> {
  for (let i = 0; i < 1000; i++) if (new RegExp(`^${name} ${value}$`, 'm').test(await metricsOf(from))) return
  throw new Error(`${name}: expected ${value}, found another value 1000 times`)
}

interface MetricSample {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

function samplesOf(text: string, name: string): MetricSample[] {
  return [...text.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, 'gm'))].map(([, labels = '', value]) => ({
    labels: Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text])),
    value: Number(value),
  }))
}

/** Sums by key, without those of 0. */
function tally(pairs: readonly (readonly [key: string, value: number])[]): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const [key, value] of pairs) if (value !== 0) sums[key] = (sums[key] ?? 0) + value
  return sums
}

const ROUTES_OF_TRACES = new Set(
  Object.values(ROUTES).flatMap((row: Route) => ((row.kind ?? 'other') === 'other' ? [] : [patternOf(row)])),
)

it('knows every route with a trace', () => {
  const traced = Object.entries(ROUTES).filter(([, row]: [string, Route]) => (row.kind ?? 'other') !== 'other')
  expect([...generationRoutes, ...retrievalRoutes].sort()).toEqual(traced.map(([name]) => name).sort())
})

it.each([
  { how: 'success', rag: undefined, size: 5 },
  { how: 'success with retrieval', rag: { index: 'town' }, size: 9 },
])('generation: $how', async ({ rag, size }) => {
  const wishes = rag ? { rag } : {}
  const all = await Promise.all(
    shapes.map(async ({ name, stream }) => ended(generate(server, name, { ...wishes, stream }))),
  )
  expect(statusesOf(all)).toEqual([200])
  await expectTraces(server, all)
  expect(new Set(all.map((one) => treeOf(one).length))).toEqual(new Set([size]))
})

it('generation: several choices, and prompts that are only scored', async () => {
  const bodies = [
    { prompt: ['a', 'b'], n: 2, max_tokens: 4 },
    { prompt: ['a', 'b'], max_tokens: 0, echo: true, logprobs: 1 },
    { prompt: 'a', n: 2, max_tokens: 1, stream: true },
  ]
  const samples = bodies.map((body) => send(server, 'createCompletion', { path: '/v1/completions', body }))
  const all = await Promise.all(samples.map(ended))
  expect(statusesOf(all)).toEqual([200])
  await expectTraces(server, all)
})

it('retrieval: success', async () => {
  const samples = retrievalRoutes.map((name) => send(server, name, RETRIEVAL[name]))
  const all = await Promise.all(samples.map(ended))
  expect(all.filter(({ status }) => status !== 200)).toEqual([])
  const notification = { ...RETRIEVAL.callMcp, body: { jsonrpc: '2.0', method: 'notifications/initialized' } }
  const failing = structuredClone(MCP)
  failing.params.arguments.index = 'nothing'
  for (const sample of [notification, { ...RETRIEVAL.callMcp, body: failing }])
    all.push(await ended(send(server, 'callMcp', sample)))
  expect(all.slice(-2).map(({ status }) => status)).toEqual([202, 200])
  await expectTraces(server, all)
  for (const one of all) expect(treeOf(one), one.what).not.toContain('llm.decode')
})

const WRONG: Readonly<Record<string, Sample>> = {
  createEmbeddings: { path: '/v1/embeddings', body: { input: 7 } },
  rerank: { path: '/v1/rerank', body: { query: 7 } },
  score: { path: '/v1/score', body: { text_1: 7 } },
  putDocuments: { path: '/v1/rag/documents', body: { documents: 7 } },
  putFile: { ...RETRIEVAL.putFile, path: '/v1/rag/files' },
  getDocument: { path: '/v1/rag/documents/nothing?index=town' },
  deleteDocument: { path: '/v1/rag/documents/nothing?index=town' },
  listIndexes: { path: '/v1/rag/indexes', headers: { authorization: 'Bearer wrong' } },
  deleteIndex: { path: '/v1/rag/indexes/nothing' },
  queryIndex: { path: '/v1/rag/query', body: { query: 'x', index: 'nothing' } },
  callMcp: { ...RETRIEVAL.callMcp, headers: { accept: 'text/html' } },
}

it('refused: bodies that are wrong, and keys', async () => {
  const wrong = [{ prompt: 7, input: 7, messages: 7 }, { model: 'nobody' }, { rag: { index: 'nothing' } }, { rag: 7 }]
  const generation = shapes.flatMap(({ name, stream }) =>
    wrong.map((fields) => {
      const body = { ...GENERATION[name]({ stream }), ...fields }
      return ended(send(server, name, { path: ROUTES[name].path, body }))
    }),
  )
  const unknown = { authorization: 'Bearer wrong' }
  const retrieval = retrievalRoutes.flatMap((name) =>
    [WRONG[name] ?? RETRIEVAL[name], { ...RETRIEVAL[name], headers: unknown }].map((sample) =>
      ended(send(server, name, sample)),
    ),
  )
  const keys = shapes.map(({ name, stream }) => ended(generate(server, name, { stream }, unknown)))
  const all = await Promise.all([...generation, ...retrieval, ...keys])
  expect(all.filter(({ status }) => status === null || status < 400 || status > 499)).toEqual([])
  await expectTraces(server, all)
})

it('failed: a handler that throws, a response that something else ends', async () => {
  const all: Ended[] = []
  // One after the other: the fault strikes the next handler.
  for (const { name, stream } of shapes) {
    all.push(await ended(generate(server, name, { stream }, { 'x-fault': 'handler' })))
    if (stream) all.push(await ended(generate(server, name, { stream, isLong: true }, { 'x-fault': 'end' })))
  }
  await expectTraces(server, all)
  expect(endsOf(all).sort()).toEqual(['closed_early', 'exception'])
})

it('left: while the body is read', async () => {
  const routes = [...generationRoutes, ...retrievalRoutes].filter((name) => ROUTES[name].method === 'POST')
  const all = await Promise.all(
    routes.map(async (name) => {
      const { traceId, headers } = newTrace()
      const type = name === 'putFile' ? 'application/octet-stream' : 'application/json'
      const path = name in RETRIEVAL ? RETRIEVAL[name as keyof typeof RETRIEVAL].path : ROUTES[name].path
      const request = httpRequest(server.url + path, {
        method: 'POST',
        headers: { accept: '*/*', ...headers, ...KEY, 'content-type': type, 'content-length': '1000' },
      })
      request.on('error', () => {})
      request.write('{"prompt":')
      await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'request.received')
      request.destroy()
      return { what: name, traceId, status: null }
    }),
  )
  await expectTraces(server, all)
  expect(endsOf(all)).toEqual(['client_disconnect'])
})

it('left: before the first token and in the stream; refused meanwhile: the queue is full', async () => {
  const running = generationRoutes.slice(0, 2).map((name) => generate(server, name, { stream: true, isLong: true }))
  const started = await Promise.all(running.map(async ({ response }) => (await response).status))
  expect(started).toEqual([200, 200])
  await receivedFirst(running)
  const waiting = shapes.map(({ name, stream }) => generate(server, name, { stream }))
  await expectMetric(server, 'miniserve_num_requests_waiting', 8)
  const refused = await Promise.all(shapes.map(({ name, stream }) => ended(generate(server, name, { stream }))))
  expect(statusesOf(refused)).toEqual([429])
  const gone = await Promise.all(waiting.map((one) => left(one)))
  const others = await Promise.all(running.map((one) => left(one)))
  const late = generationRoutes.slice(2).map((name) => generate(server, name, { stream: true, isLong: true }))
  await receivedFirst(late)
  others.push(...(await Promise.all(late.map((one) => left(one)))))
  await expectTraces(server, [...refused, ...gone, ...others])
  expect(endsOf([...gone, ...others])).toEqual(['client_disconnect'])
  for (const one of gone) expect(treeOf(one), one.what).not.toContain('llm.prefill')
  for (const one of others) expect(treeOf(one), one.what).toContain('llm.decode')
})

it.runIf(isFull)('failed: the time limit, and a vector store that is down', async () => {
  const to = hurried!
  const withRag = shapes.map(({ name, stream }) => generate(to, name, { stream, rag: { index: 'town' } }))
  const broken = await Promise.all(withRag.map(ended))
  const retrieval = await Promise.all(retrievalRoutes.map((name) => ended(send(to, name, RETRIEVAL[name]))))
  const long = shapes.map(({ name, stream }) => generate(to, name, { stream, isLong: true }))
  const late = await Promise.all(long.map(ended))
  await expectTraces(to, [...broken, ...retrieval, ...late])
  expect(endsOf(broken)).toEqual(['engine_error'])
  expect(endsOf(late)).toEqual(['deadline'])
})

it.runIf(isFull)('failed: an engine behind the server', async () => {
  const upstream = await brokenUpstream()
  const flags = [`--engine-url=${upstream.url}`, '--otlp-traces-endpoint', receiver.url, '--api-key=k']
  const remote = await ServerProcess.start(flags, PROMPT_EXPORT)
  try {
    const texts = ['fail', 'break']
    const asked = shapes.flatMap(({ name, stream }) => texts.map((text) => generate(remote, name, { stream, text })))
    const all = await Promise.all(asked.map(ended))
    await expectTraces(remote, all)
    expect(endsOf(all)).toEqual(['engine_error'])
  } finally {
    await remote.stop()
    upstream.server.closeAllConnections()
    upstream.server.close()
  }
})

it.runIf(isFull)('failed: the process crashes', async () => {
  const flags = ['--device=reference', '--otlp-traces-endpoint', receiver.url, '--api-key=k']
  const doomed = await ServerProcess.start(flags, { ...PROMPT_EXPORT, ...fault('requests') })
  try {
    const running = shapes.map(({ name, stream }) => generate(doomed, name, { stream, isLong: true }))
    for (const { traceId } of running)
      await doomed.waitForLog((line) => line.trace_id === traceId && line.msg === 'prefill.done')
    await doomed.get('/health', { 'x-fault': 'crash' }).catch(() => {})
    await doomed.exited
    const all = running.map(({ what, traceId }) => ({ what, traceId, status: null }))
    await expectTraces(doomed, all)
    expect(endsOf(all)).toEqual(['exception'])
  } finally {
    await doomed.stop()
  }
})

/** A prompt that is only scored is counted under the conventions' name alone. */
function tokensOf(root: ReceivedSpan, key: string): number | null {
  const isScored = valueOf(root, 'llm.scored') === true
  const value = valueOf(root, isScored && key === 'llm.tokens.in' ? 'gen_ai.usage.input_tokens' : key)
  return value === undefined ? null : Number(value)
}

it('sums up to the metrics', async () => {
  for (const one of hurried ? [server, hurried] : [server]) {
    const text = await metricsOf(one)
    expect(text).not.toMatch(/^miniserve_trace_breaches_total\{/m)
    expect(text).toMatch(/^miniserve_trace_leaks_total 0$/m)
    const endings = samplesOf(text, 'miniserve_requests_total').filter(({ labels }) =>
      ROUTES_OF_TRACES.has(labels['route'] ?? ''),
    )
    const total = endings.reduce((sum, { value }) => sum + value, 0)
    const ids = new Set(one.logs.map((line) => line.trace_id))
    const roots = await receiver.until(() => {
      const found = receiver.spans.filter(({ name, traceId }) => name === 'http.handler' && ids.has(traceId))
      return found.length >= total ? found : null
    })
    expect(tally(endings.map(({ labels, value }) => [`${labels['route']} ${labels['status']}`, value]))).toEqual(
      tally(roots.map((root) => [`${valueOf(root, 'http.route')} ${valueOf(root, 'http.status_code') ?? 'none'}`, 1])),
    )
    const durations = samplesOf(text, 'gen_ai_server_request_duration_seconds_count')
    expect(tally(durations.map(({ labels, value }) => [labels['error_type'] ?? '', value]))).toEqual(
      tally(roots.map((root) => [String(valueOf(root, 'error.type') ?? ''), 1])),
    )
    for (const [metric, key] of [
      ['miniserve_prompt_tokens_total', 'llm.tokens.in'],
      ['miniserve_generation_tokens_total', 'llm.tokens.out'],
    ] as const) {
      const sum = samplesOf(text, metric).reduce((all, { value }) => all + value, 0)
      expect(sum, metric).toBe(roots.reduce((all, root) => all + (tokensOf(root, key) ?? 0), 0))
    }
  }
})

it('failed: the server stops', async () => {
  const running = generationRoutes.slice(0, 2).map((name) => generate(server, name, { stream: true, isLong: true }))
  await receivedFirst(running)
  const waiting = shapes.map(({ name, stream }) => generate(server, name, { stream, isLong: true }))
  await expectMetric(server, 'miniserve_num_requests_waiting', 8)
  server.signal('SIGTERM')
  await server.waitForLog(({ msg }) => msg === 'server.draining')
  const admitted = retrievalRoutes.filter((name) => 'pool' in ROUTES[name])
  const late = [
    ...generationRoutes.map((name) => ended(generate(server, name, {}))),
    ...admitted.map((name) => ended(send(server, name, RETRIEVAL[name]))),
  ]
  const all = await Promise.all([...running, ...waiting].map(ended))
  const refused = await Promise.all(late)
  await server.exited
  await expectTraces(server, [...all, ...refused])
  expect(endsOf(all)).toEqual(['shutdown'])
  expect(statusesOf(refused)).toEqual([503])
  const stopped = server.logs.find(({ msg }) => msg === 'telemetry.stopped')
  expect(stopped).toMatchObject({ open_requests: 0, open_spans: 0, dropped: 0 })
})
