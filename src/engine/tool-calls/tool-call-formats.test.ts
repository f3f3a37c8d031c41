/**
 * Every form of calls: what a template writes is read back, whatever the arguments are and however the text is cut, and what the grammar
 * allows is a call that satisfies the schema.
 */
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { draw } from '../../../test/engine/grammar-draw.ts'
import { createRandom } from '../../../test/engine/random.ts'
import { modelSettings } from '../../settings/model.ts'
import { createChatTemplate } from '../chat/chat-template.ts'
import type { ToolUse } from '../request.ts'
import { createGrammarCompiler } from '../structured/grammar-compiler.ts'
import { TOOL_CALL_FORMATS } from './tool-call-formats.ts'
import { toolCallFormat } from './tool-call-formats.ts'
import type { ToolCallFormat } from './tool-call-format.ts'
import { toolCallGrammar } from './tool-call-grammar.ts'
import { ToolCallParser } from './tool-call-parser.ts'

type Random = ReturnType<typeof createRandom>
type Name = (typeof TOOL_CALL_FORMATS)[number]['name']

const tokenizer = createByteTokenizer()
const compiler = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

function formatOf(name: Name): ToolCallFormat {
  const format = toolCallFormat(name, null)
  if (format === null) throw new Error(name)
  return format
}

/** How templates of models show the calls of a message, in our words. */
const GEMMA = (
  quote: string,
) => `{%- macro value(v) -%}{%- if v is string -%}{{ '${quote}' + v + '${quote}' }}{%- elif v is boolean -%}{{ 'true' if v else 'false' }}{%- elif v is none -%}{{ 'null' }}
{%- elif v is mapping -%}{{ '{' }}{%- for k, i in v | items -%}{{ k + ':' }}{{ value(i) }}{{ ',' if not loop.last }}{%- endfor -%}{{ '}' }}
{%- elif v is iterable -%}{{ '[' }}{%- for i in v -%}{{ value(i) }}{{ ',' if not loop.last }}{%- endfor -%}{{ ']' }}{%- else -%}{{ v }}{%- endif -%}{%- endmacro -%}`
const MEMBERS = `{%- for k, v in f.arguments | items -%}{{ k + ':' }}{{ value(v) }}{{ ',' if not loop.last }}{%- endfor -%}`
const PYTHONIC = `{{ f.name + '(' }}{%- for k, v in f.arguments | items -%}{{ k + '=' }}{{ v | tojson }}{{ ', ' if not loop.last }}{%- endfor -%}{{ ')' }}`
const XML = (begin: string, end: string) =>
  `{%- for k, v in f.arguments | items -%}{{ '<parameter=' + k + '>${begin}' }}{{ v if v is string else v | tojson }}{{ '${end}</parameter>\\n' }}{%- endfor -%}`
const OBJECT = (key: string, args: string) =>
  `{{ '{"${key}": "' + f.name + '", "${args}": ' }}{{ f.arguments | tojson }}{{ '}' }}`
const TEMPLATES: Readonly<Record<Name, readonly [before: string, call: string, between: string, after: string]>> = {
  openai: ['', `{{ '<|channel|>commentary to=functions.' + f.name + ' <|constrain|>json<|message|>' }}{{ f.arguments | tojson }}{{ '<|call|>' }}`, '', ''],
  gemma4: ['', `{{ '<|tool_call>call:' + f.name + '{' }}${MEMBERS}{{ '}<tool_call|>' }}`, '', ''],
  functiongemma: ['', `{{ '<start_function_call>call:' + f.name + '{' }}${MEMBERS}{{ '}<end_function_call>' }}`, '', ''],
  deepseek_v3: ['<｜tool▁calls▁begin｜>', `{{ '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + f.name + '\\n\`\`\`json\\n' + f.arguments + '\\n\`\`\`<｜tool▁call▁end｜>' }}`, '\\n', '<｜tool▁calls▁end｜>'],
  deepseek_v31: ['<｜tool▁calls▁begin｜>', `{{ '<｜tool▁call▁begin｜>' + f.name + '<｜tool▁sep｜>' + f.arguments + '<｜tool▁call▁end｜>' }}`, '', '<｜tool▁calls▁end｜>'],
  kimi_k2: ['<|tool_calls_section_begin|>', `{{ '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' }}{{ f.arguments | tojson }}{{ '<|tool_call_end|>' }}`, '', '<|tool_calls_section_end|>'],
  lfm2: ['<|tool_call_start|>[', PYTHONIC, ', ', ']<|tool_call_end|>'],
  pythonic: ['[', PYTHONIC, ', ', ']'],
  minimax_m2: ['<minimax:tool_call>\\n', `{{ '<invoke name="' + f.name + '">\\n' }}{%- for k, v in f.arguments | items -%}{{ '<parameter name="' + k + '">' }}{{ v if v is string else v | tojson }}{{ '</parameter>\\n' }}{%- endfor -%}{{ '</invoke>\\n' }}`, '', '</minimax:tool_call>'],
  seed_oss: ['', `{{ '<seed:tool_call>\\n<function=' + f.name + '>\\n' }}${XML('', '')}{{ '</function>\\n</seed:tool_call>' }}`, '\\n', ''],
  qwen3_coder: ['', `{{ '<tool_call>\\n<function=' + f.name + '>\\n' }}${XML('\\n', '\\n')}{{ '</function>\\n</tool_call>' }}`, '\\n', ''],
  glm45: ['', `{{ '\\n<tool_call>' + f.name }}{%- for k, v in f.arguments | items -%}{{ '\\n<arg_key>' + k + '</arg_key>\\n<arg_value>' }}{{ v if v is string else v | tojson }}{{ '</arg_value>' }}{%- endfor -%}{{ '\\n</tool_call>' }}`, '', ''],
  hermes: ['', `{{ '<tool_call>\\n' }}${OBJECT('name', 'arguments')}{{ '\\n</tool_call>' }}`, '\\n', ''],
  mistral_args: ['', `{{ '[TOOL_CALLS]' + f.name + '[ARGS]' }}{{ f.arguments | tojson }}`, '', ''],
  mistral: ['[TOOL_CALLS] [', OBJECT('name', 'arguments'), ', ', ']'],
  command_a: ['<|START_ACTION|>[\\n', OBJECT('tool_name', 'parameters'), ',\\n', '\\n]<|END_ACTION|>'],
  llama3_json: ['', OBJECT('name', 'parameters'), '; ', ''],
} // prettier-ignore

function templateOf(name: Name) {
  const [before, call, between, after] = TEMPLATES[name]
  const macros = name === 'gemma4' ? GEMMA('<|"|>') : name === 'functiongemma' ? GEMMA('<escape>') : ''
  return createChatTemplate(
    `${macros}{%- for m in messages -%}{%- if m.role == 'assistant' -%}{{ '${before}' }}{%- for call in m.tool_calls -%}{%- set f = call.function -%}${call}{{ '${between}' if not loop.last }}{%- endfor -%}{{ '${after}' }}{%- else -%}{{ m.content + '|' }}{%- endif -%}{%- endfor -%}`,
    { bosToken: null, eosToken: null },
  )
}

interface Call {
  readonly name: string
  readonly arguments: string
}

function read(
  name: Name,
  pieces: readonly string[],
  functions: ReadonlyMap<string, unknown>,
): { text: string; calls: Call[] } {
  const newId = (called: string, numBefore: number) => `${called} ${numBefore}`
  const parser = new ToolCallParser({ format: formatOf(name), functions, newId })
  const parts = [...pieces.map((piece) => parser.push(piece)), parser.flush()]
  const calls: { name: string; arguments: string }[] = []
  for (const delta of parts.flatMap((part) => part.calls)) {
    const call = (calls[delta.index] ??= { name: delta.name ?? '', arguments: '' })
    call.arguments += delta.arguments
  }
  return { text: parts.map(({ text }) => text).join(''), calls }
}

/** Whole, character by character, and in pieces of any length. */
function cutsOf(text: string, random: Random): string[][] {
  const pieces: string[] = []
  const characters = Array.from(text)
  for (let at = 0; at < characters.length;) {
    const length = 1 + Math.floor(random.next() * 7)
    pieces.push(characters.slice(at, at + length).join(''))
    at += length
  }
  return [[text], characters, pieces]
}

const TEXTS = ['', 'a', ' lead', 'trail ', 'two\nlines', '\n', '5', 'true', 'null', '{"a": 1}', '<b>&', 'it said "no"', '\\', '\\n', 'é😀', '[x(1)]', ', )]}', '<', '</par', '<tool', 'x'.repeat(70), '\u2028\t', 'a=b:c'] // prettier-ignore
const NUMBERS = ['0', '-1', '1.0', '1e5', '12345678901234567890', '0.1', '-2.50']
const KEYS = ['a', 'b_1', 'city', 'Ünï', 'k2']

/** A value as JSON text, and a schema that it satisfies. */
function anyValue(random: Random, depth: number): { json: string; schema: Record<string, unknown> } {
  switch (
    random.pick(depth === 0 ? ['string', 'number', 'word'] : ['string', 'string', 'number', 'word', 'array', 'object'])
  ) {
    case 'string':
      return { json: JSON.stringify(random.pick(TEXTS)), schema: { type: 'string' } }
    case 'number':
      return { json: random.pick(NUMBERS), schema: { type: 'number' } }
    case 'word':
      return random.pick([
        { json: random.pick(['true', 'false']), schema: { type: 'boolean' } },
        { json: 'null', schema: { type: ['object', 'null'] } },
      ])
    case 'array': {
      const items = Array.from({ length: Math.floor(random.next() * 3) }, () => anyValue(random, depth - 1))
      return { json: `[${items.map(({ json }) => json).join(', ')}]`, schema: { type: 'array' } }
    }
    default:
      return { json: anyObject(random, depth - 1).json, schema: { type: 'object' } }
  }
}

function anyObject(random: Random, depth: number): { json: string; schema: Record<string, unknown> } {
  const members = KEYS.filter(() => random.next() < 0.5).map((key) => ({ key, ...anyValue(random, depth) }))
  return {
    json: `{${members.map(({ key, json }) => `${JSON.stringify(key)}: ${json}`).join(', ')}}`,
    schema: { type: 'object', properties: Object.fromEntries(members.map(({ key, schema }) => [key, schema])) },
  }
}

/** Numbers as text: 1.0 is not 1. */
const digits = (json: string): unknown => JSON.parse(json.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) => (token.startsWith('"') ? token : `"#${token}"`))) // prettier-ignore

describe.each(TOOL_CALL_FORMATS.map(({ name }) => name))('%s', (name) => {
  const template = templateOf(name)
  const isSingle = name === 'openai' || name === 'llama3_json'

  it('is found in a template that shows its calls', () => {
    expect(toolCallFormat('auto', name === 'pythonic' ? '[func_name1(a=b)]' : template.source)?.name).toBe(name)
  })

  it('reads back what a template writes, digit for digit, however it is cut', () => {
    const random = createRandom(11)
    for (let i = 0; i < 24; i++) {
      const numCalls = isSingle ? 1 : 1 + Math.floor(random.next() * 3)
      const drawn = Array.from({ length: numCalls }, (_, j) => ({
        name: `get_${'xyz'[j] ?? ''}`,
        ...anyObject(random, 2),
      }))
      const functions = new Map(drawn.map((call) => [call.name, call.schema]))
      const toolCalls = drawn.map((call, j) => ({
        id: `functions.${call.name}:${j}`,
        name: call.name,
        arguments: call.json,
      }))
      const written = template.render(
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', content: '', toolCalls },
        ],
        { addGenerationPrompt: false },
      )
      const text = written.slice(written.indexOf('|') + 1)
      for (const pieces of cutsOf(text, random)) {
        const { text: rest, calls } = read(name, pieces, functions)
        expect(rest.trim(), text).toBe('')
        expect(calls.map((call) => call.name), text).toEqual(drawn.map((call) => call.name)) // prettier-ignore
        for (const [j, call] of calls.entries())
          expect(digits(call.arguments), text).toEqual(digits(drawn[j]?.json ?? ''))
      }
    }
  })

  it('keeps what there is of a call that is cut off, and leaves what is none as it is', () => {
    const random = createRandom(3)
    const toolCalls = [{ id: 'functions.f:0', name: 'f', arguments: '{"a": "some text", "b": [1, 2]}' }]
    const written = template.render([{ role: 'user', content: 'x' }, { role: 'assistant', content: '', toolCalls }], { addGenerationPrompt: false }) // prettier-ignore
    const text = written.slice(written.indexOf('|') + 1)
    const functions = new Map([['f', { type: 'object', properties: { a: { type: 'string' }, b: { type: 'array' } } }]])
    for (let length = 0; length <= text.length; length++) {
      const [whole, ...others] = cutsOf(text.slice(0, length), random).map((pieces) => read(name, pieces, functions))
      for (const other of others) expect(other).toEqual(whole)
      if (whole?.calls.length === 0) expect(whole.text).toBe(text.slice(0, length))
      else expect('{"a": "some text", "b": [1, 2]}'.startsWith(whole?.calls[0]?.arguments ?? 'no')).toBe(true)
      // A function that nobody offered.
      expect(read(name, [text.slice(0, length)], new Map([['g', {}]]))).toEqual({
        text: text.slice(0, length),
        calls: [],
      })
    }
  })

  it('holds required calls to the schema', async () => {
    const parameters = {
      type: 'object',
      properties: {
        city: { type: 'string', minLength: 1, maxLength: 5 },
        level: { type: 'integer', minimum: 1, maximum: 9 },
        kind: { enum: ['a b', 'c"d', 7, null, true] },
        tags: { type: 'array', items: { type: 'string', pattern: '^[a-z<]{1,3}$' }, maxItems: 2 },
        either: {
          anyOf: [
            { type: 'string', maxLength: 4 },
            { type: 'integer', minimum: 3, maximum: 5 },
          ],
        },
        inner: {
          type: 'object',
          properties: { on: { type: 'boolean' } },
          required: ['on'],
          additionalProperties: false,
        },
      },
      required: ['city', 'level', 'either'],
      additionalProperties: false,
    }
    const tools = [
      { type: 'function', function: { name: 'weather', parameters } },
      { type: 'function', function: { name: 'now' } },
    ]
    const validate = new Ajv2020({ strict: false }).compile(parameters)
    const use: ToolUse = { tools, choice: 'required', parallel: true }
    const functions = new Map<string, unknown>([['weather', parameters], ['now', undefined]]) // prettier-ignore
    const grammar = toolCallGrammar(formatOf(name), use, tokenizer)
    if (grammar === null) throw new Error('expected a grammar')
    let numDrawn = 0
    for (let seed = 1; seed <= 5; seed++) {
      const text = await draw(compiler, { kind: 'tool_calls', grammar }, seed, { closing: '"]},:)>e', maxBytes: 1500 })
      if (text === null) continue
      const { text: rest, calls } = read(name, [text], functions)
      expect(rest.trim(), text).toBe('')
      expect(calls.length, text).toBeGreaterThan(0)
      for (const call of calls) {
        const value: unknown = JSON.parse(call.arguments)
        if (call.name === 'now') expect(value).toEqual({})
        else expect(validate(value), `${text} ${JSON.stringify(validate.errors)}`).toBe(true)
        numDrawn++
      }
    }
    expect(numDrawn).toBeGreaterThan(0)
  })
})

it('every form can be named by the flag', () => {
  const names = ['auto', 'none', ...TOOL_CALL_FORMATS.map(({ name }) => name)]
  expect(modelSettings.toolCallParser.unwrap().out.options.toSorted()).toEqual(names.toSorted())
})
