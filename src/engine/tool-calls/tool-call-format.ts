/**
 * How models write calls of functions: a format is data. Which one a model was trained on stands in its chat template, which shows earlier
 * calls, and tells of new ones, in that form. Names are those of vLLM's --tool-call-parser.
 */

export interface ToolCallFormat {
  readonly name: 'hermes' | 'llama3_json' | 'mistral'
  /** Comes before a call, or before the list of them. */
  readonly begin: string
  /** Comes after a call; '': nothing does. */
  readonly end: string
  /** Stands between two calls, beside white space. */
  readonly separator: string
  /** Calls are the items of one JSON array. */
  readonly isList: boolean
  /** An answer that begins with a JSON object may be a call without `begin`. */
  readonly isBare: boolean
  /** The member that holds the arguments where the format is written out. Both names are read. */
  readonly argumentsKey: 'arguments' | 'parameters'
  /** What the template accepts as the id of a call when it comes back in a later turn. */
  readonly ids: 'any' | 'nine alphanumerics'
}

/** `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3, SmolLM3. */
const HERMES: ToolCallFormat = {
  name: 'hermes',
  begin: '<tool_call>',
  end: '</tool_call>',
  separator: '',
  isList: false,
  isBare: false,
  argumentsKey: 'arguments',
  ids: 'any',
}

/** `{"name": …, "parameters": {…}}`, the whole answer, after `<|python_tag|>` or not: Llama 3.1 and later. */
const LLAMA3_JSON: ToolCallFormat = {
  name: 'llama3_json',
  begin: '<|python_tag|>',
  end: '',
  separator: ';',
  isList: false,
  isBare: true,
  argumentsKey: 'parameters',
  ids: 'any',
}

/** `[TOOL_CALLS] [{"name": …, "arguments": {…}}]`: Mistral up to its tokenizers of version 7. */
const MISTRAL: ToolCallFormat = {
  name: 'mistral',
  begin: '[TOOL_CALLS]',
  end: '',
  separator: ',',
  isList: true,
  isBare: false,
  argumentsKey: 'arguments',
  ids: 'nine alphanumerics',
}

const FORMATS = [HERMES, LLAMA3_JSON, MISTRAL] as const

/** What --tool-call-parser takes: `auto` looks into the chat template, `none` leaves calls in the text. */
export type ToolCallParserName = 'auto' | 'none' | ToolCallFormat['name']

/** The format a chat template speaks of; null for none, or one that is not known. */
export function formatOfTemplate(template: string): ToolCallFormat | null {
  // Qwen3-Coder writes XML between the same tags, and later Mistrals a name and [ARGS] instead of a list.
  if (template.includes('<function=') || template.includes('[ARGS]')) return null
  if (template.includes(HERMES.begin)) return HERMES
  if (template.includes(MISTRAL.begin)) return MISTRAL
  // Llama 3.2's template has lost the tag and kept the words.
  if (template.includes(LLAMA3_JSON.begin) || /\{"name": [^{}]*"parameters": /.test(template)) return LLAMA3_JSON
  return null
}

/** The format by name, or by the chat template for `auto`. */
export function toolCallFormat(name: ToolCallParserName, template: string | null): ToolCallFormat | null {
  if (name === 'auto') return template === null ? null : formatOfTemplate(template)
  return FORMATS.find((format) => format.name === name) ?? null
}
