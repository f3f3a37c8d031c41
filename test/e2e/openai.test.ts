/** What OpenAI's own client expects of a server, against the real process. */
import { once } from 'node:events'
import { connect } from 'node:net'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readFrames, ServerProcess } from './server-process.ts'

let server: ServerProcess
let client: OpenAI
let model: string

beforeAll(async () => {
  server = await ServerProcess.start([
    '--api-key',
    'k1',
    '--api-key',
    'k2',
    '--admin-key',
    'boss',
    '--cors-origin',
    'http://app.test',
  ])
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'k1', maxRetries: 0 })
  model = (await client.models.list()).data[0]?.id ?? ''
})

afterAll(async () => {
  await server?.stop()
})

const KEY = { authorization: 'Bearer k1' }

interface Completion {
  readonly id: string
  readonly choices: readonly {
    readonly text: string
    readonly finish_reason: string
    readonly token_ids: number[]
    readonly logprobs: {
      readonly tokens: string[]
      readonly token_logprobs: (number | null)[]
      readonly text_offset: number[]
    } | null
  }[]
  readonly usage: {
    readonly prompt_tokens: number
    readonly completion_tokens: number
    readonly prompt_tokens_details: { readonly cached_tokens: number }
  }
  readonly timings: Readonly<Record<string, number>>
}

async function complete(body: object): Promise<Completion> {
  const response = await server.post('/v1/completions', { prompt: 'The river', max_tokens: 8, ...body }, KEY)
  expect(response.status).toBe(200)
  return (await response.json()) as Completion
}

describe('completions', () => {
  it('streams the text that it gives at once', async () => {
    const whole = await client.completions.create({ model, prompt: 'The river', max_tokens: 24, temperature: 0 })
    const stream = await client.completions.create({
      model,
      prompt: 'The river',
      max_tokens: 24,
      temperature: 0,
      stream: true,
    })
    let text = ''
    let finish: string | null = null
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? ''
      finish = chunk.choices[0]?.finish_reason ?? finish
    }
    expect(text).toBe(whole.choices[0]?.text)
    expect(finish).toBe(whole.choices[0]?.finish_reason)
    expect(whole.id).toMatch(/^cmpl-/)
  })

  it('gives the likeliest of best_of, per token, and counts all of them', async () => {
    const drawn = { temperature: 1.5, seed: 4, max_tokens: 8 }
    const { choices, usage } = await complete({ ...drawn, n: 5, logprobs: 0 })
    const ranked = choices
      .map(({ text, logprobs }) => {
        const values = logprobs?.token_logprobs ?? []
        return { text, mean: values.reduce<number>((sum, value) => sum + (value ?? 0), 0) / values.length }
      })
      .sort((a, b) => b.mean - a.mean)
    const best = await complete({ ...drawn, n: 2, best_of: 5 })
    expect(best.choices.map(({ text }) => text)).toEqual(ranked.slice(0, 2).map(({ text }) => text))
    expect(best.choices[0]?.logprobs).toBeNull()
    expect(best.usage.completion_tokens).toBe(usage.completion_tokens)
  })

  it('gives the same text for the same seed and another for another', async () => {
    const draw = async (seed: number) => (await complete({ seed, temperature: 1.2, max_tokens: 24 })).choices[0]?.text
    expect(await draw(7)).toBe(await draw(7))
    expect(new Set(await Promise.all([1, 2, 3, 4].map(draw))).size).toBeGreaterThan(1)
  })

  it('takes lists of prompts and n, and indexes choices prompt by prompt', async () => {
    const { choices, usage } = await complete({ prompt: ['The river', 'A cat'], n: 2, temperature: 0, max_tokens: 4 })
    expect(choices).toHaveLength(4)
    expect(choices[0]?.text).toBe(choices[1]?.text)
    const [one, two] = await Promise.all([
      complete({ prompt: 'The river', max_tokens: 1 }),
      complete({ prompt: 'A cat', max_tokens: 1 }),
    ])
    expect(usage.prompt_tokens).toBe(one.usage.prompt_tokens + two.usage.prompt_tokens)
  })

  it('stops at a stop string and leaves it out', async () => {
    const free = await complete({ temperature: 0, max_tokens: 24, ignore_eos: true })
    const text = free.choices[0]?.text ?? ''
    const stop = text.slice(3, 6)
    const cut = await complete({ temperature: 0, max_tokens: 24, ignore_eos: true, stop })
    expect(cut.choices[0]?.text).toBe(text.slice(0, text.indexOf(stop)))
    expect(cut.choices[0]?.finish_reason).toBe('stop')
  })

  it('scores a prompt: echo, logprobs and no new tokens', async () => {
    const { choices, usage } = await complete({ prompt: 'The river runs', max_tokens: 0, echo: true, logprobs: 1 })
    const [choice] = choices
    expect(choice?.text).toBe('The river runs')
    expect(choice?.logprobs?.tokens.join('')).toBe('The river runs')
    expect(choice?.logprobs?.token_logprobs[0]).toBeNull()
    expect(choice?.logprobs?.token_logprobs.slice(1).every((value) => value !== null && value < 0)).toBe(true)
    expect(usage.completion_tokens).toBe(0)
  })

  it('tells the prefill of a scored prompt like any other', async () => {
    const body = { prompt: ['The river runs', 'A cat sleeps'], max_tokens: 0, echo: true, logprobs: 1 }
    const response = await server.post('/v1/completions', body, KEY)
    const { timings } = (await response.json()) as { timings: { prefill_ms: number; ttft_ms: number } }
    expect(timings).toMatchObject({ prefill_ms: expect.any(Number) as number, ttft_ms: 0 })
    expect(timings.prefill_ms).toBeGreaterThan(0)
    expect(response.headers.get('server-timing')).toContain(`llm.prefill;dur=${timings.prefill_ms},`)
    const id = response.headers.get('x-trace-id')
    await server.waitForLog((line) => line.trace_id === id && line.msg === 'response.sent')
    const lines = server.logs.filter((line) => line.trace_id === id)
    expect(lines.filter((line) => line.msg === 'prefill.done')).toMatchObject([{ duration_ms: timings.prefill_ms }])
    expect(lines.map((line) => line.msg)).not.toContain('decode.done')
  })

  it('takes token ids and gives them back', async () => {
    const tokenized = (await (await server.post('/tokenize', { prompt: 'The river' }, KEY)).json()) as {
      tokens: number[]
      count: number
    }
    expect(tokenized.count).toBe(tokenized.tokens.length)
    const back = (await (await server.post('/detokenize', { tokens: tokenized.tokens }, KEY)).json()) as {
      prompt: string
    }
    expect(back.prompt).toContain('The river')
    const byText = await complete({ temperature: 0, return_token_ids: true })
    const byIds = await complete({ prompt: tokenized.tokens, temperature: 0, return_token_ids: true })
    expect(byIds.choices[0]?.text).toBe(byText.choices[0]?.text)
    expect(byIds.choices[0]?.token_ids).toHaveLength(byIds.usage.completion_tokens)
  })

  it('says what it served from the cache, and how long it took, without being asked', async () => {
    const prompt = 'Once there was a long road between two towns, and along the road stood an old house. '.repeat(4)
    const cold = await complete({ prompt })
    const warm = await complete({ prompt })
    expect(cold.usage.prompt_tokens_details.cached_tokens).toBeLessThan(16)
    expect(warm.usage.prompt_tokens_details.cached_tokens).toBe(warm.usage.prompt_tokens - 1)
    expect(Object.keys(warm.timings)).toEqual([
      'grammar_ms',
      'queue_ms',
      'prefill_ms',
      'decode_ms',
      'ttft_ms',
      'tokens_per_second',
    ])
  })

  it('shares no cache between keys', async () => {
    const prompt = 'This prompt belongs to one tenant and to nobody else at all, whoever may ask for it. '.repeat(3)
    await complete({ prompt })
    const other = await server.post('/v1/completions', { prompt, max_tokens: 1 }, { authorization: 'Bearer k2' })
    expect(((await other.json()) as Completion).usage.prompt_tokens_details.cached_tokens).toBe(0)
    await complete({ prompt, cache_salt: 'the same' })
    const salted = { prompt, max_tokens: 1, cache_salt: 'the same' }
    const chosen = await server.post('/v1/completions', salted, { authorization: 'Bearer k2' })
    expect(((await chosen.json()) as Completion).usage.prompt_tokens_details.cached_tokens).toBe(0)
  })
})

describe('echo in a stream', () => {
  it('gives the prompt back with its log-probabilities', async () => {
    const body = { prompt: 'The river runs', max_tokens: 2, echo: true, logprobs: 1, temperature: 0 }
    const whole = await complete(body)
    const frames = await readFrames(await server.post('/v1/completions', { ...body, stream: true }, KEY))
    const choices = frames.slice(0, -1).flatMap((frame) => (frame as Completion).choices)
    expect(choices.map((choice) => choice.text).join('')).toBe(whole.choices[0]?.text)
    expect(choices.flatMap((choice) => choice.logprobs?.tokens ?? [])).toEqual(whole.choices[0]?.logprobs?.tokens)
    expect(choices.flatMap((choice) => choice.logprobs?.text_offset ?? [])).toEqual(
      whole.choices[0]?.logprobs?.text_offset,
    )
  })
})

it('a schema that takes long to compile holds up no other stream, and is given up with its client', async () => {
  const known = { structured_outputs: { choice: ['yes'] } }
  expect((await complete(known)).choices[0]?.text).toBe('yes')
  // Takes the grammar library many seconds, whatever the machine.
  const properties = Object.fromEntries(
    Array.from({ length: 300 }, (_, i) => [`property${i}`, { type: 'string', maxLength: 50 }]),
  )
  const schema = { type: 'object', properties }
  const order: string[] = []
  const abort = new AbortController()
  const giant = client.completions
    .create({ model, prompt: 'x', response_format: { type: 'json_schema', json_schema: { schema } } } as never, {
      signal: abort.signal,
    })
    .then(
      () => order.push('answered'),
      () => order.push('gone'),
    )
  const stream = await client.completions.create({ model, prompt: 'The river', max_tokens: 32, stream: true })
  for await (const chunk of stream) if (chunk.choices[0]?.finish_reason) order.push('free')
  expect((await complete(known)).choices[0]?.text).toBe('yes')
  order.push('known')
  abort.abort()
  await giant
  expect(order).toEqual(['free', 'known', 'gone'])
  expect((await complete({ structured_outputs: { choice: ['new'] } })).choices[0]?.text).toBe('new')
})

describe('chat', () => {
  it('answers, streams with a role first, and ends with usage when asked', async () => {
    const messages = [{ role: 'user' as const, content: 'What is a river?' }]
    const whole = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0 })
    expect(whole.choices[0]?.message.role).toBe('assistant')
    const stream = await client.chat.completions.create({
      model,
      messages,
      max_tokens: 12,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: 'assistant', content: '' })
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe(
      whole.choices[0]?.message.content,
    )
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: whole.usage?.completion_tokens } })
  })

  it('shows tools, calls, results and late system messages to the bundled model', async () => {
    const user = { role: 'user', content: 'What is 1 + 2?' }
    const tools = [{ type: 'function', function: { name: 'add', parameters: {} } }]
    const call = { id: 'c1', type: 'function', function: { name: 'add', arguments: '' } }
    for (const fields of [
      { messages: [user], tools },
      { messages: [user, { role: 'assistant', content: null, tool_calls: [call] }] },
      { messages: [user, { role: 'tool', tool_call_id: 'c1', content: '3' }] },
      { messages: [user, { role: 'system', content: 'Be brief.' }, user] },
    ]) {
      const response = await server.post('/v1/chat/completions', { max_tokens: 1, ...fields }, KEY)
      expect([response.status, await response.json()]).toMatchObject([200, { object: 'chat.completion' }])
    }
    const body = { messages: [user], tools, tool_choice: 'required', parallel_tool_calls: false, max_tokens: 60 }
    const answer: unknown = await (await server.post('/v1/chat/completions', body, KEY)).json()
    expect(answer).toMatchObject({
      choices: [
        { finish_reason: 'tool_calls', message: { tool_calls: [{ function: { name: 'add', arguments: '{}' } }] } },
      ],
    })
    const broken = { messages: [user], tools: [{ type: 'function' }], max_tokens: 1 }
    expect((await server.post('/v1/chat/completions', broken, KEY)).status).toBe(400)
  })

  it('gives logprobs with alternatives', async () => {
    const answer = await client.chat.completions.create({
      model,
      messages: [{ role: 'user', content: 'Hello' }],
      max_tokens: 3,
      logprobs: true,
      top_logprobs: 2,
      temperature: 0,
    })
    const [first] = answer.choices[0]?.logprobs?.content ?? []
    expect(first?.top_logprobs).toHaveLength(2)
    expect(first?.logprob).toBe(first?.top_logprobs[0]?.logprob)
  })
})

describe('errors', () => {
  it.each([
    [{ prompt: 'x', max_tokens: 'many' }, 'max_tokens'],
    [{ prompt: 'x', temperature: 3 }, 'temperature'],
    [{ prompt: 'x', n: 0 }, 'n'],
    [{ prompt: 'x', suffix: 'y' }, 'suffix'],
    [{ prompt: 'x', n: 2, best_of: 1 }, 'best_of'],
    [{ prompt: 'x', best_of: 2, stream: true }, 'best_of'],
    [{ prompt: 'x', stream_options: { include_usage: true } }, 'stream_options'],
    [{ prompt: ['a', 'b'], rag: true }, 'prompt'],
    [{ prompt: 'x', rag: { top_k: 0 } }, 'rag.top_k'],
    [{ max_tokens: 1 }, 'prompt'],
  ])('%j is a 400 that names %s', async (body, param) => {
    const response = await server.post('/v1/completions', body, KEY)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param } })
  })

  it('a prompt that is too long says so by its code', async () => {
    const response = await server.post('/v1/completions', { prompt: Array.from({ length: 50_000 }, () => 9) }, KEY)
    expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded', param: 'prompt' } })
    const messages = [{ role: 'user', content: 'to be '.repeat(20_000) }]
    const chat = await server.post('/v1/chat/completions', { messages }, KEY)
    expect(await chat.json()).toMatchObject({ error: { code: 'context_length_exceeded', param: 'messages' } })
  })
})

describe('the edge', () => {
  it('puts ids on every response, and takes the request id of the caller', async () => {
    for (const path of ['/health', '/nowhere', '/v1/models', '/metrics']) {
      const response = await server.get(path, { ...KEY, 'x-request-id': 'mine-1' })
      expect(response.headers.get('x-trace-id'), path).toMatch(/^[0-9a-f]{32}$/)
      expect(response.headers.get('x-request-id'), path).toBe('mine-1')
    }
    const odd = await server.get('/health', { 'x-request-id': 'no spaces please' })
    expect(odd.headers.get('x-request-id')).toMatch(/^req-/)
  })

  it.each([
    ['OPTIONS * HTTP/1.1', 'localhost'],
    ['GET /health HTTP/1.1', 'a b/c'],
  ])('puts ids on the answer to %s with Host: %s', async (line, host) => {
    const { hostname, port } = new URL(server.url)
    const socket = connect(Number(port), hostname)
    socket.setEncoding('utf8').end(`${line}\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
    let text = ''
    socket.on('data', (chunk: string) => (text += chunk))
    await once(socket, 'close')
    expect(text).toMatch(/^HTTP\/1\.1 400 /)
    expect(text).toMatch(/^x-trace-id: [0-9a-f]{32}\r$/im)
    expect(text).toContain('"type":"invalid_request_error"')
  })

  it('leaves only the probes open without a key', async () => {
    for (const [path, status] of [
      ['/health', 200],
      ['/ready', 200],
      ['/metrics', 401],
      ['/v1/models', 401],
      ['/traces', 401],
    ] as const) {
      expect((await server.get(path)).status, path).toBe(status)
    }
    expect((await server.get('/v1/models', { 'x-api-key': 'k2' })).status).toBe(200)
  })

  it('shows a trace to the key that made it and to the admin', async () => {
    const response = await server.post('/v1/completions', { prompt: 'x', max_tokens: 1 }, KEY)
    await response.text()
    const path = `/v1/traces/${response.headers.get('x-trace-id')}`
    expect((await server.get(path, KEY)).status).toBe(200)
    expect((await server.get(path, { authorization: 'Bearer boss' })).status).toBe(200)
    expect((await server.get(path, { authorization: 'Bearer k2' })).status).toBe(404)
  })

  it('answers a browser from the allowed origin only', async () => {
    const preflight = (origin: string) =>
      fetch(`${server.url}/v1/completions`, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'POST' },
      })
    expect((await preflight('http://app.test')).headers.get('access-control-allow-origin')).toBe('http://app.test')
    expect((await preflight('http://evil.test')).headers.get('access-control-allow-origin')).toBeNull()
  })

  it('describes itself', async () => {
    const document = (await (await server.get('/openapi.json', KEY)).json()) as { paths: Record<string, unknown> }
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(['/v1/completions', '/v1/chat/completions', '/v1/rag/query']),
    )
    expect(await (await server.get('/version', KEY)).json()).toMatchObject({ version: '0.1.0' })
  })
})

it('ends a stream with [DONE] after the usage and the timings', async () => {
  const response = await server.post('/v1/completions', { prompt: 'The river', max_tokens: 3, stream: true }, KEY)
  const frames = await readFrames(response)
  expect(frames.at(-1)).toBe('[DONE]')
  expect(frames.at(-2)).toMatchObject({
    usage: { completion_tokens: expect.any(Number) },
    timings: { ttft_ms: expect.any(Number) },
  })
})
