import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { createRandom } from '../../../test/engine/random.ts'
import { createGrammarCompiler } from '../structured/grammar-compiler.ts'
import type { ToolUse } from '../request.ts'
import { toolCallFormat } from './tool-call-formats.ts'
import type { ToolCallFormat } from './tool-call-format.ts'
import type { ToolCallParserName } from './tool-call-formats.ts'
import { toolCallGrammar } from './tool-call-grammar.ts'
import { ToolCallParser } from './tool-call-parser.ts'

const tokenizer = createByteTokenizer()
const compiler = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

const tool = (name: string, parameters?: unknown) => ({
  type: 'function',
  function: { name, ...(parameters === undefined ? {} : { parameters }) },
})
const weather = tool('weather', {
  type: 'object',
  properties: {
    city: { $ref: '#/$defs/city' },
    days: { type: 'integer', minimum: 1, maximum: 9 },
    tags: { type: 'array', items: { enum: ['a"', 'b'] }, maxItems: 3 },
  },
  required: ['city', 'days'],
  $defs: { city: { type: 'string', minLength: 1, maxLength: 4 } },
})
const tools = [weather, tool('now'), tool('quo"te', {})]
const use = (fields: Partial<ToolUse> = {}): ToolUse => ({ tools, choice: 'required', parallel: true, ...fields })

function formatOf(name: ToolCallParserName): ToolCallFormat {
  const format = toolCallFormat(name, null)
  if (format === null) throw new Error(name)
  return format
}

/** What a model without any preference writes under the grammar; null when it found no end. */
async function draw(name: ToolCallParserName, fields: Partial<ToolUse>, seed: number): Promise<string | null> {
  const format = formatOf(name)
  const grammar = toolCallGrammar(format, use(fields), tokenizer)
  if (grammar === null) throw new Error('expected a grammar')
  const matcher = await (await compiler.compile({ kind: 'tool_calls', grammar })).createMatcher()
  const random = createRandom(seed)
  const tokens: number[] = []
  try {
    while (tokens.length < 1000) {
      const mask = await matcher.mask()
      // ASCII and the end: bytes at random make no characters.
      const allowed = Array.from({ length: EOS + 1 }, (_, token) => token).filter(
        (token) => (token < 128 || token === EOS) && ((mask[token >> 5] ?? 0) >>> (token & 31)) & 1,
      )
      const token = allowed.includes(EOS) && random.next() < 0.5 ? EOS : random.pick(allowed)
      matcher.accept(token)
      if (token === EOS) return tokenizer.decode(tokens)
      tokens.push(token)
    }
    return null
  } finally {
    matcher.close()
  }
}

/** Name and arguments of the calls in a text, which must have nothing else in it. */
function callsOf(name: ToolCallParserName, text: string): { name: string; arguments: Record<string, unknown> }[] {
  const parser = new ToolCallParser({
    format: formatOf(name),
    functions: new Map(tools.map((tool) => [tool.function.name, tool.function.parameters])),
    newId: () => '',
  })
  const parts = [parser.push(text), parser.flush()]
  expect(parts.map((part) => part.text).join('')).toBe('')
  const calls: { name: string; text: string }[] = []
  for (const delta of parts.flatMap((part) => part.calls)) {
    const call = (calls[delta.index] ??= { name: delta.name ?? '', text: '' })
    call.text += delta.arguments
  }
  return calls.map((call) => ({ name: call.name, arguments: JSON.parse(call.text) as Record<string, unknown> }))
}

describe('a required call', () => {
  it.each(['hermes', 'llama3_json', 'mistral'] as const)(
    'is valid in the format %s, whatever is drawn',
    async (name) => {
      const drawn = new Set<string>()
      let most = 0
      for (let seed = 1; seed <= 12; seed++) {
        const text = await draw(name, {}, seed)
        if (text === null) continue
        const calls = callsOf(name, text)
        expect(calls.length).toBeGreaterThan(0)
        most = Math.max(most, calls.length)
        for (const call of calls) {
          drawn.add(call.name)
          if (call.name !== 'weather') expect(call.arguments).toEqual({})
          else {
            const { city, days, tags = [] } = call.arguments
            expect(String(city)).toMatch(/^[^]{1,4}$/)
            expect(Number(days)).toBeGreaterThanOrEqual(1)
            expect(['a"', 'b']).toEqual(expect.arrayContaining(tags as string[]))
          }
        }
      }
      expect(drawn.size).toBeGreaterThan(1)
      expect(most > 1).toBe(name !== 'llama3_json')
    },
  )

  it('is one where parallel calls are off, and of the function that was named', async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const [single, named] = [
        await draw('hermes', { parallel: false }, seed),
        await draw('mistral', { choice: { name: 'now' } }, seed),
      ]
      expect(callsOf('hermes', single ?? '')).toHaveLength(1)
      expect(named).toBe('[TOOL_CALLS][{"name": "now", "arguments": {}}]')
    }
  })
})

it('parameters that may be an object or something else are an object', () => {
  const nullable = tool('x', { type: ['object', 'null'], properties: { a: { type: 'integer' } } })
  const grammar = toolCallGrammar(formatOf('hermes'), use({ tools: [nullable] }), tokenizer)
  expect(grammar?.functions[0]?.schema).toMatchObject({ type: 'object', properties: { a: { type: 'integer' } } })
  const asOpenApi = toolCallGrammar(
    formatOf('hermes'),
    use({ tools: [tool('x', { type: 'object', nullable: true })] }),
    tokenizer,
  )
  expect(asOpenApi?.functions[0]?.schema).toMatchObject({ type: 'object', nullable: false })
})

describe('a request is refused by name', () => {
  it.each([
    ['tools.1.function.parameters', tool('x', { type: 'string' })],
    ['tools.1.function.parameters', tool('x', { type: ['string', 'null'] })],
    ['tools.1.function.parameters', tool('x', ['a'])],
    ['tools.1.function.parameters', tool('x', { type: { toString: 1 } })],
  ])('%s, when it is no schema of an object', (param, second) => {
    const refused = () => toolCallGrammar(formatOf('hermes'), use({ tools: [weather, second] }), tokenizer)
    expect(refused).toThrow(expect.objectContaining({ code: 'invalid_request', param }))
    // Nobody asked for that function.
    toolCallGrammar(formatOf('hermes'), use({ tools: [weather, second], choice: { name: 'weather' } }), tokenizer)
  })

  it('tools.0.function.parameters, when they are strict and cannot be enforced', async () => {
    const parameters = { type: 'object', properties: { a: { not: { format: 'date' } } } }
    const compile = (strict: boolean) => {
      const tools = [{ type: 'function', function: { name: 'x', parameters, strict } }]
      const grammar = toolCallGrammar(formatOf('hermes'), use({ tools }), tokenizer)
      if (grammar === null) throw new Error('expected a grammar')
      return compiler.compile({ kind: 'tool_calls', grammar })
    }
    const problem = 'tools.0.function.parameters: the schema cannot be enforced: "not" at #/properties/a'
    await expect(compile(true)).rejects.toThrow(problem)
    expect((await compile(false)).warnings).toEqual([
      'tools.0.function.parameters: not enforced: "not" at #/properties/a',
    ])
  })

  it('tool_choice, where the format is not known; auto asks for nothing', () => {
    expect(() => toolCallGrammar(null, use(), tokenizer)).toThrow(expect.objectContaining({ param: 'tool_choice' }))
    expect(toolCallGrammar(null, use({ choice: 'auto' }), tokenizer)).toBeNull()
  })
})
