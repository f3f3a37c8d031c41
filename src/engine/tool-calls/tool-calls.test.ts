/** Calls of functions through the whole engine: what is asked for, what is drawn, and what comes out as events. */
import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { openScriptedEngine } from '../../../test/engine/scripted-engine.ts'
import type { Engine, GenerationEvent, GenerationRequest, ToolUse } from '../request.ts'
import type { ToolCallParserName } from './tool-call-formats.ts'

const engines = new Map<string, Engine>()
afterAll(async () => {
  for (const engine of engines.values()) await engine.close()
})

const SPECIAL = ['<tool_call>', '[TOOL_CALLS]', '<|python_tag|>']

function open(toolCallParser: ToolCallParserName, special: readonly string[] = SPECIAL): Engine {
  const key = `${toolCallParser} ${special.length}`
  const known = engines.get(key)
  if (known !== undefined) return known
  const { engine } = openScriptedEngine(
    { toolCallParser, speculation: true },
    { numBlocks: 256, blockSize: 16, vocabSize: 264, eosTokenIds: [EOS] },
    createByteTokenizer(special),
  )
  engines.set(key, engine)
  return engine
}

const color = {
  type: 'function',
  function: {
    name: 'color',
    parameters: { type: 'object', properties: { value: { enum: ['red', 'green'] } }, required: ['value'] },
  },
}
const stop = { type: 'function', function: { name: 'stop' } }
const use = (fields: Partial<ToolUse> = {}): ToolUse => ({
  tools: [color, stop],
  choice: 'auto',
  parallel: true,
  ...fields,
})

interface Choice {
  text: string
  calls: { id: string; name: string; arguments: string }[]
  tokenIds: number[]
  end: string
}

function choicesOf(events: readonly GenerationEvent[]): Choice[] {
  const choices: Choice[] = []
  for (const event of events) {
    if (event.type !== 'token' && event.type !== 'finished') continue
    const choice = (choices[event.choice] ??= { text: '', calls: [], tokenIds: [], end: '' })
    if (event.type === 'finished') {
      choice.end = event.reason
      continue
    }
    choice.text += event.text
    choice.tokenIds.push(...event.tokenIds)
    for (const { index, id, name, arguments: args } of event.toolCalls ?? []) {
      const call = (choice.calls[index] ??= { id: id ?? '', name: name ?? '', arguments: '' })
      call.arguments += args
    }
  }
  return choices
}

async function run(engine: Engine, fields: Partial<GenerationRequest>): Promise<Choice[]> {
  const { events } = await collect(engine, request({ maxTokens: 400, ...fields }))
  return choicesOf(events)
}

/** An answer whose text is known: the scripted model has no choice. */
const says = (text: string) => ({ structured: { kind: 'choice', choices: [text] } }) as const

describe('a required call', () => {
  it.each([
    ['hermes', [259, 10]],
    ['mistral', [260]],
    ['llama3_json', []],
  ] as const)('begins with what the format %s forces, token by token', async (format, forced) => {
    const choices = await run(open(format), {
      toolUse: use({ choice: 'required', parallel: false }),
      n: 3,
      sampling: { ...request({}).sampling, temperature: 1.5, seed: 7 },
    })
    expect(choices).toHaveLength(3)
    for (const { text, calls, tokenIds, end } of choices) {
      expect(tokenIds.slice(0, forced.length)).toEqual(forced)
      expect(tokenIds.filter((token) => token > EOS + 2)).toEqual(forced.filter((token) => token > EOS + 2))
      expect({ text, end }).toEqual({ text: '', end: 'stop' })
      expect(calls).toHaveLength(1)
      const [{ id, name, arguments: args } = { id: '', name: '', arguments: '' }] = calls
      expect(id).toMatch(format === 'mistral' ? /^[a-z0-9]{9}$/ : /^call_[a-z0-9]{24}$/)
      if (name === 'stop') expect(args).toBe('{}')
      else expect(['{"value": "red"}', '{"value": "green"}']).toContain(args)
    }
  })

  it('is spelled where the vocabulary has no token for its marker', async () => {
    const [choice] = await run(open('hermes', []), { toolUse: use({ choice: { name: 'stop' } }) })
    expect(choice).toMatchObject({ text: '', calls: [{ name: 'stop', arguments: '{}' }], end: 'stop' })
    expect(Buffer.from(choice?.tokenIds ?? []).toString()).toBe('<tool_call>\n{"name": "stop", "arguments": {}}')
  })

  it('that is cut off ends with length, and keeps what there is', async () => {
    const toolUse = use({ choice: { name: 'color' } })
    const whole = '{"name": "color", "parameters": {"value": "'
    const [cut] = await run(open('llama3_json'), { toolUse, maxTokens: whole.length })
    expect(cut).toMatchObject({ text: '', calls: [{ name: 'color', arguments: '{"value": "' }], end: 'length' })
    const [early] = await run(open('llama3_json'), { toolUse, maxTokens: 8 })
    expect(early).toMatchObject({ text: '{"name":', calls: [], end: 'length' })
  })

  it('is refused where the format is not known', async () => {
    await expect(run(open('auto'), { toolUse: use({ choice: 'required' }) })).rejects.toThrow(
      expect.objectContaining({ code: 'invalid_request', param: 'tool_choice' }),
    )
  })
})

describe('a call of the model’s own accord', () => {
  const CALL = '<tool_call>\n{"name": "stop", "arguments": {"a": 1}}\n</tool_call>'

  it('is parsed, and its content stays beside it', async () => {
    const [choice] = await run(open('hermes', []), { toolUse: use(), ...says(`So be it. ${CALL}\n${CALL}`) })
    expect(choice?.text).toBe('So be it.')
    expect(choice?.calls.map(({ name, arguments: args }) => [name, args])).toEqual([
      ['stop', '{"a": 1}'],
      ['stop', '{"a": 1}'],
    ])
    expect(new Set(choice?.calls.map(({ id }) => id)).size).toBe(2)
  })

  it('ends the answer where one is enough', async () => {
    const toolUse = use({ parallel: false })
    const [choice] = await run(open('hermes', []), { toolUse, ...says(`${CALL}\n${CALL}`) })
    expect(choice).toMatchObject({ text: '', calls: [{ name: 'stop', arguments: '{"a": 1}' }], end: 'stop' })
    expect(choice?.tokenIds).toHaveLength(CALL.indexOf('\n</tool_call>'))
  })

  it('stays text without tools, without a known format, and in an answer of JSON', async () => {
    const hermes = open('hermes', [])
    expect(await run(hermes, says(CALL))).toMatchObject([{ text: CALL, calls: [] }])
    expect(await run(open('none', []), { toolUse: use(), ...says(CALL) })).toMatchObject([{ text: CALL, calls: [] }])
    const schema = { const: CALL }
    const json = await run(hermes, { toolUse: use(), structured: { kind: 'json_schema', schema } })
    expect(json).toMatchObject([{ calls: [] }])
    expect(JSON.parse(json[0]?.text ?? '')).toBe(CALL)
  })

  it('is not cut by stop strings, which end the text around it', async () => {
    const [choice] = await run(open('hermes', []), { toolUse: use(), stop: ['"a"'], ...says(`x ${CALL} y "a" z`) })
    expect(choice).toMatchObject({ text: 'x y', calls: [{ name: 'stop', arguments: '{"a": 1}' }], end: 'stop' })
  })
})
