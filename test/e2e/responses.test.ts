/** OpenAI's Responses API as its official client uses it, against the real process. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { zodTextFormat } from 'openai/helpers/zod'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { BUNDLED_MODEL, TOOL_TEMPLATE } from './models.ts'
import { ServerProcess } from './server-process.ts'

const MODEL = 'tiny'
let folder: string
let server: ServerProcess
let client: OpenAI
let other: OpenAI

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-responses-'))
  cpSync(BUNDLED_MODEL, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), TOOL_TEMPLATE)
  server = await ServerProcess.start([
    '--model',
    folder,
    '--served-model-name',
    MODEL,
    '--api-key',
    'k1',
    '--api-key',
    'k2',
    '--log-level',
    'trace',
  ])
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'k1', maxRetries: 0 })
  other = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'k2', maxRetries: 0 })
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const ask = { model: MODEL, input: 'What is the capital of France?', temperature: 0, max_output_tokens: 24 } as const
const tool = {
  type: 'function',
  name: 'set_level',
  description: 'Sets a level.',
  parameters: {
    type: 'object',
    properties: { level: { enum: ['low', 'high'] } },
    required: ['level'],
    additionalProperties: false,
  },
  strict: true,
} as const

describe('a response', () => {
  it('has the text, the usage and the fields of the request', async () => {
    const response = await client.responses.create({ ...ask, instructions: 'Be brief.', metadata: { a: 'b' } })
    expect(response).toMatchObject({
      object: 'response',
      model: MODEL,
      instructions: 'Be brief.',
      metadata: { a: 'b' },
      max_output_tokens: 24,
      temperature: 0,
      error: null,
    })
    expect(response.output_text.length).toBeGreaterThan(0)
    const { usage } = response
    expect(usage?.total_tokens).toBe((usage?.input_tokens ?? 0) + (usage?.output_tokens ?? 0))
    expect(usage?.output_tokens_details.reasoning_tokens).toBe(0)
  })

  it('is incomplete where the tokens ran out', async () => {
    const response = await client.responses.create({ ...ask, max_output_tokens: 1 })
    expect(response.status).toBe('incomplete')
    expect(response.incomplete_details).toEqual({ reason: 'max_output_tokens' })
    expect(response.output[0]).toMatchObject({ status: 'incomplete' })
  })

  it('streams every event in order and comes to the same text', async () => {
    const whole = await client.responses.create(ask)
    const types: string[] = []
    const numbers: number[] = []
    let text = ''
    const stream = client.responses.stream(ask)
    for await (const event of stream) {
      types.push(event.type)
      numbers.push(event.sequence_number)
      if (event.type === 'response.output_text.delta') text += event.delta
    }
    expect(text).toBe(whole.output_text)
    expect((await stream.finalResponse()).output_text).toBe(whole.output_text)
    expect(numbers).toEqual(numbers.map((_, i) => i))
    expect(types.filter((type, i) => type !== types[i - 1])).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      `response.${whole.status}`,
    ])
  })

  it('names its own fields where a schema cannot be enforced', async () => {
    const schema = { type: 'object', properties: { a: { type: 'array', uniqueItems: true } } }
    const format = { type: 'json_schema', name: 'a', strict: true, schema } as const
    await expect(client.responses.create({ ...ask, text: { format } })).rejects.toMatchObject({ param: 'text.format' })
    const tools = [{ type: 'function', name: 'f', strict: true, parameters: schema } as const]
    await expect(client.responses.create({ ...ask, tools, tool_choice: 'required' })).rejects.toMatchObject({
      param: 'tools.0.parameters',
    })
    const tool_choice = { type: 'function', name: 'other' } as const
    const sound = [{ type: 'function', name: 'f', strict: false, parameters: null } as const]
    await expect(client.responses.create({ ...ask, tools: sound, tool_choice })).rejects.toMatchObject({
      param: 'tool_choice.name',
    })
  })

  it('keeps to a schema', async () => {
    const shape = z.object({ city: z.string().max(12), big: z.boolean() })
    const response = await client.responses.parse({
      ...ask,
      max_output_tokens: 200,
      text: { format: zodTextFormat(shape, 'city') },
    })
    expect(shape.safeParse(response.output_parsed).success).toBe(true)
  })

  it('honours what clients of other servers send, and refuses the rest by name', async () => {
    const send = async (fields: object) => {
      const headers = { 'content-type': 'application/json', authorization: 'Bearer k1' }
      const body = JSON.stringify({ input: 'Say it.', max_output_tokens: 8, ...fields })
      const response = await fetch(`${server.url}/v1/responses`, { method: 'POST', headers, body })
      return (await response.json()) as { output?: [{ content: [{ text: string }] }]; error?: { param: string } }
    }
    const { output } = await send({ structured_outputs: { choice: ['walnut'] }, seed: 7, top_k: 5 })
    expect(output?.[0].content[0].text).toBe('walnut')
    expect((await send({ guided_regex: 'wal', stop: 'a' })).output?.[0].content[0].text).toBe('w')
    for (const [field, value] of [
      ['bad_words', ['x']],
      ['max_tokens', 5],
      ['include', ['message.output_text.logprobs']],
      ['seed', 'x'],
    ] as const) {
      expect((await send({ [field]: value })).error?.param).toMatch(new RegExp(`^${field}`))
    }
  })

  it('leaves the span tree of a generation, with its own route', async () => {
    const { data, response } = await client.responses.create(ask).withResponse()
    const id = response.headers.get('x-trace-id')
    const validated = await server.get(`/v1/traces/${id}/validate`, { authorization: 'Bearer k1' })
    expect(await validated.json()).toMatchObject({ ok: true })
    const listed = await server.get(`/v1/traces?request_id=${data.id}`, { authorization: 'Bearer k1' })
    expect(await listed.json()).toMatchObject({ traces: [{ route: '/v1/responses', num_spans: 5 }] })
  })
})

describe('functions', () => {
  it('are called when asked for, and their outputs go back', async () => {
    const first = await client.responses.create({
      ...ask,
      max_output_tokens: 200,
      tools: [tool],
      tool_choice: 'required',
    })
    const [call] = first.output.filter((item) => item.type === 'function_call')
    expect(call).toMatchObject({ name: 'set_level', status: 'completed' })
    expect(['low', 'high']).toContain((JSON.parse(call?.arguments ?? '') as { level: string }).level)
    const second = await client.responses.create({
      ...ask,
      tools: [tool],
      input: [
        { role: 'user', content: ask.input },
        ...(call === undefined ? [] : [call]),
        { type: 'function_call_output', call_id: call?.call_id ?? '', output: 'done' },
      ],
    })
    expect(second.status).toMatch(/completed|incomplete/)
  })

  it('stream as items of their own', async () => {
    const stream = client.responses.stream({
      ...ask,
      max_output_tokens: 200,
      tools: [tool],
      tool_choice: { type: 'function', name: 'set_level' },
    })
    let written = ''
    for await (const event of stream)
      if (event.type === 'response.function_call_arguments.delta') written += event.delta
    const [call] = (await stream.finalResponse()).output.filter((item) => item.type === 'function_call')
    expect(call?.arguments).toBe(written)
    expect(JSON.parse(written)).toHaveProperty('level')
  })
})

/** Ids of the requests that the traces of a conversation are of, newest first. */
async function conversation(id: string): Promise<readonly string[]> {
  const response = await server.get(`/v1/traces?conversation=${id}`, { authorization: 'Bearer k1' })
  return ((await response.json()) as { traces: { request_id: string }[] }).traces.map((trace) => trace.request_id)
}

describe('the conversation of a request', () => {
  it('is the one that a header or a field names, in every wire', async () => {
    const headers = { authorization: 'Bearer k1' }
    const messages = [{ role: 'user', content: 'Hello' }]
    const sent = [
      server.post('/v1/chat/completions', { messages, max_tokens: 1 }, { ...headers, 'x-conversation-id': 'talk-7' }),
      server.post('/v1/messages', { model: MODEL, messages, max_tokens: 1 }, { ...headers, 'x-session-id': 'talk-7' }),
      server.post('/v1/completions', { prompt: 'x', max_tokens: 1, metadata: { conversation_id: 'talk-7' } }, headers),
      server.post('/v1/responses', { ...ask, store: false, metadata: { session_id: 'talk-7' } }, headers),
      // Too strange to be an id: the request is served without.
      server.post('/v1/completions', { prompt: 'x', max_tokens: 1 }, { ...headers, 'x-conversation-id': 'a b' }),
    ]
    for (const response of await Promise.all(sent)) expect([response.status, await response.text()][0]).toBe(200)
    expect((await conversation('talk-7')).map((id) => id.split(/[-_]/)[0]).sort()).toEqual([
      'chatcmpl',
      'cmpl',
      'msg',
      'resp',
    ])
    expect(await conversation('a%20b')).toEqual([])
  })
})

describe('what is kept', () => {
  it('continues a conversation by its id, for the key that made it', async () => {
    const first = await client.responses.create(ask)
    const second = await client.responses.create({ ...ask, input: 'And of Spain?', previous_response_id: first.id })
    expect(second.usage?.input_tokens).toBeGreaterThan(first.usage?.input_tokens ?? Infinity)
    expect((await client.responses.retrieve(second.id)).output).toEqual(second.output)
    expect(await conversation(first.id)).toEqual([second.id, first.id])
    const { usage: explicit } = await client.responses.create({
      ...ask,
      input: [
        { role: 'user', content: ask.input },
        { role: 'assistant', content: first.output_text },
        { role: 'user', content: 'And of Spain?' },
      ],
    })
    expect(second.usage?.input_tokens).toBe(explicit?.input_tokens)
    await expect(other.responses.retrieve(first.id)).rejects.toMatchObject({ status: 404 })
    await expect(other.responses.create({ ...ask, previous_response_id: first.id })).rejects.toMatchObject({
      status: 404,
      param: 'previous_response_id',
    })
  })

  it('is not kept where store is false, and is gone once deleted', async () => {
    const unkept = await client.responses.create({ ...ask, store: false })
    await expect(client.responses.retrieve(unkept.id)).rejects.toMatchObject({ status: 404 })
    const kept = await client.responses.create(ask)
    await expect(client.responses.retrieve(kept.id, { stream: true })).rejects.toMatchObject({
      status: 400,
      param: 'stream',
    })
    await client.responses.delete(kept.id)
    await expect(client.responses.retrieve(kept.id)).rejects.toMatchObject({ status: 404 })
  })
})

it.each([
  [{ input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'https://example.test/a.png' }] }] }, 'input'],
  [{ tools: [{ type: 'web_search' }] }, 'tools'],
  [{ background: true }, 'background'],
  [{ conversation: 'c1' }, 'conversation'],
  [{ input: [] }, 'input'],
  [{ input: [{ type: 'item_reference', id: 'x' }] }, 'input'],
])('refuses %j by name', async (fields, param) => {
  const response = await server.post('/v1/responses', { ...ask, ...fields }, { authorization: 'Bearer k1' })
  expect(response.status).toBe(400)
  const { error } = (await response.json()) as { error: { param: string; message: string } }
  expect(error.param).toMatch(new RegExp(`^${param}`))
  expect(error.message).toMatch(/expected|not supported/)
})
