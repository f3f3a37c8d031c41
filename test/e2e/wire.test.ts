/** The corners of OpenAI's wire, and the words of other servers: each is honoured, or refused by name. */
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readFrames, ServerProcess } from './server-process.ts'

let server: ServerProcess
beforeAll(async () => {
  server = await ServerProcess.start()
})
afterAll(async () => {
  await server?.stop()
})

const CHAT = { messages: [{ role: 'user', content: 'Say something' }], max_tokens: 8, temperature: 0 }
const TEXT = { prompt: 'The river', max_tokens: 4, temperature: 0, ignore_eos: true }

interface Answer {
  readonly choices: readonly {
    readonly text: string
    readonly message: { readonly content: string }
    readonly logprobs: { readonly tokens: readonly string[]; readonly text_offset: readonly number[] }
    readonly token_ids: readonly number[]
    readonly prompt_token_ids?: readonly number[]
    readonly prompt_logprobs: readonly (Record<string, { readonly rank: number }> | null)[]
  }[]
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number }
  readonly prompt_token_ids: readonly number[]
  readonly system_fingerprint: string
}

async function ask<T = Answer>(path: string, body: object): Promise<T> {
  const response = await server.post(path, body)
  const json = (await response.json()) as T
  expect([response.status, (json as { error?: unknown }).error]).toEqual([200, undefined])
  return json
}

async function refusal(path: string, body: object) {
  const response = await server.post(path, body)
  expect(response.status).toBe(400)
  return ((await response.json()) as { error: { message: string; param: string } }).error
}

describe('a constraint in the words of', () => {
  it.each([
    ['llama.cpp', { grammar: 'root ::= "aaaaa"' }],
    ['llama.cpp', { json_schema: { const: 'aaaaa' } }],
    ['llama.cpp', { response_format: { type: 'json_object', schema: { const: 'aaaaa' } } }],
    ['SGLang', { json_schema: '{"const":"aaaaa"}' }],
    ['SGLang', { ebnf: 'root ::= "aaaaa"' }],
    ['SGLang', { regex: 'a{5}' }],
    ['vLLM', { guided_json: { const: 'aaaaa' } }],
    ['vLLM', { guided_regex: 'a{5}' }],
    ['vLLM', { guided_choice: ['aaaaa'] }],
    ['vLLM', { guided_grammar: 'root ::= "aaaaa"' }],
    ['vLLM', { structured_outputs: { regex: 'a{5}' } }],
  ])('%s holds: %j', async (_, fields) => {
    const chat = await ask('/v1/chat/completions', { ...CHAT, ...fields })
    expect(chat.choices[0]?.message.content).toMatch(/^"?aaaaa"?$/)
  })

  it('two servers at once is refused', async () => {
    const error = await refusal('/v1/completions', { ...TEXT, regex: 'a', guided_choice: ['a'] })
    expect(error.message).toMatch(/^regex: expected one constraint on the answer, found guided_choice/)
  })
})

describe('fields that change the answer', () => {
  it.each([
    ['allowed_token_ids', [1]],
    ['bad_words', ['x']],
    ['skip_special_tokens', false],
    ['use_beam_search', true],
    ['mirostat', 2],
    ['typical_p', 0.5],
    ['logits_processors', ['x']],
  ])('%s is refused by name', async (name, value) => {
    for (const [path, body] of [
      ['/v1/completions', TEXT],
      ['/v1/chat/completions', CHAT],
    ] as const) {
      expect(await refusal(path, { ...body, [name]: value })).toMatchObject({ param: name })
    }
  })

  it.each([
    [{ skip_special_tokens: true, bad_words: [], use_beam_search: false, typical_p: 1 }],
    [{ max_tokens: -1, stop: ['e'] }],
    [{ top_p: 0, temperature: 1 }],
    [{ repeat_penalty: 1.1 }],
    [{ reasoning_effort: 'low' }],
  ])('%j is taken', async (fields) => {
    await ask('/v1/chat/completions', { ...CHAT, ...fields })
  })

  it('top_p 0 is the likeliest token each time', async () => {
    const greedy = await ask('/v1/completions', TEXT)
    const narrow = await ask('/v1/completions', { ...TEXT, temperature: 1, top_p: 0 })
    expect(narrow.choices[0]?.text).toBe(greedy.choices[0]?.text)
  })

  it('switches that the chat template does not have are named in a header, others refused', async () => {
    const response = await server.post('/v1/chat/completions', {
      ...CHAT,
      chat_template_kwargs: { enable_thinking: false },
    })
    expect(response.status).toBe(200)
    expect(response.headers.get('x-miniserve-warning')).toMatch(/^chat_template_kwargs: .*enable_thinking/)
    await response.text()
    for (const kwargs of [{ wrong: 1 }, { messages: [] }, 'x', { ['a'.repeat(100_000)]: 1 }])
      expect(await refusal('/v1/chat/completions', { ...CHAT, chat_template_kwargs: kwargs })).toMatchObject({
        param: 'chat_template_kwargs',
      })
  })

  it('truncate_prompt_tokens keeps the last ones', async () => {
    const body = { ...TEXT, prompt: 'One two three four five six', return_token_ids: true }
    const [whole, cut] = [
      await ask('/v1/completions', body),
      await ask('/v1/completions', { ...body, truncate_prompt_tokens: 3 }),
    ]
    expect(cut.usage.prompt_tokens).toBe(3)
    expect(cut.choices[0]?.prompt_token_ids).toEqual(whole.choices[0]?.prompt_token_ids?.slice(-3))
  })

  it('prompt_logprobs has the rank of each token but the first', async () => {
    const { choices, usage } = await ask('/v1/completions', { ...TEXT, prompt_logprobs: 1 })
    const [first, ...others] = choices[0]?.prompt_logprobs ?? []
    expect(first).toBeNull()
    expect(others).toHaveLength(usage.prompt_tokens - 1)
    for (const entry of others) expect(Object.values(entry ?? {}).some(({ rank }) => rank === 1)).toBe(true)
    expect(await refusal('/v1/completions', { ...TEXT, prompt_logprobs: 1, stream: true })).toMatchObject({
      param: 'prompt_logprobs',
    })
  })

  it('return_tokens_as_token_ids names tokens by id', async () => {
    const body = { ...TEXT, logprobs: 1, return_tokens_as_token_ids: true, return_token_ids: true }
    const { choices } = await ask('/v1/completions', body)
    expect(choices[0]?.logprobs.tokens).toEqual(choices[0]?.token_ids.map((id) => `token_id:${id}`))
  })

  it('continuous_usage_stats counts in every chunk', async () => {
    const options = { stream: true, stream_options: { continuous_usage_stats: true, include_usage: true } }
    for (const [path, body] of [
      ['/v1/completions', TEXT],
      ['/v1/chat/completions', { ...CHAT, ignore_eos: true, max_tokens: 4 }],
    ] as const) {
      const frames = (await readFrames(await server.post(path, { ...body, ...options }))).slice(0, -1) as Answer[]
      const counts = frames.map(({ usage }) => usage.completion_tokens)
      expect(counts).toEqual(counts.toSorted((a, b) => a - b))
      expect(counts.at(-1)).toBe(4)
      expect(new Set(frames.map(({ usage }) => usage.prompt_tokens)).size).toBe(1)
    }
  })

  it('token ids are where vLLM has them, in streams in the first chunk', async () => {
    const chat = { ...CHAT, return_token_ids: true }
    const whole = await ask('/v1/chat/completions', chat)
    expect(whole.prompt_token_ids).toHaveLength(whole.usage.prompt_tokens)
    const chunks = (await readFrames(await server.post('/v1/chat/completions', { ...chat, stream: true }))) as Answer[]
    expect(chunks[0]?.prompt_token_ids).toEqual(whole.prompt_token_ids)
    expect(chunks.filter((chunk) => chunk.prompt_token_ids !== undefined)).toHaveLength(1)
    const text = { ...TEXT, prompt: ['a', 'b'], n: 2, temperature: 1, return_token_ids: true, stream: true }
    const frames = (await readFrames(await server.post('/v1/completions', text))).slice(0, -1) as Answer[]
    expect(frames.flatMap(({ choices }) => choices).filter((choice) => choice.prompt_token_ids)).toHaveLength(4)
  })
})

it('text offsets count characters', async () => {
  const prompt = '\u{1F600}\u{1F680} a b'
  const { choices } = await ask('/v1/completions', { ...TEXT, prompt, echo: true, logprobs: 1, max_tokens: 0 })
  const { tokens = [], text_offset: offsets = [] } = choices[0]?.logprobs ?? {}
  const expected = tokens.map((_, i) => [...tokens.slice(0, i).join('')].length)
  expect(offsets).toEqual(expected)
})

it('a system_fingerprint stays while the same answers', async () => {
  const [first, second] = [await ask('/v1/completions', TEXT), await ask('/v1/chat/completions', CHAT)]
  expect(first.system_fingerprint).toMatch(/^fp_[0-9a-f]{10}$/)
  expect(second.system_fingerprint).toBe(first.system_fingerprint)
})

it('an earlier refusal is text, and parts are lines', async () => {
  const count = async (content: unknown) =>
    (await ask<{ tokens: number[] }>('/tokenize', { messages: [{ role: 'user', content }] })).tokens
  const text = (value: string) => ({ type: 'text', text: value })
  expect(await count([text('a'), { type: 'refusal', refusal: 'b' }])).toEqual(await count('a\nb'))
  const error = await refusal('/v1/chat/completions', {
    ...CHAT,
    messages: [{ role: 'user', content: [text('a'), { type: 'image_url', image_url: { url: 'x' } }] }],
  })
  expect(error).toMatchObject({ param: 'messages.0.content.1.type' })
  expect(error.message).toContain('this server does not support images')
})

describe('/tokenize', () => {
  const messages = [
    { role: 'user', content: 'hi' },
    { role: 'assistant', content: 'Sure,' },
  ]
  const count = async (more: object) => (await ask<{ count: number }>('/tokenize', { messages, ...more })).count

  it('leaves the generation prompt out, and continues the final message', async () => {
    const [whole, bare, going] = [
      await count({}),
      await count({ add_generation_prompt: false }),
      await count({ add_generation_prompt: false, continue_final_message: true }),
    ]
    expect(bare).toBeLessThan(whole)
    expect(going).toBeLessThan(whole)
    expect(going).not.toBe(bare)
  })

  it('takes several prompts, and gives the text of tokens', async () => {
    const list = await ask<{ tokens: number[][]; count: number; token_strs: string[][] }>('/v1/tokenize', {
      prompt: ['The river', 'a'],
      return_token_strs: true,
    })
    expect(list.tokens).toHaveLength(2)
    expect(list.count).toBe(list.tokens.flat().length)
    expect(list.token_strs[0]?.join('')).toContain('The river')
  })

  it('beside it, /tokenizer_info has what clients tokenize with', async () => {
    const info = (await (await server.get('/tokenizer_info')).json()) as Record<string, unknown>
    expect(info).toMatchObject({ eos_token: expect.any(String), chat_template: expect.any(String) })
  })
})

describe('models of retrieval', () => {
  it('are listed with their kind, and a route that is not theirs says so', async () => {
    const { data } = (await (await server.get('/v1/models')).json()) as { data: { id: string; kind: string }[] }
    expect(data.map(({ kind }) => kind)).toEqual(['generation', 'embedding', 'reranking'])
    const [generator, embedder, reranker] = data.map(({ id }) => id)
    for (const [path, body, names] of [
      ['/v1/chat/completions', { ...CHAT, model: embedder }, 'POST /v1/embeddings'],
      ['/v1/completions', { ...TEXT, model: reranker }, 'POST /v1/rerank'],
      ['/v1/embeddings', { input: 'x', model: generator }, embedder],
      ['/rerank', { query: 'x', documents: ['y'], model: generator }, reranker],
    ] as const) {
      const response = await server.post(path, body)
      expect(response.status).toBe(404)
      expect(await response.text()).toContain(names)
    }
    expect((await server.get(`/v1/models/${embedder}`)).status).toBe(200)
  })

  it('rerank and score at the paths of other servers', async () => {
    const body = { query: 'a river', documents: ['the river flows', 'bread'] }
    const own = await ask<{ results: unknown[]; usage: { prompt_tokens: number } }>('/v1/rerank', body)
    expect(own.usage.prompt_tokens).toBeGreaterThan(0)
    for (const path of ['/rerank', '/v2/rerank']) expect(await ask(path, body)).toMatchObject({ results: own.results })
    const one = await ask<{ data: { score: number }[] }>('/score', { text_1: 'a river', text_2: body.documents })
    const pairs = { text_1: ['a river', 'a river'], text_2: body.documents }
    const two = await ask<{ data: { score: number }[] }>('/v1/score', pairs)
    expect(one.data).toHaveLength(2)
    for (const [i, { score }] of two.data.entries()) expect(score).toBeCloseTo(one.data[i]?.score ?? NaN, 5)
    expect(await refusal('/score', { text_1: ['a', 'b'], text_2: ['c'] })).toMatchObject({ param: 'text_2' })
  })
})

describe('bodies', () => {
  const bytes = (text: string, encoding: BufferEncoding = 'utf8') => new Uint8Array(Buffer.from(text, encoding))
  const send = async (body: Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => {
    const response = await fetch(`${server.url}/v1/completions`, { method: 'POST', body, headers })
    return [response.status, await response.text()] as const
  }
  const json = JSON.stringify(TEXT)

  it('begin with a byte order mark or not', async () => {
    expect((await send(bytes(`\uFEFF${json}`)))[0]).toBe(200)
  })

  it.each([
    ['a Latin-1 letter', bytes('{"prompt":"caf\xe9","max_tokens":1}', 'latin1'), {}, 400, 'UTF-8'],
    ['a cut character', bytes('{"prompt":"caf\xc3', 'latin1'), {}, 400, 'UTF-8'],
    ['gzip', new Uint8Array(gzipSync(json)), { 'content-encoding': 'gzip' }, 415, 'Content-Encoding'],
    ['Latin-1', bytes(json), { 'content-type': 'application/json; charset=iso-8859-1' }, 415, 'charset utf-8'],
    ['nothing', bytes(' \n'), {}, 400, 'found nothing'],
    ['a conversation', bytes(JSON.stringify(CHAT)), {}, 400, 'POST /v1/chat/completions takes those'],
  ])('with %s are refused in words', async (_, body, headers, status, words) => {
    const [found, text] = await send(body, headers)
    expect(found).toBe(status)
    expect(text).toContain(words)
  })

  it('are read in pieces that cut characters, escapes and strings', async () => {
    const prompt = '\u{1F600}"\\\u00e9\\" [[[ {{'
    const whole = bytes(JSON.stringify({ prompt, max_tokens: 0, echo: true }))
    for (let at = 1; at < whole.length; at += 3) {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(whole.subarray(0, at))
          controller.enqueue(whole.subarray(at))
          controller.close()
        },
      })
      const init = { method: 'POST', body, duplex: 'half' } as const
      const answer = (await (await fetch(`${server.url}/v1/completions`, init)).json()) as Answer
      expect(answer.choices[0]?.text).toBe(prompt)
    }
  })
})

it.each(['/infill', '/v1/audio/transcriptions', '/api/chat'])('%s says that it is another server’s', async (path) => {
  const response = await server.post(path, {})
  expect(response.status).toBe(501)
  expect(await response.text()).toMatch(/this server|expected POST/)
})
