/** The known formats of function calls. A chat template has the first format that matches it. */
import { specialTokensIn } from '../markers.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ToolCallFormat } from './tool-call-format.ts'

const PLAIN = {
  begin: [],
  end: [],
  callBegin: [],
  callEnd: [],
  separator: '',
  isOneByOne: false,
  isBare: false,
  isParallel: true,
  otherMarkers: [],
  ids: 'any',
} as const

const DEEPSEEK = {
  ...PLAIN,
  begin: ['<｜tool▁calls▁begin｜>'],
  end: ['<｜tool▁calls▁end｜>'],
  callBegin: ['<｜tool▁call▁begin｜>'],
} as const

/** Python's literals: `[f(a=1), g()]`. */
const PYTHON = { kind: 'literal', open: '(', close: ')', keyEnd: '=', separator: ', ', quote: null } as const

const gemma = (quote: string) =>
  ({ kind: 'literal', open: '{', close: '}', keyEnd: ':', separator: ',', quote }) as const

export const TOOL_CALL_FORMATS = [
  {
    ...PLAIN,
    /** gpt-oss: `<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>`. A call ends the answer. */
    name: 'openai',
    template: /<\|channel\|>/,
    callBegin: ['<|channel|>commentary to=functions.'],
    callEnd: ['<|call|>'],
    isParallel: false,
    body: {
      kind: 'named',
      header: /^(?<name>[\w.-]+)\s*(?:<\|constrain\|>)?\s*\w*\s*<\|message\|>\s*$/,
      before: '',
      after: ' <|constrain|>json<|message|>',
    },
  },
  {
    ...PLAIN,
    /** Gemma 4: `<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|>`. */
    name: 'gemma4',
    template: /<\|tool_call>/,
    callBegin: ['<|tool_call>', 'call:'],
    callEnd: ['<tool_call|>'],
    body: gemma('<|"|>'),
  },
  {
    ...PLAIN,
    /** FunctionGemma: `<start_function_call>call:f{a:<escape>b<escape>}<end_function_call>`. */
    name: 'functiongemma',
    template: /<start_function_call>/,
    callBegin: ['<start_function_call>', 'call:'],
    callEnd: ['<end_function_call>'],
    body: gemma('<escape>'),
  },
  {
    ...DEEPSEEK,
    /** DeepSeek V3 and R1: the arguments are in a code block. */
    name: 'deepseek_v3',
    template: /<｜tool▁call▁begin｜>[^]*```json/,
    callEnd: ['\n```', '<｜tool▁call▁end｜>'],
    separator: '\n',
    body: {
      kind: 'named',
      header: /^\s*\w+<｜tool▁sep｜>\s*(?<name>[^\s<`]+)\s*```(?:json)?\s*$/,
      before: 'function<｜tool▁sep｜>',
      after: '\n```json\n',
    },
  },
  {
    ...DEEPSEEK,
    name: 'deepseek_v31',
    template: /<｜tool▁call▁begin｜>/,
    callEnd: ['<｜tool▁call▁end｜>'],
    body: { kind: 'named', header: /^\s*(?<name>[^\s<]+)\s*<｜tool▁sep｜>\s*$/, before: '', after: '<｜tool▁sep｜>' },
  },
  {
    ...PLAIN,
    /** Kimi K2: a call's id consists of its function's name and its number. */
    name: 'kimi_k2',
    template: /<\|tool_calls_section_begin\|>/,
    begin: ['<|tool_calls_section_begin|>'],
    end: ['<|tool_calls_section_end|>'],
    callBegin: ['<|tool_call_begin|>'],
    callEnd: ['<|tool_call_end|>'],
    body: {
      kind: 'named',
      header: /^\s*(?:functions\.)?(?<name>[^\s<:]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*$/,
      before: 'functions.',
      after: ':0<|tool_call_argument_begin|>',
    },
    ids: 'name and number',
  },
  {
    ...PLAIN,
    /** LFM2: Python calls between markers. */
    name: 'lfm2',
    template: /<\|tool_call_start\|>|<\|tool_list_start\|>/,
    begin: ['<|tool_call_start|>', '['],
    end: [']', '<|tool_call_end|>'],
    separator: ', ',
    body: PYTHON,
  },
  {
    ...PLAIN,
    name: 'minimax_m2',
    template: /<minimax:tool_call>/,
    begin: ['<minimax:tool_call>\n'],
    end: ['\n</minimax:tool_call>'],
    callBegin: ['<invoke name="'],
    separator: '\n',
    body: {
      kind: 'tagged',
      nameEnd: '">\n',
      keyBegin: '<parameter name="',
      keyEnd: '">',
      valueBegin: '',
      valueEnd: '</parameter>',
      separator: '\n',
      end: '</invoke>',
    },
  },
  {
    ...PLAIN,
    name: 'seed_oss',
    template: /<seed:tool_call>/,
    begin: ['<seed:tool_call>\n'],
    end: ['\n</seed:tool_call>'],
    callBegin: ['<function='],
    separator: '\n',
    isOneByOne: true,
    body: {
      kind: 'tagged',
      nameEnd: '>\n',
      keyBegin: '<parameter=',
      keyEnd: '>',
      valueBegin: '',
      valueEnd: '</parameter>',
      separator: '\n',
      end: '</function>',
    },
  },
  {
    ...PLAIN,
    /** Qwen3-Coder: as Seed's, with each value on lines of its own. */
    name: 'qwen3_coder',
    template: /<function=[^]*<parameter=/,
    begin: ['<tool_call>\n'],
    end: ['\n</tool_call>'],
    callBegin: ['<function='],
    separator: '\n',
    isOneByOne: true,
    body: {
      kind: 'tagged',
      nameEnd: '>\n',
      keyBegin: '<parameter=',
      keyEnd: '>',
      valueBegin: '\n',
      valueEnd: '\n</parameter>',
      separator: '\n',
      end: '</function>',
    },
  },
  {
    ...PLAIN,
    /** GLM 4.5 and later. */
    name: 'glm45',
    template: /<arg_key>/,
    begin: ['<tool_call>'],
    end: [],
    separator: '\n',
    isOneByOne: true,
    body: {
      kind: 'tagged',
      nameEnd: '',
      keyBegin: '\n<arg_key>',
      keyEnd: '</arg_key>',
      valueBegin: '\n<arg_value>',
      valueEnd: '</arg_value>',
      separator: '',
      end: '\n</tool_call>',
    },
  },
  {
    ...PLAIN,
    /** `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3, SmolLM3. */
    name: 'hermes',
    template: /<tool_call>/,
    begin: ['<tool_call>\n'],
    end: ['\n</tool_call>'],
    separator: '\n',
    isOneByOne: true,
    body: { kind: 'object', nameKey: 'name', argumentsKey: 'arguments' },
  },
  {
    ...PLAIN,
    /** `[TOOL_CALLS]f[ARGS]{…}`: Mistral's tokenizers of version 11 and later. */
    name: 'mistral_args',
    template: /\[TOOL_CALLS\][^]*\[ARGS\]/,
    callBegin: ['[TOOL_CALLS]'],
    body: {
      kind: 'named',
      header: /^\s*(?<name>[^\s[\]]+?)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\]\s*)?$/,
      before: '',
      after: '[ARGS]',
    },
    otherMarkers: ['[CALL_ID]'],
    ids: 'nine alphanumerics',
  },
  {
    ...PLAIN,
    /** `[TOOL_CALLS] [{"name": …, "arguments": {…}}]`: Mistral up to its tokenizers of version 7. */
    name: 'mistral',
    template: /\[TOOL_CALLS\]/,
    begin: ['[TOOL_CALLS]', '['],
    end: [']'],
    separator: ', ',
    body: { kind: 'object', nameKey: 'name', argumentsKey: 'arguments' },
    ids: 'nine alphanumerics',
  },
  {
    ...PLAIN,
    /** Command R7B and Command A. */
    name: 'command_a',
    template: /<\|START_ACTION\|>/,
    begin: ['<|START_ACTION|>', '['],
    end: [']', '<|END_ACTION|>'],
    separator: ', ',
    body: { kind: 'object', nameKey: 'tool_name', argumentsKey: 'parameters' },
  },
  {
    ...PLAIN,
    /** `[f(a=1), g()]` as the whole answer: Llama 3.2 and 4 by training, Gemma 3 by instruction. */
    name: 'pythonic',
    template: /\[func_name1\(|\[function_name1?\(/,
    begin: ['['],
    end: [']'],
    separator: ', ',
    body: PYTHON,
  },
  {
    ...PLAIN,
    /**
     * `{"name": …, "parameters": {…}}` as the whole answer, with or without `<|python_tag|>` before it: Llama 3.1 and later. These models
     * were not trained to call several functions at once. Llama 3.2's template no longer has the tag, only the instruction.
     */
    name: 'llama3_json',
    template: /<\|python_tag\|>|\{"name": [^{}]*"parameters": /,
    begin: ['<|python_tag|>'],
    end: [],
    separator: '; ',
    isBare: true,
    isParallel: false,
    body: { kind: 'object', nameKey: 'name', argumentsKey: 'parameters' },
  },
] as const satisfies readonly ToolCallFormat[]

/** What --tool-call-parser takes: `auto` detects the format from the chat template, `none` leaves calls in the text. */
export type ToolCallParserName = 'auto' | 'none' | (typeof TOOL_CALL_FORMATS)[number]['name']

/** The format by name, or for `auto` the one that the chat template shows; null: none, or one that is not known. */
export function toolCallFormat(name: ToolCallParserName, template: string | null): ToolCallFormat | null {
  const isWanted = (format: ToolCallFormat) =>
    name === 'auto' ? template !== null && format.template.test(template) : format.name === name
  return TOOL_CALL_FORMATS.find(isWanted) ?? null
}

/** The special tokens, by id, that the format writes. Other special tokens belong to no call, and their text is not shown. */
export function markersOf(
  format: ToolCallFormat,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const { begin, end, callBegin, callEnd, otherMarkers, body } = format
  const ofBody = Object.values(body).filter((value) => typeof value === 'string')
  return specialTokensIn([...begin, ...end, ...callBegin, ...callEnd, ...otherMarkers, ...ofBody], tokenizer)
}
