/** Canaries: what a caller writes appears in no log line, span, metric or error, on any route. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { OtlpReceiver } from './otlp-receiver.ts'
import { ServerProcess } from './server-process.ts'

const CANARY = 'zebrafinch-4711'

let receiver: OtlpReceiver
let server: ServerProcess

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  server = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url, '--log-level', 'trace'])
})

afterAll(async () => {
  await server?.stop()
  await receiver?.close()
})

it('keeps what callers write out of logs, spans, metrics, the store and error bodies', async () => {
  const requests: readonly (readonly [string, unknown])[] = [
    ['/v1/completions', { prompt: CANARY, max_tokens: 4 }],
    ['/v1/completions', { prompt: CANARY, max_tokens: 4, stream: true, stop: CANARY, user: CANARY }],
    ['/v1/completions', { prompt: CANARY, max_tokens: CANARY }],
    ['/v1/completions', { prompt: CANARY, model: CANARY }],
    ['/v1/completions', `{"prompt": "${CANARY}", `],
    ['/v1/completions', { prompt: CANARY, response_format: { type: CANARY } }],
    ['/v1/completions', { prompt: CANARY, [CANARY]: 1, rag: { index: CANARY } }],
    ['/v1/chat/completions', { messages: [{ role: 'user', content: CANARY }], max_tokens: 4 }],
    ['/v1/chat/completions', { messages: [{ role: CANARY, content: CANARY }] }],
    ['/tokenize', { prompt: CANARY }],
    ['/v1/embeddings', { input: CANARY }],
    ['/v1/rerank', { query: CANARY, documents: [CANARY] }],
    [
      '/v1/rag/documents',
      { index: 'canary', documents: [{ id: 'a', text: `${CANARY} is here.`, metadata: { note: CANARY } }] },
    ],
    ['/v1/rag/query', { index: 'canary', query: CANARY }],
    ['/v1/completions', { prompt: CANARY, rag: { index: 'canary' }, max_tokens: 4 }],
    ['/nowhere', { prompt: CANARY }],
  ]
  const traceIds: string[] = []
  for (const [path, body] of requests) {
    const response = await server.post(path, body, { 'user-agent': CANARY, 'x-note': CANARY })
    const text = await response.text()
    traceIds.push(response.headers.get('x-trace-id') ?? '')
    if (response.status >= 400) expect(text, `the error of ${path}`).not.toContain(CANARY)
  }
  const stored = await Promise.all(traceIds.map(async (id) => (await server.get(`/v1/traces/${id}`)).text()))
  const pages = await Promise.all(traceIds.map(async (id) => (await server.get(`/traces/${id}`)).text()))
  const metrics = await (await server.get('/metrics')).text()
  await server.stop()
  const spans = JSON.stringify(receiver.spans, (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString() : value,
  )
  expect(receiver.spans.length).toBeGreaterThan(20)
  for (const [where, text] of Object.entries({
    log: JSON.stringify(server.logs),
    stderr: server.stderr,
    spans,
    stored: stored.join(),
    pages: pages.join(),
    metrics,
  })) {
    expect(text.includes(CANARY), where).toBe(false)
  }
})

it('puts content on spans only when MINISERVE_CAPTURE_CONTENT asks for it', async () => {
  const own = await ServerProcess.start([], { MINISERVE_CAPTURE_CONTENT: 'true' })
  try {
    for (const stream of [false, true]) {
      const response = await own.post('/v1/completions', { prompt: CANARY, max_tokens: 2, stream })
      await response.text()
      const trace = await (await own.get(`/v1/traces/${response.headers.get('x-trace-id')}`)).text()
      expect(trace).toContain(CANARY)
      expect(trace).toContain('gen_ai.output.messages')
    }
  } finally {
    await own.stop()
  }
})
