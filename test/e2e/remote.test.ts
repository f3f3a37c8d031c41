/** A miniserve before another one: same answers, one trace across both, and failures of the far one told in the near one's terms. */
import { spawnSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endingRow } from '../../src/observability/endings.ts'
import { BUNDLED_MODEL } from './models.ts'
import { OtlpReceiver, type ReceivedSpan } from './otlp-receiver.ts'
import { MAIN, readFrames, ServerProcess } from './server-process.ts'

let receiver: OtlpReceiver
let upstream: ServerProcess
let outer: ServerProcess

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  upstream = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url])
  outer = await ServerProcess.start(['--otlp-traces-endpoint', receiver.url, '--engine-url', `${upstream.url}/v1`])
})

afterAll(async () => {
  await outer?.stop()
  await upstream?.stop()
  await receiver?.close()
})

const COMPLETION = { prompt: 'The river', max_tokens: 12, temperature: 0 }
const CHAT = { messages: [{ role: 'user', content: 'Say hello.' }], max_tokens: 12, temperature: 0 }
const LONG = { prompt: 'The river', max_tokens: 2000, ignore_eos: true }

interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
}

interface Answer {
  readonly choices: readonly {
    readonly text?: string
    readonly message?: { readonly content: string }
    readonly delta?: { readonly content?: string }
    readonly finish_reason: string | null
  }[]
  readonly usage?: Usage | null
}

const textOf = ({ choices }: Answer) =>
  choices.map(({ text, message, delta }) => text ?? message?.content ?? delta?.content ?? '').join('')

/** Text, reason and token counts of an answer, whole or in frames. */
async function answerOf(server: ServerProcess, path: string, body: object) {
  const response = await server.post(path, body)
  expect(response.status).toBe(200)
  const parts =
    'stream' in body
      ? (await readFrames(response)).filter((frame) => frame !== '[DONE]').map((frame) => frame as Answer)
      : [(await response.json()) as Answer]
  const usage = parts.findLast((part) => part.usage)?.usage
  return {
    text: parts.map(textOf).join(''),
    reason: parts.flatMap(({ choices }) => choices.map((choice) => choice.finish_reason)).findLast(Boolean),
    promptTokens: usage?.prompt_tokens,
    completionTokens: usage?.completion_tokens,
  }
}

/** Running requests of a server, as its /metrics tells them. */
async function numRunning(server: ServerProcess): Promise<number> {
  const text = await (await server.get('/metrics')).text()
  return Number(/^miniserve_num_requests_running(?:\{[^}]*\})? (\S+)$/m.exec(text)?.[1])
}

const traceOf = (response: Response) => response.headers.get('x-trace-id') ?? ''
const rootsOf = (traceId: string) =>
  receiver.spans.filter((span) => span.traceId === traceId && span.name === 'http.handler')

/** The near root of a trace: the one that has no parent. */
const outerRoot = (traceId: string): Promise<ReceivedSpan> =>
  receiver.until(() => rootsOf(traceId).find((span) => span.parentSpanId === '') ?? null)

/** The far root of a trace: the near root's child. */
const upstreamRoot = (traceId: string): Promise<ReceivedSpan> =>
  receiver.until(() => rootsOf(traceId).find((span) => span.parentSpanId !== '') ?? null)

describe('answers', () => {
  it.each([
    ['a completion', '/v1/completions', COMPLETION],
    ['a stream', '/v1/completions', { ...COMPLETION, stream: true }],
    ['a chat', '/v1/chat/completions', CHAT],
    [
      'a stream of a chat that asks for its usage',
      '/v1/chat/completions',
      { ...CHAT, stream: true, stream_options: { include_usage: true } },
    ],
  ])('%s has the text and the usage that the other server gives', async (_, path, body) => {
    const direct = await answerOf(upstream, path, body)
    const through = await answerOf(outer, path, body)
    expect(direct.text).not.toBe('')
    expect(direct.promptTokens).toBeGreaterThan(0)
    expect(direct.completionTokens).toBeGreaterThan(0)
    expect(through).toEqual(direct)
  })

  it('lists the other server as its model', async () => {
    const { data } = (await (await outer.get('/v1/models')).json()) as { data: { id: string }[] }
    const far = (await (await upstream.get('/v1/models')).json()) as { data: { id: string }[] }
    expect(data.map(({ id }) => id)).toEqual(far.data.map(({ id }) => id))
  })

  it('refuses another model', async () => {
    const response = await outer.post('/v1/completions', { ...COMPLETION, model: 'gpt-5' })
    expect(response.status).toBe(404)
    const { error } = (await response.json()) as { error: { code: string } }
    expect(error.code).toBe('model_not_found')
  })

  it('does not start with two models of one name, here and there', () => {
    const models = ['--engine-url', `${upstream.url}/v1`, '--model', `mini-1m=${BUNDLED_MODEL}`]
    const ended = spawnSync(process.execPath, [MAIN, '--port', '0', ...models], { encoding: 'utf8', timeout: 60_000 })
    expect(ended).toMatchObject({ status: 1, stderr: expect.stringContaining('its model is called mini-1m') })
  })
})

describe('the trace', () => {
  it.each([{ stream: false }, { stream: true }])('is one across both servers, with %j', async (body) => {
    const response = await outer.post('/v1/completions', { ...COMPLETION, ...body })
    const usage = Number(/"completion_tokens":(\d+)/.exec(await response.text())?.[1])
    const spans = await receiver.trace(traceOf(response), 11)
    const root = spans.find((span) => span.name === 'http.handler' && span.parentSpanId === '')
    const call = spans.find((span) => span.kind === 'SPAN_KIND_CLIENT')
    expect(call?.parentSpanId).toBe(root?.spanId)
    expect(call?.attributes['http.response.status_code']?.intValue?.toString()).toBe('200')
    expect(call?.attributes['server.address']?.stringValue).toBe('127.0.0.1')
    const far = spans.find((span) => span.name === 'http.handler' && span.parentSpanId === call?.spanId)
    expect(far).toBeDefined()
    const children = (parent: ReceivedSpan | undefined) =>
      spans
        .filter((span) => span.parentSpanId === parent?.spanId)
        .map((span) => span.name)
        .sort((a, b) => a.localeCompare(b))
    const tree = ['format.output', 'llm.decode', 'llm.prefill', 'tokenize.input']
    expect(children(root)).toEqual([
      'format.output',
      'llm.decode',
      'llm.prefill',
      'POST /v1/completions',
      'tokenize.input',
    ])
    expect(children(far)).toEqual(tree)
    expect(spans).toHaveLength(11)
    const own = (name: string) => spans.find((span) => span.name === name && span.parentSpanId === root?.spanId)
    expect(own('tokenize.input')?.attributes['tokenizer.name']?.stringValue).toBe('remote')
    for (const span of [root, own('llm.decode'), own('format.output'), far])
      expect(Number(String(span?.attributes['llm.tokens.out']?.intValue))).toBe(usage)
  })
})

describe('endings', () => {
  it('a client that goes away frees the request on the other server', async () => {
    const abort = new AbortController()
    const response = await outer.post('/v1/completions', { ...LONG, stream: true }, {}, abort.signal)
    await response.body?.getReader().read()
    expect(await numRunning(upstream)).toBe(1)
    abort.abort()
    for (const root of [await outerRoot(traceOf(response)), await upstreamRoot(traceOf(response))]) {
      const last = root.events.at(-1)
      expect(last?.name).toBe('request.aborted')
      expect(last?.attributes['reason']?.stringValue).toBe(endingRow('client_disconnect', 200).reason)
    }
    expect(await numRunning(upstream)).toBe(0)
    expect(await numRunning(outer)).toBe(0)
  })

  // The last test: it stops the other server.
  it('a server that has gone is an engine error', async () => {
    await upstream.stop()
    const response = await outer.post('/v1/completions', COMPLETION)
    expect(response.status).toBe(502)
    const root = await outerRoot(traceOf(response))
    const row = endingRow('engine_error', 502)
    expect(Number(String(root.attributes['http.status_code']?.intValue))).toBe(502)
    expect(root.status).toBe('STATUS_CODE_ERROR')
    expect(root.attributes['error.type']?.stringValue).toBe(row.errorType)
    expect(root.events.at(-1)?.name).toBe(row.event)
  })
})
