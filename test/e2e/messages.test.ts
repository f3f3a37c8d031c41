/** Anthropic's Messages API as its official client uses it, against the real process. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Anthropic, { AuthenticationError, NotFoundError } from '@anthropic-ai/sdk'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BUNDLED_MODEL, TOOL_TEMPLATE } from './models.ts'
import { ServerProcess } from './server-process.ts'

const MODEL = 'tiny'
let folder: string
let server: ServerProcess
let client: Anthropic

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-messages-'))
  cpSync(BUNDLED_MODEL, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), TOOL_TEMPLATE)
  server = await ServerProcess.start(['--model', folder, '--served-model-name', MODEL, '--api-key', 'k1'])
  client = new Anthropic({ baseURL: server.url, apiKey: 'k1', maxRetries: 0 })
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const ask = {
  model: MODEL,
  max_tokens: 24,
  temperature: 0,
  messages: [{ role: 'user' as const, content: 'What is the capital of France?' }],
}
const tool = {
  name: 'set_level',
  description: 'Sets a level.',
  input_schema: {
    type: 'object' as const,
    properties: { level: { enum: ['low', 'high'] } },
    required: ['level'],
    additionalProperties: false,
  },
}

const textOf = ({ content }: Anthropic.Message) =>
  content.map((block) => (block.type === 'text' ? block.text : '')).join('')

describe('a message', () => {
  it('has text, stop reason and usage', async () => {
    const message = await client.messages.create({ ...ask, system: 'Be brief.' })
    expect(message).toMatchObject({ type: 'message', role: 'assistant', model: MODEL })
    expect(textOf(message).length).toBeGreaterThan(0)
    expect(['end_turn', 'max_tokens']).toContain(message.stop_reason)
    expect(message.usage.output_tokens).toBeGreaterThan(0)
  })

  it('names the sequence that stopped it', async () => {
    const [first = ''] = textOf(await client.messages.create(ask))
      .trim()
      .slice(1)
    const message = await client.messages.create({ ...ask, stop_sequences: [first] })
    expect(message).toMatchObject({ stop_reason: 'stop_sequence', stop_sequence: first })
  })

  it('counts cached input apart', async () => {
    const messages = [{ role: 'user' as const, content: 'The river rises in the hills. '.repeat(12) }]
    const cold = await client.messages.create({ ...ask, messages })
    const { usage } = await client.messages.create({ ...ask, messages })
    expect(usage.cache_read_input_tokens).toBeGreaterThan(0)
    expect(usage.input_tokens + (usage.cache_read_input_tokens ?? 0)).toBe(
      cold.usage.input_tokens + (cold.usage.cache_read_input_tokens ?? 0),
    )
    const counted = await client.messages.countTokens({ model: MODEL, messages })
    expect(counted.input_tokens).toBe(usage.input_tokens + (usage.cache_read_input_tokens ?? 0))
  })

  it('continues a final turn of the assistant', async () => {
    const whole = textOf(await client.messages.create(ask)).trim()
    const begun = whole.slice(0, whole.indexOf(' '))
    const messages = [...ask.messages, { role: 'assistant' as const, content: begun }]
    const { usage } = await client.messages.create({ ...ask, messages })
    const counted = await client.messages.countTokens({ model: MODEL, messages })
    const asked = await client.messages.countTokens({ model: MODEL, messages: ask.messages })
    expect(counted.input_tokens).toBe(usage.input_tokens + (usage.cache_read_input_tokens ?? 0))
    const body = { prompt: begun, add_special_tokens: false }
    const { count } = (await (await server.post('/tokenize', body, { 'x-api-key': 'k1' })).json()) as { count: number }
    // No end of that turn and no beginning of another.
    expect(counted.input_tokens).toBe(asked.input_tokens + count)
  })

  it('streams every event in order and comes to the same text', async () => {
    const whole = await client.messages.create(ask)
    const types: string[] = []
    const stream = client.messages.stream(ask)
    for await (const event of stream) if (event.type !== types.at(-1)) types.push(event.type)
    const final = await stream.finalMessage()
    expect(textOf(final)).toBe(textOf(whole))
    expect(final.stop_reason).toBe(whole.stop_reason)
    expect(final.usage.output_tokens).toBe(whole.usage.output_tokens)
    expect(types).toEqual([
      'message_start',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'message_delta',
      'message_stop',
    ])
  })
})

describe('tools', () => {
  it('are used when asked for, and their results go back', async () => {
    const request = { ...ask, max_tokens: 200, tools: [tool] }
    const first = await client.messages.create({ ...request, tool_choice: { type: 'any' } })
    expect(first.stop_reason).toBe('tool_use')
    const use = first.content.find((block) => block.type === 'tool_use')
    expect(use?.name).toBe('set_level')
    expect(use?.input).toEqual({ level: expect.stringMatching(/^(low|high)$/) as string })
    const second = await client.messages.create({
      ...request,
      messages: [
        ...ask.messages,
        { role: 'assistant', content: first.content },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: use?.id ?? '', content: 'done' }] },
      ],
    })
    expect(second.type).toBe('message')
  })

  it('stream their input as JSON', async () => {
    const stream = client.messages.stream({
      ...ask,
      max_tokens: 200,
      tools: [tool],
      tool_choice: { type: 'tool', name: 'set_level' },
    })
    const final = await stream.finalMessage()
    expect(final.stop_reason).toBe('tool_use')
    expect(final.content.at(-1)).toMatchObject({
      type: 'tool_use',
      input: { level: expect.stringMatching(/low|high/) as string },
    })
  })
})

describe('errors', () => {
  it('have the form of this API', async () => {
    const response = await server.post('/v1/messages', { ...ask, max_tokens: 'many' }, { 'x-api-key': 'k1' })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ type: 'error', error: { type: 'invalid_request_error' } })
    await expect(client.messages.create({ ...ask, model: 'other' })).rejects.toBeInstanceOf(NotFoundError)
    const stranger = new Anthropic({ baseURL: server.url, apiKey: 'wrong', maxRetries: 0 })
    await expect(stranger.messages.create(ask)).rejects.toBeInstanceOf(AuthenticationError)
  })

  it('names images, which it does not read', async () => {
    const image = { type: 'image', source: { type: 'url', url: 'https://example.test/a.png' } }
    const response = await server.post(
      '/v1/messages',
      { ...ask, messages: [{ role: 'user', content: [image] }] },
      { 'x-api-key': 'k1' },
    )
    expect(response.status).toBe(400)
    expect(JSON.stringify(await response.json())).toContain('images')
  })
})
