/** The Vercel AI SDK, LangChain.js and the helpers of OpenAI's client, against the real process: what their users do first with any server. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { HumanMessage, SystemMessage, ToolMessage } from '@langchain/core/messages'
import { tool as langchainTool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { BUNDLED_MODEL, TOOL_TEMPLATE } from './models.ts'
import { ServerProcess } from './server-process.ts'

const MODEL = 'tiny'
const EMBEDDER = 'mini-embedder'
const Place = z.object({
  city: z.string().min(1).max(12),
  population: z.int().min(0).max(99),
  kind: z.enum(['a', 'b']),
})
const Color = z.object({ color: z.enum(['red', 'green']) })
let folder: string
let server: ServerProcess

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-sdks-'))
  cpSync(BUNDLED_MODEL, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), TOOL_TEMPLATE)
  server = await ServerProcess.start(['--model', folder, '--served-model-name', MODEL, '--api-key', 'k1'])
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

describe('the Vercel AI SDK', () => {
  const provider = () =>
    createOpenAICompatible({
      name: 'miniserve',
      baseURL: `${server.url}/v1`,
      apiKey: 'k1',
      includeUsage: true,
      supportsStructuredOutputs: true,
    })
  const call = () => ({ model: provider()(MODEL), prompt: 'What is it?', temperature: 0, maxRetries: 0 })
  const setColor = tool({ description: 'Sets a color.', inputSchema: Color, execute: ({ color }) => `it is ${color}` })

  it('generateText and streamText come to the same text, with usage', async () => {
    const whole = await generateText({ ...call(), maxOutputTokens: 12 })
    const stream = streamText({ ...call(), maxOutputTokens: 12 })
    let text = ''
    for await (const piece of stream.textStream) text += piece
    expect(text).toBe(whole.text)
    expect(text.length).toBeGreaterThan(0)
    expect(await stream.finishReason).toBe(whole.finishReason)
    const { inputTokens, outputTokens } = await stream.usage
    expect({ inputTokens, outputTokens }).toMatchObject({
      inputTokens: whole.usage.inputTokens,
      outputTokens: whole.usage.outputTokens,
    })
    expect(outputTokens).toBeGreaterThan(0)
  })

  it('generateObject and streamObject give what the schema says', async () => {
    const { object } = await generateObject({ ...call(), schema: Place, maxOutputTokens: 200 })
    expect(Place.parse(object)).toEqual(object)
    const stream = streamObject({ ...call(), schema: Place, maxOutputTokens: 200 })
    let last: unknown
    for await (const partial of stream.partialObjectStream) last = partial
    expect(Place.parse(last)).toEqual(await stream.object)
  })

  it('goes round a loop of tools', async () => {
    const { steps, toolResults } = await generateText({
      ...call(),
      tools: { setColor },
      toolChoice: 'required',
      stopWhen: stepCountIs(2),
      maxOutputTokens: 60,
      providerOptions: { miniserve: { parallel_tool_calls: false } },
    })
    expect(steps).toHaveLength(2)
    expect(steps.map(({ finishReason }) => finishReason)).toEqual(['tool-calls', 'tool-calls'])
    const [first] = steps[0]?.toolResults ?? []
    expect(first).toMatchObject({ toolName: 'setColor', output: expect.stringMatching(/^it is (red|green)$/) })
    expect(toolResults).toHaveLength(1)
  })

  it('streams the input of a tool', async () => {
    const stream = streamText({
      ...call(),
      tools: { setColor },
      toolChoice: { type: 'tool', toolName: 'setColor' },
      maxOutputTokens: 60,
    })
    let input = ''
    for await (const part of stream.fullStream) if (part.type === 'tool-input-delta') input += part.delta
    expect(Color.parse(JSON.parse(input))).toEqual((await stream.toolCalls)[0]?.input)
  })

  it('embeds', async () => {
    const { embeddings } = await embedMany({
      model: provider().embeddingModel(EMBEDDER),
      values: ['a', 'b'],
      maxRetries: 0,
    })
    expect(embeddings).toHaveLength(2)
    expect(embeddings[0]).toHaveLength(embeddings[1]?.length ?? 0)
  })

  it('hears what is wrong with a request', async () => {
    await expect(generateText({ ...call(), maxOutputTokens: 8, temperature: 9 })).rejects.toMatchObject({
      statusCode: 400,
      message: expect.stringContaining('temperature'),
    })
  })
})

describe('LangChain.js', () => {
  const model = (fields: { maxTokens?: number; streaming?: boolean } = {}) =>
    new ChatOpenAI({
      model: MODEL,
      apiKey: 'k1',
      configuration: { baseURL: `${server.url}/v1` },
      temperature: 0,
      maxTokens: 200,
      maxRetries: 0,
      ...fields,
    })
  const messages = [new SystemMessage('Be brief.'), new HumanMessage('What is it?')]
  const setColor = langchainTool(({ color }) => `it is ${color}`, {
    name: 'set_color',
    description: 'Sets a color.',
    schema: Color,
  })

  it('invoke and stream come to the same text, with usage', async () => {
    const whole = await model({ maxTokens: 12 }).invoke(messages)
    let text = ''
    let outputTokens = 0
    for await (const chunk of await model({ maxTokens: 12 }).stream(messages)) {
      text += chunk.text
      outputTokens += chunk.usage_metadata?.output_tokens ?? 0
    }
    expect(text).toBe(whole.text)
    expect(text.length).toBeGreaterThan(0)
    expect(outputTokens).toBe(whole.usage_metadata?.output_tokens)
  })

  it.each(['jsonSchema', 'functionCalling'] as const)(
    'withStructuredOutput by %s gives what the schema says',
    async (method) => {
      const answer = await model().withStructuredOutput(Place, { method, name: 'place' }).invoke(messages)
      expect(Place.parse(answer)).toEqual(answer)
    },
  )

  it('calls bound tools, whole and streamed, and takes their results back', async () => {
    const bound = model().bindTools([setColor], { tool_choice: 'set_color' })
    const whole = await bound.invoke(messages)
    const [call] = whole.tool_calls ?? []
    expect(call?.name).toBe('set_color')
    expect(Color.parse(call?.args)).toEqual(call?.args)
    let input = ''
    for await (const chunk of await bound.stream(messages))
      input += chunk.tool_call_chunks?.map(({ args }) => args ?? '').join('') ?? ''
    expect(JSON.parse(input)).toEqual(call?.args)
    if (call === undefined) throw new Error('no call')
    const result: unknown = await setColor.invoke({ ...call, type: 'tool_call' })
    if (!(result instanceof ToolMessage)) throw new Error('expected the result as a message')
    const answer = await model({ maxTokens: 4 })
      .bindTools([setColor])
      .invoke([...messages, whole, result])
    expect(answer.usage_metadata?.input_tokens).toBeGreaterThan(whole.usage_metadata?.input_tokens ?? Infinity)
  })

  it('speaks the Responses API', async () => {
    const responses = new ChatOpenAI({
      model: MODEL,
      apiKey: 'k1',
      configuration: { baseURL: `${server.url}/v1` },
      useResponsesApi: true,
      temperature: 0,
      maxTokens: 12,
      maxRetries: 0,
    })
    const whole = await responses.invoke(messages)
    let text = ''
    for await (const chunk of await responses.stream(messages)) text += chunk.text
    expect(text).toBe(whole.text)
    expect(text.length).toBeGreaterThan(0)
  })

  it('embeds', async () => {
    const embedder = new OpenAIEmbeddings({
      model: EMBEDDER,
      apiKey: 'k1',
      configuration: { baseURL: `${server.url}/v1` },
      maxRetries: 0,
    })
    const vectors = await embedder.embedDocuments(['a', 'b'])
    expect(vectors).toHaveLength(2)
    expect(vectors[0]?.every((value) => Number.isFinite(value))).toBe(true)
  })
})

describe("the helpers of OpenAI's client", () => {
  const client = () => new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'k1', maxRetries: 0 })
  const messages = [{ role: 'user', content: 'What is it?' }] as const

  it('parse an answer by a Zod schema, whole and streamed', async () => {
    const request = {
      model: MODEL,
      messages: [...messages],
      temperature: 0,
      max_tokens: 200,
      response_format: zodResponseFormat(Place, 'place'),
    }
    const { choices } = await client().chat.completions.parse(request)
    const parsed = choices[0]?.message.parsed
    expect(Place.parse(parsed)).toEqual(parsed)
    const streamed = await client().chat.completions.stream(request).finalChatCompletion()
    expect(streamed.choices[0]?.message.parsed).toEqual(parsed)
  })

  it.each([false, true])('run tools until the answer has no call (streamed: %s)', async (stream) => {
    const seen: unknown[] = []
    const request = {
      model: MODEL,
      messages: [...messages],
      temperature: 0,
      max_tokens: 60,
      tool_choice: { type: 'function', function: { name: 'set_color' } } as const,
      tools: [
        zodFunction({
          name: 'set_color',
          parameters: Color,
          function: ({ color }) => {
            seen.push(color)
            return `it is ${color}`
          },
        }),
      ],
    }
    const runner = stream ? client().chat.completions.runTools({ ...request, stream }) : client().chat.completions.runTools(request) // prettier-ignore
    expect(await runner.finalFunctionToolCallResult()).toBe(`it is ${String(seen[0])}`)
    expect(['red', 'green']).toContain(seen[0])
  })
})
