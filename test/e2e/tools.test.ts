/** Function calls as OpenAI's own client sees them: against the real process, and through a second one before it. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readFrames, ServerProcess } from './server-process.ts'

const BUNDLED = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'models', 'mini-1m')

/** The bundled model's template has no place for tools; this one shows them, calls and results as Hermes and Qwen do. */
const TEMPLATE = `{{ bos_token }}{% if tools %}Call functions as <tool_call>{"name": ..., "arguments": ...}</tool_call>:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{% for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`

const MODEL = 'tiny'
const SECRET = 'zebrafinch'
const colorTool = {
  type: 'function',
  function: {
    name: 'set_color',
    description: 'Sets a color.',
    parameters: {
      type: 'object',
      properties: {
        color: { enum: [`${SECRET}-red`, `${SECRET}-green`] },
        level: { type: 'integer', minimum: 1, maximum: 9 },
      },
      required: ['color', 'level'],
    },
  },
} as const
const stopTool = { type: 'function', function: { name: 'stop' } } as const
const tools = [colorTool, stopTool]
const user = { role: 'user', content: 'Make it red, please.' } as const
const CALL = '<tool_call>\n{"name": "stop", "arguments": {"now": true}}\n</tool_call>'

let folder: string
const servers = new Map<'direct' | 'remote', ServerProcess>()

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-tools-'))
  cpSync(BUNDLED, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE)
  const direct = await ServerProcess.start(['--model', folder, '--served-model-name', MODEL, '--log-level', 'trace'])
  servers.set('direct', direct)
  servers.set('remote', await ServerProcess.start(['--engine-url', direct.url]))
})

afterAll(async () => {
  await servers.get('remote')?.stop()
  await servers.get('direct')?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const serverOf = (which: 'direct' | 'remote'): ServerProcess => {
  const server = servers.get(which)
  if (server === undefined) throw new Error(`no ${which} server`)
  return server
}

type Request = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, 'model' | 'stream'> & Record<string, unknown>

function ask(which: 'direct' | 'remote', fields: Partial<Request>) {
  const client = new OpenAI({ baseURL: `${serverOf(which).url}/v1`, apiKey: 'none', maxRetries: 0 })
  const request = {
    model: MODEL,
    messages: [user],
    tools: [...tools],
    max_tokens: 200,
    temperature: 1.5,
    seed: 3,
    ...fields,
  }
  return {
    whole: async () => (await client.chat.completions.create(request)).choices,
    /** The message that the client's helper puts together from the chunks, and the chunks. */
    streamed: async () => {
      const stream = client.chat.completions.stream({ ...request, stream: true })
      const chunks: OpenAI.ChatCompletionChunk[] = []
      stream.on('chunk', (chunk) => chunks.push(chunk))
      return { choices: (await stream.finalChatCompletion()).choices, chunks }
    },
  }
}

/** What must be the same whole and streamed: ids are drawn anew for each answer. */
const shown = (choices: readonly OpenAI.ChatCompletion.Choice[]) =>
  choices.map(({ finish_reason: reason, message }) => ({
    reason,
    content: message.content === '' ? null : message.content,
    calls: message.tool_calls?.flatMap((call) => (call.type === 'function' ? [call.function] : [])) ?? [],
  }))

describe.each(['direct', 'remote'] as const)('calls, %s', (which) => {
  it('that are required are valid whatever the model likes, whole and streamed, for each choice', async () => {
    const request = ask(which, { tool_choice: 'required', parallel_tool_calls: false, n: 3 })
    const choices = await request.whole()
    expect(choices).toHaveLength(3)
    for (const { finish_reason: reason, message } of choices) {
      expect(reason).toBe('tool_calls')
      expect(message.content).toBeNull()
      const [call] = message.tool_calls ?? []
      if (call?.type !== 'function' || message.tool_calls?.length !== 1) throw new Error('expected one call')
      expect(call.id).toMatch(/^call_[0-9a-f]{24}$/)
      const args = JSON.parse(call.function.arguments) as { color: string; level: number }
      if (call.function.name === 'stop') expect(args).toEqual({})
      else {
        expect(colorTool.function.parameters.properties.color.enum).toContain(args.color)
        expect([1, 2, 3, 4, 5, 6, 7, 8, 9]).toContain(args.level)
      }
    }
    const { choices: joined, chunks } = await request.streamed()
    expect(shown(joined)).toEqual(shown(choices))
    const deltas = chunks.flatMap((chunk) => chunk.choices).flatMap(({ delta }) => delta.tool_calls ?? [])
    expect(deltas.filter((delta) => delta.id !== undefined)).toHaveLength(3)
    for (const { id, type, index, function: called } of deltas) {
      expect(index).toBe(0)
      expect([type, typeof called?.name]).toEqual(id === undefined ? [undefined, 'undefined'] : ['function', 'string'])
    }
  })

  it('of a named function are one, streamed in pieces', async () => {
    const request = ask(which, { tool_choice: { type: 'function', function: { name: 'set_color' } } })
    const [choice] = await request.whole()
    expect(choice?.finish_reason).toBe('tool_calls')
    expect(shown(choice ? [choice] : [])[0]?.calls.map(({ name }) => name)).toEqual(['set_color'])
    const { choices, chunks } = await request.streamed()
    expect(shown(choices)).toEqual(shown(choice ? [choice] : []))
    const pieces = chunks.flatMap((chunk) => chunk.choices).flatMap(({ delta }) => delta.tool_calls ?? [])
    expect(pieces.length).toBeGreaterThan(3)
    expect(chunks.some((chunk) => chunk.choices.some(({ delta }) => (delta.content ?? '') !== ''))).toBe(false)
  })

  it('of the model’s own accord stand beside its words; what is no call stays among them', async () => {
    const other = '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call>'
    const request = ask(which, { structured_outputs: { choice: [`So be it.\n${CALL}\n${CALL}\n${other}`] } })
    const expected = [
      {
        reason: 'tool_calls',
        content: `So be it.\n${other}`,
        calls: [
          { name: 'stop', arguments: '{"now": true}' },
          { name: 'stop', arguments: '{"now": true}' },
        ],
      },
    ]
    expect(shown(await request.whole())).toEqual(expected)
    expect(shown((await request.streamed()).choices)).toEqual(expected)
    const none = ask(which, { tool_choice: 'none', structured_outputs: { choice: [CALL] } })
    const [answer] = await none.whole()
    expect(answer).toMatchObject({ finish_reason: 'stop', message: { content: CALL } })
    expect(answer?.message).not.toHaveProperty('tool_calls')
  })

  it('that are cut off say so', async () => {
    const request = ask(which, { tool_choice: { type: 'function', function: { name: 'set_color' } }, max_tokens: 30 })
    const [choice] = shown(await request.whole())
    expect(choice?.reason).toBe('length')
    expect(() => JSON.parse(choice?.calls[0]?.arguments ?? '')).toThrow(SyntaxError)
  })

  it('go back to the model with their results', async () => {
    const [choice] = await ask(which, { tool_choice: { type: 'function', function: { name: 'stop' } } }).whole()
    if (choice === undefined) throw new Error('no choice')
    const id = choice.message.tool_calls?.[0]?.id ?? ''
    const messages: OpenAI.ChatCompletionMessageParam[] = [
      user,
      choice.message,
      { role: 'tool', tool_call_id: id, content: 'stopped' },
    ]
    const [answer] = await ask(which, { messages, structured_outputs: { choice: ['Done.'] } }).whole()
    expect(answer).toMatchObject({ finish_reason: 'stop', message: { content: 'Done.' } })
  })

  it.each([
    [{ tools: [], tool_choice: 'required' }, 'tool_choice'],
    [{ tool_choice: 'sometimes' }, 'tool_choice'],
    [
      {
        tool_choice: {
          type: 'allowed_tools',
          allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'other' } }] },
        },
      },
      'tool_choice',
    ],
    [{ tool_choice: { type: 'function', function: { name: 'other' } } }, 'tool_choice.function.name'],
    [
      {
        tool_choice: 'required',
        tools: [{ ...stopTool, function: { name: 'x', strict: true, parameters: { not: {} } } }],
      },
      'tools.0.function.parameters',
    ],
  ])('%j is refused by name', async (fields, param) => {
    const response = await serverOf(which).post('/v1/chat/completions', {
      messages: [user],
      tools,
      max_tokens: 4,
      ...fields,
    })
    expect([response.status, await response.json()]).toMatchObject([400, { error: { param } }])
  })
})

it('/tokenize counts the tools as a chat does', async () => {
  const server = serverOf('direct')
  const body = { messages: [user], tools }
  const { count } = (await (await server.post('/tokenize', body)).json()) as { count: number }
  const chat = await server.post('/v1/chat/completions', { ...body, max_tokens: 1 })
  expect(await chat.json()).toMatchObject({ usage: { prompt_tokens: count } })
  const bare = await server.post('/tokenize', { messages: [user] })
  expect(((await bare.json()) as { count: number }).count).toBeLessThan(count)
})

it('a call’s arguments appear in no log line, trace or metric; the finish reason does', async () => {
  const server = serverOf('direct')
  const fields = { messages: [user], tools, tool_choice: { type: 'function', function: { name: 'set_color' } } }
  for (const stream of [false, true]) {
    const response = await server.post('/v1/chat/completions', { ...fields, stream, max_tokens: 200 })
    const body = stream ? JSON.stringify(await readFrames(response)) : await response.text()
    expect(body).toContain('tool_calls')
    const trace = await (await server.get(`/v1/traces/${response.headers.get('x-trace-id') ?? ''}`)).text()
    expect(trace).toContain('"tool_calls"')
    const metrics = await (await server.get('/metrics')).text()
    for (const text of [trace, metrics, JSON.stringify(server.logs), server.stderr]) {
      expect(text).not.toContain(SECRET)
      expect(text).not.toContain('set_color')
    }
  }
})
