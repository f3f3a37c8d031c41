/** A model that thinks first, as the clients see it: chat, Responses, Messages and the Vercel AI SDK, with tools and schemas behind the thought. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Anthropic from '@anthropic-ai/sdk'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, streamText } from 'ai'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BUNDLED_MODEL } from './models.ts'
import { ServerProcess } from './server-process.ts'

/** Thinks like Qwen3, calls like Qwen3-Coder. */
const TEMPLATE = `{{ bos_token }}{%- for tool in tools or [] -%}{{ tool | tojson }}
{%- endfor -%}{%- for m in messages -%}{{ m.role }}:{%- if m.reasoning_content -%}<think>{{ m.reasoning_content }}</think>{%- endif -%}{{ m.content }}
{%- for call in m.tool_calls or [] -%}{{ '<tool_call>\\n<function=' + call.function.name + '>\\n' }}{%- for k, v in call.function.arguments | items -%}{{ '<parameter=' + k + '>\\n' }}{{ v if v is string else v | tojson }}{{ '\\n</parameter>\\n' }}{%- endfor -%}{{ '</function>\\n</tool_call>' }}{%- endfor -%}
{%- endfor -%}{%- if add_generation_prompt -%}assistant:{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\\n' }}{%- endif -%}`

const MODEL = 'tiny'
const BUDGET = 6
const schema = {
  type: 'object',
  properties: { color: { enum: ['red', 'green'] } },
  required: ['color'],
  additionalProperties: false,
} as const
const user = { role: 'user', content: 'Which one?' } as const
let folder: string
let server: ServerProcess
let client: OpenAI

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-reasoning-'))
  cpSync(BUNDLED_MODEL, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE)
  server = await ServerProcess.start(['--model', folder, '--served-model-name', MODEL])
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

interface Thinking {
  readonly reasoning_content?: string
  readonly reasoning?: string
}

describe('chat', () => {
  const format = { type: 'json_schema', json_schema: { name: 'color', schema, strict: true } } as const
  const request = { model: MODEL, messages: [user], temperature: 0, max_tokens: 80, response_format: format }
  const budget = { thinking_budget: BUDGET }

  it('has the thought apart from an answer that holds to its schema, whole and streamed', async () => {
    const { choices, usage, ...rest } = await client.chat.completions.create({ ...request, ...budget })
    const { content, ...thinking } = choices[0]?.message ?? { content: null }
    const { reasoning_content: thought, reasoning } = thinking as Thinking
    expect(['red', 'green']).toContain((JSON.parse(content ?? '') as { color: string }).color)
    expect(thought?.length).toBeGreaterThan(0)
    expect(reasoning).toBe(thought)
    const numThoughtTokens = usage?.completion_tokens_details?.reasoning_tokens ?? 0
    expect(numThoughtTokens).toBeGreaterThanOrEqual(BUDGET)
    expect(numThoughtTokens).toBeLessThan(usage?.completion_tokens ?? 0)
    expect(rest).toMatchObject({ object: 'chat.completion' })
    let [text, streamed] = ['', '']
    for await (const { choices: deltas } of await client.chat.completions.create({
      ...request,
      ...budget,
      stream: true,
    })) {
      text += deltas[0]?.delta.content ?? ''
      streamed += (deltas[0]?.delta as Thinking | undefined)?.reasoning_content ?? ''
    }
    expect({ text, streamed }).toEqual({ text: content, streamed: thought })
  })

  it('thinks not at all where it is told so, and is shown its earlier thoughts', async () => {
    const none = { chat_template_kwargs: { enable_thinking: false } }
    for (const switched of [none, { reasoning_effort: 'none' }]) {
      const { choices, usage } = await client.chat.completions.create({ ...request, ...(switched as object) })
      expect(choices[0]?.message).not.toHaveProperty('reasoning_content')
      expect(usage?.completion_tokens_details?.reasoning_tokens ?? 0).toBe(0)
    }
    const count = async (more: object) => {
      const messages = [user, { role: 'assistant', content: 'Red.', ...more }, user]
      return ((await (await server.post('/tokenize', { messages })).json()) as { count: number }).count
    }
    expect(await count({ reasoning_content: 'Because.' })).toBeGreaterThan(await count({}))
    expect(await count({ reasoning: 'Because.' })).toBe(await count({ reasoning_content: 'Because.' }))
  })

  it('calls a function behind the thought, in the form of its template, and tells of the thought in its trace', async () => {
    const tools = [{ type: 'function', function: { name: 'set_color', parameters: schema } }]
    const body = { ...request, response_format: undefined, ...budget, tools, tool_choice: 'required', parallel_tool_calls: false } // prettier-ignore
    const response = await server.post('/v1/chat/completions', body)
    expect(await response.json()).toMatchObject({
      choices: [
        {
          finish_reason: 'tool_calls',
          message: {
            content: null,
            reasoning_content: expect.stringMatching(/./),
            tool_calls: [{ function: { name: 'set_color', arguments: expect.stringMatching(/^\{"color": "(red|green)"\}$/) } }], // prettier-ignore
          },
        },
      ],
    })
    const trace = await (await server.get(`/v1/traces/${response.headers.get('x-trace-id') ?? ''}`)).text()
    expect(trace).toMatch(/"llm\.tokens\.reasoning","value":\{"intValue":"[1-9]/)
  })
})

it('Responses has the thought as an item of its own, before the call', async () => {
  const response = await client.responses.create({
    model: MODEL,
    input: 'Which one?',
    temperature: 0,
    max_output_tokens: 80,
    tools: [{ type: 'function', name: 'set_color', parameters: schema, strict: true }],
    tool_choice: { type: 'allowed_tools', mode: 'required', tools: [{ type: 'function', name: 'set_color' }] },
    parallel_tool_calls: false,
    ...({ thinking_budget: BUDGET } as object),
  })
  expect(response.output.map(({ type }) => type)).toEqual(['reasoning', 'function_call'])
  expect(response.output[1]).toMatchObject({ name: 'set_color', arguments: expect.stringContaining('color') })
  expect(response.usage?.output_tokens_details.reasoning_tokens).toBeGreaterThan(0)
})

it('Messages has the thought as a block, whole and streamed', async () => {
  const anthropic = new Anthropic({ baseURL: server.url, apiKey: 'none', maxRetries: 0 })
  const request = {
    model: MODEL,
    messages: [user],
    temperature: 0,
    max_tokens: 2048,
    thinking: { type: 'enabled', budget_tokens: 1024 } as const,
    tools: [{ name: 'set_color', input_schema: { ...schema, required: ['color'] } }],
    tool_choice: { type: 'tool', name: 'set_color' } as const,
    stop_sequences: [],
  }
  const body = { ...request, thinking: { type: 'enabled', budget_tokens: BUDGET } }
  const whole = (await (await server.post('/v1/messages', body)).json()) as Anthropic.Message
  expect(whole.content.map(({ type }) => type)).toEqual(['thinking', 'tool_use'])
  const streamed = await anthropic.messages.stream({ ...request, thinking: { type: 'enabled', budget_tokens: BUDGET } }).finalMessage() // prettier-ignore
  expect(streamed.content).toEqual(whole.content.map((block, i) => ({ ...block, ...(block.type === 'tool_use' ? { id: (streamed.content[i] as { id?: string }).id } : {}) }))) // prettier-ignore
})

it('the Vercel AI SDK finds the thought', async () => {
  const provider = createOpenAICompatible({ name: 'miniserve', baseURL: `${server.url}/v1` })
  const call = { model: provider(MODEL), prompt: 'Which one?', temperature: 0, maxOutputTokens: 24, maxRetries: 0, providerOptions: { miniserve: { thinking_budget: BUDGET } } } // prettier-ignore
  const { reasoningText, text } = await generateText(call)
  expect(reasoningText?.length).toBeGreaterThan(0)
  const stream = streamText(call)
  expect({ text: await stream.text, thought: await stream.reasoningText }).toEqual({ text, thought: reasoningText })
})
