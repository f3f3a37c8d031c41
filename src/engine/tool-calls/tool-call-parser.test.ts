import { describe, expect, it } from 'vitest'
import { toolCallFormat } from './tool-call-formats.ts'
import type { ToolCallParserName } from './tool-call-formats.ts'
import { ToolCallParser } from './tool-call-parser.ts'

interface Call {
  id: string
  name: string
  arguments: string
}

interface Parsed {
  text: string
  calls: Call[]
}

const OFFERED: ReadonlyMap<string, unknown> = new Map(['f', 'g', 'é"'].map((name) => [name, {}]))

/** The pieces as a client joins them. */
function parse(format: ToolCallParserName, pieces: readonly string[]): Parsed {
  let numIds = 0
  const found = toolCallFormat(format, null)
  if (found === null) throw new Error(format)
  const parser = new ToolCallParser({ format: found, functions: OFFERED, newId: () => `id${numIds++}` })
  const result: Parsed = { text: '', calls: [] }
  for (const { text, calls } of [...pieces.map((piece) => parser.push(piece)), parser.flush()]) {
    result.text += text
    for (const call of calls) {
      if (call.id !== null) {
        expect(call.index).toBe(result.calls.length)
        result.calls.push({ id: call.id, name: call.name ?? '', arguments: '' })
      }
      const target = result.calls[call.index]
      if (target === undefined) throw new Error(`piece of call ${call.index} before its beginning`)
      target.arguments += call.arguments
    }
  }
  return result
}

const call = (name: string, args: string, id = 0): Call => ({ id: `id${id}`, name, arguments: args })
const F = '{"name": "f", "arguments": {"a": [1, "}<"], "b": "\\"]"}}'
const F_ARGS = '{"a": [1, "}<"], "b": "\\"]"}'

const cases: [ToolCallParserName, string, Parsed][] = [
  // Hermes
  ['hermes', `<tool_call>\n${F}\n</tool_call>`, { text: '', calls: [call('f', F_ARGS)] }],
  ['hermes', `Let me see.\n\n<tool_call>${F}</tool_call>\n`, { text: 'Let me see.', calls: [call('f', F_ARGS)] }],
  [
    'hermes',
    `<tool_call>\n${F}\n</tool_call>\n<tool_call>\n{"arguments": {"x": 1}, "name": "g"}\n</tool_call>`,
    { text: '', calls: [call('f', F_ARGS), call('g', '{"x": 1}', 1)] },
  ],
  ['hermes', `<tool_call>${F}</tool_call> and so on `, { text: ' and so on', calls: [call('f', F_ARGS)] }],
  ['hermes', `a <tool_call>${F}\n</tool_call>\n\nb`, { text: 'a\n\nb', calls: [call('f', F_ARGS)] }],
  ['hermes', `<tool_call>${F}<tool_call>{"name":"g"}`, { text: '', calls: [call('f', F_ARGS), call('g', '{}', 1)] }],
  ['hermes', '<tool_call>{"id": 7, "name": "g", "x": [{"name": "q"}]}', { text: '', calls: [call('g', '{}')] }],
  ['hermes', '<tool_call>{"name": "f", "arguments": null}', { text: '', calls: [call('f', '{}')] }],
  ['hermes', '<tool_call>{"name": "\\u00e9\\"", "parameters": {}}', { text: '', calls: [call('é"', '{}')] }],
  ['hermes', '<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}', { text: '', calls: [call('f', '{"a": 1}')] }],
  // Llama
  ['llama3_json', ' {"name": "f", "parameters": {"a": 1}}', { text: '', calls: [call('f', '{"a": 1}')] }],
  ['llama3_json', '<|python_tag|>{"name": "f", "parameters": {}}', { text: '', calls: [call('f', '{}')] }],
  [
    'llama3_json',
    '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 2}}',
    { text: '', calls: [call('f', '{}'), call('g', '{"a": 2}', 1)] },
  ],
  // Mistral
  ['mistral', `[TOOL_CALLS] [${F}]`, { text: '', calls: [call('f', F_ARGS)] }],
  [
    'mistral',
    `[TOOL_CALLS][${F}, {"name": "g", "arguments": {}, "id": "abcdefghi"}]\nDone.`,
    { text: '\nDone.', calls: [call('f', F_ARGS), call('g', '{}', 1)] },
  ],
  // Mistral, later: with a call's id between, without [ARGS], and several of them
  ['mistral_args', `Wait. [TOOL_CALLS]f[ARGS]${F_ARGS}`, { text: 'Wait.', calls: [call('f', F_ARGS)] }],
  ['mistral_args', '[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}', { text: '', calls: [call('f', '{}')] }],
  [
    'mistral_args',
    '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g [ARGS] {}',
    { text: '', calls: [call('f', '{"a": 1}'), call('g', '{}', 1)] },
  ],
  // Qwen3-Coder: what the schema does not tell, white space that models add or leave out, an opening tag that they forget
  [
    'qwen3_coder',
    'I look.\n<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\nx\n\ny\n</parameter>\n</function>\n</tool_call>\n',
    { text: 'I look.', calls: [call('f', '{"a": 1, "b": "x\\n\\ny"}')] },
  ],
  [
    'qwen3_coder',
    '<function=f><parameter=a>True</parameter><parameter=c>{"k": [1.0]}</parameter></function></tool_call><tool_call><function=g></function></tool_call>',
    { text: '', calls: [call('f', '{"a": true, "c": {"k": [1.0]}}'), call('g', '{}', 1)] },
  ],
  ['qwen3_coder', "<tool_call><function=f><parameter=a>['x', None]</parameter></function>", { text: '', calls: [call('f', '{"a": ["x", null]}')] }], // prettier-ignore
  ['seed_oss', '<seed:tool_call><function=f><parameter=a>x</parameter></function></seed:tool_call>', { text: '', calls: [call('f', '{"a": "x"}')] }], // prettier-ignore
  ['glm45', '<tool_call>f<arg_key>a</arg_key><arg_value>2</arg_value></tool_call>', { text: '', calls: [call('f', '{"a": 2}')] }], // prettier-ignore
  ['glm45', '<tool_call>g\n</tool_call>\n<tool_call>f</tool_call> ok', { text: ' ok', calls: [call('g', '{}'), call('f', '{}', 1)] }], // prettier-ignore
  ['minimax_m2', '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n<invoke name="g">\n</invoke>\n</minimax:tool_call>', { text: '', calls: [call('f', '{"a": 1}'), call('g', '{}', 1)] }], // prettier-ignore
  // Python
  [
    'pythonic',
    `[f(a='it\\'s', b=[1, 2.5, -3e2], c={"k": True, 'n': None}), g()]`,
    {
      text: '',
      calls: [call('f', '{"a": "it\'s", "b": [1, 2.5, -3e2], "c": {"k": true, "n": null}}'), call('g', '{}', 1)],
    },
  ],
  ['lfm2', `<|tool_call_start|>[f(a='don't "do" it', b=(1,))]<|tool_call_end|>Now.`, { text: 'Now.', calls: [call('f', '{"a": "don\'t \\"do\\" it", "b": [1]}')] }], // prettier-ignore
  ['lfm2', '<|tool_call_start|>[ f( a = "\\u00e9\\x41\\d" , ) ]<|tool_call_end|>', { text: '', calls: [call('f', '{"a": "\\u00e9\\u0041\\\\d"}')] }], // prettier-ignore
  // Gemma
  ['gemma4', '<|tool_call>call:f{a:<|"|>x, "y"}<|"|>,b:[1,{c:true}]}<tool_call|><|tool_call>call:g{}<tool_call|>', { text: '', calls: [call('f', '{"a": "x, \\"y\\"}", "b": [1, {"c": true}]}'), call('g', '{}', 1)] }], // prettier-ignore
  ['functiongemma', '<start_function_call>call:f{a:<escape>x<escape>, b:<escape><escape>}<end_function_call>', { text: '', calls: [call('f', '{"a": "x", "b": ""}')] }], // prettier-ignore
  // DeepSeek
  [
    'deepseek_v3',
    'Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "```"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    { text: 'Hm.', calls: [call('f', '{"a": "```"}'), call('g', '{}', 1)] },
  ],
  ['deepseek_v31', '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', { text: '', calls: [call('f', '{}')] }], // prettier-ignore
  ['kimi_k2', '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_call_begin|>g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>', { text: '', calls: [call('f', '{}'), call('g', '{}', 1)] }], // prettier-ignore
  ['command_a', '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}\n]<|END_ACTION|>', { text: '', calls: [call('f', '{"a": 1}')] }], // prettier-ignore
  ['openai', '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>', { text: '', calls: [call('f', '{"a": 1}')] }], // prettier-ignore
  ['openai', '<|channel|>commentary to=functions.f<|message|>{}', { text: '', calls: [call('f', '{}')] }],
]

/** What is no call is content, every character of it. */
const content: [ToolCallParserName, string][] = [
  ['hermes', 'no call at all: < <tool <tool_cal> {"name": "f"} \n\n'],
  ['hermes', ' \n'],
  ['hermes', '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'],
  ['hermes', '<tool_call>not json</tool_call>'],
  ['hermes', '<tool_call>{}</tool_call>'],
  ['hermes', '<tool_call>{"arguments": {"a": 1}}</tool_call> x'],
  ['hermes', '<tool_call>{"name": 3, "arguments": {}}</tool_call>'],
  ['hermes', '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'],
  ['hermes', '<tool_call>{"name": "f", "argum'],
  ['hermes', '<tool_call>{"name": "f"'],
  ['hermes', 'x <tool_call>'],
  ['hermes', 'x <tool_'],
  ['hermes', '<tool_call>{"a": {]}, "name": "f", "arguments": {}}'],
  ['llama3_json', '{"name": "Alice", "parameters": {"age": 3}} is JSON'],
  ['llama3_json', 'The answer: {"name": "f", "parameters": {}}'],
  ['llama3_json', '<|python_tag|>brave.call(query="x")'],
  ['llama3_json', '{"answer": 42}\n'],
  ['mistral', '[TOOL_CALLS] []'],
  ['mistral', '[TOOL_CALLS] f{"a": 1}'],
  ['mistral', '[TOOL_CALLS]'],
  ['mistral_args', '[TOOL_CALLS]unknown[ARGS]{}'],
  ['mistral_args', '[TOOL_CALLS]f [ARGS] none'],
  ['qwen3_coder', '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'],
  ['qwen3_coder', '<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>'],
  ['qwen3_coder', '<tool_call>\n<function=f'],
  ['glm45', '<tool_call>{"name": "f"}</tool_call>'],
  ['pythonic', 'See [f(1)] and [1, 2] and [f(x)] and [other(a=1)]; f(a=1).'],
  ['lfm2', '<|tool_call_start|>[f("positional")]<|tool_call_end|>'],
  ['gemma4', '<|tool_call>f{}<tool_call|>'],
  ['functiongemma', '<start_function_call>call:f<end_function_call>'],
  ['deepseek_v3', '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f{}'],
  ['kimi_k2', '<|tool_calls_section_begin|><|tool_calls_section_end|>'],
]

/** Every place to cut in two, every character alone, and all at once. */
function* cuts(text: string): Generator<string[]> {
  yield [text]
  yield text.split('')
  for (let i = 1; i < text.length; i++) yield [text.slice(0, i), text.slice(i)]
}

describe('calls', () => {
  it.each(cases)('%s: %j', (format, text, expected) => {
    for (const pieces of cuts(text)) expect(parse(format, pieces)).toEqual(expected)
  })

  it('whose arguments are cut off keep what there is, and end with nothing lost', () => {
    for (const pieces of cuts('<tool_call>{"name": "f", "arguments": {"city": "Par'))
      expect(parse('hermes', pieces)).toEqual({ text: '', calls: [call('f', '{"city": "Par')] })
  })

  it('whose arguments are no JSON keep them as the model wrote them, up to the format’s end', () => {
    for (const pieces of cuts('<tool_call>{"name": "f", "arguments": {"a": (]}</x>}\n</tool_call> more'))
      expect(parse('hermes', pieces)).toEqual({ text: ' more', calls: [call('f', '{"a": (]}</x>}\n')] })
    for (const pieces of cuts('[TOOL_CALLS] [{"name": "f", "arguments": {"a": ]}}]'))
      expect(parse('mistral', pieces)).toEqual({ text: '', calls: [call('f', '{"a": ]}}]')] })
  })

  it('whose arguments are no literals keep them likewise, the words of JavaScript too', () => {
    for (const word of ['nothing', 'constructor', '__proto__', 'toString'])
      for (const pieces of cuts(`<|tool_call_start|>[f(a=1, b=${word}, c=2)]<|tool_call_end|> more`))
        expect(parse('lfm2', pieces)).toEqual({ text: ' more', calls: [call('f', `{"a": 1, "b": ${word}, c=2)]`)] })
    for (const escape of ['\\xZ', '\\uD8"', '\\U00110000'])
      for (const pieces of cuts(`<|tool_call_start|>[f(a="x${escape}")]<|tool_call_end|> more`))
        expect(parse('lfm2', pieces)).toEqual({ text: ' more', calls: [call('f', `{"a": "x${escape}")]`)] })
  })

  it('that nothing readable follows stand, and the rest is content', () => {
    for (const pieces of cuts('<tool_call>{"name": "f", "arguments": {"a": 1} oops</tool_call>'))
      expect(parse('hermes', pieces)).toEqual({ text: 'oops</tool_call>', calls: [call('f', '{"a": 1}')] })
    for (const pieces of cuts('{"name": "f", "parameters": {}}; really'))
      expect(parse('llama3_json', pieces)).toEqual({ text: '; really', calls: [call('f', '{}')] })
  })

  it('come through after one that is broken', () => {
    for (const pieces of cuts('<tool_call>{<tool_call>{"name": "f"}</tool_call>'))
      expect(parse('hermes', pieces)).toEqual({ text: '<tool_call>{', calls: [call('f', '{}')] })
  })
})

describe('what is no call', () => {
  it.each(content)('%s: %j stays as it is', (format, text) => {
    for (const pieces of cuts(text)) expect(parse(format, pieces)).toEqual({ text, calls: [] })
  })
})

it('passes arguments on while they are written', () => {
  const format = toolCallFormat('hermes', null)
  if (format === null) throw new Error('no format')
  const parser = new ToolCallParser({ format, functions: OFFERED, newId: () => 'id' })
  expect(parser.push('<tool_call>{"name": "f", "argu')).toEqual({ text: '', calls: [] })
  expect(parser.push('ments": {"a')).toEqual({ text: '', calls: [{ index: 0, id: 'id', name: 'f', arguments: '{"a' }] })
  expect(parser.push('": 1')).toEqual({ text: '', calls: [{ index: 0, id: null, name: null, arguments: '": 1' }] })
  expect(parser.numComplete).toBe(0)
  parser.push('}}')
  expect(parser.numComplete).toBe(1)
})

describe('the format of a chat template', () => {
  it.each([
    ['{{ "<tool_call>" }}', 'hermes'],
    ['{{ "[TOOL_CALLS] [" }}', 'mistral'],
    ['{{ "<|python_tag|>" }}', 'llama3_json'],
    ['Respond in the format {"name": function name, "parameters": dictionary of argument name}.', 'llama3_json'],
    ['{{ "<tool_call>\n<function=f>\n<parameter=a>" }}', 'qwen3_coder'],
    ['{{ "<tool_call>" }}<arg_key>', 'glm45'],
    ['{{ "[TOOL_CALLS]" + name + "[ARGS]" }}', 'mistral_args'],
    ["{{ '<｜tool▁call▁begin｜>' + tool.type + '<｜tool▁sep｜>' + name + '\\n```json\\n' }}", 'deepseek_v3'],
    ["{{ '<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' }}", 'deepseek_v31'],
    ["{{ '<|start|>assistant<|channel|>analysis<|message|>' }}", 'openai'],
    ["{{ '<|tool_call>call:' + name }}", 'gemma4'],
    ["{{ '<start_function_call>call:' + name }}", 'functiongemma'],
    ["{{ '<|tool_call_start|>[' }}", 'lfm2'],
    ['in the form [func_name1(params_name1=params_value1), func_name2(params)]', 'pythonic'],
    ['{{ messages[0].content }}', undefined],
  ])('%j speaks of %s', (template, name) => {
    expect(toolCallFormat('auto', template)?.name).toBe(name)
    expect(toolCallFormat('none', template)).toBeNull()
    expect(toolCallFormat('mistral', template)?.name).toBe('mistral')
  })

  it('is unknown without one', () => {
    expect(toolCallFormat('auto', null)).toBeNull()
  })
})
