/** What an answer that has to call functions may look like, in the model's own format: every call is valid by construction. */
import { EngineError } from '../request.ts'
import type { ToolDefinition, ToolUse } from '../request.ts'
import { isSchema } from '../structured/schema-parts.ts'
import type { ToolCallFormat } from './tool-call-format.ts'

/** Calls of any of the functions: `before`, one or more of them with `separator` between, `after`. */
export interface ToolCallGrammar {
  readonly before: string
  readonly functions: readonly ToolCallRule[]
  readonly separator: string
  readonly after: string
  readonly isRepeated: boolean
}

/** A call of one function: `begin`, JSON of the schema, `end`. */
export interface ToolCallRule {
  readonly begin: string
  readonly schema: unknown
  readonly end: string
  /** The request's field that holds the schema. */
  readonly param: string
  /** What of the schema cannot be enforced is refused. */
  readonly isStrict: boolean
}

/**
 * The grammar of what follows the format's `begin`, null where the model is free not to call. Throws EngineError invalid_request: there is
 * no known format, or parameters are no object.
 */
export function toolCallGrammar(format: ToolCallFormat | null, use: ToolUse): ToolCallGrammar | null {
  const { choice, tools, parallel } = use
  if (choice === 'auto') return null
  if (format === null) {
    throw new EngineError(
      'invalid_request',
      "tool_choice: expected auto or none: the form of calls in the model's chat template is not known; name one with --tool-call-parser",
      'tool_choice',
    )
  }
  const offered = tools.map((tool, i) => ({ name: functionName(tool), i, tool }))
  const allowed = choice === 'required' ? offered : offered.filter(({ name }) => name === choice.name)
  const end = format.end === '' ? '' : `\n${format.end}`
  return {
    before: format.isList ? '[' : '',
    functions: allowed.map(({ name, i, tool }) => ({
      begin: `{"name": ${JSON.stringify(name)}, "${format.argumentsKey}": `,
      schema: parametersSchema(tool, parametersParam(i)),
      param: parametersParam(i),
      isStrict: isSchema(tool.function) && tool.function.strict === true,
      end: `}${end}`,
    })),
    separator: format.isList ? ', ' : `\n${format.begin}\n`,
    after: format.isList ? ']' : '',
    // Llama's models were not trained to call several functions at once.
    isRepeated: parallel && choice === 'required' && !format.isBare,
  }
}

/** What comes before the grammar; the tokens of it are the only ones allowed. */
export function forcedBeginning(format: ToolCallFormat): string {
  return format.isBare ? '' : format.isList ? format.begin : `${format.begin}\n`
}

export function functionName(tool: ToolDefinition): string {
  const { function: described } = tool
  return isSchema(described) ? String(described.name) : ''
}

function parametersParam(i: number): string {
  return `tools.${i}.function.parameters`
}

/** A function without parameters takes an empty object. */
function parametersSchema({ function: described }: ToolDefinition, param: string): unknown {
  const schema = isSchema(described) ? (described.parameters ?? {}) : {}
  if (!isSchema(schema)) throw refused(param, 'expected a JSON schema of an object')
  if ('$ref' in schema || 'anyOf' in schema || 'oneOf' in schema || 'allOf' in schema) return schema
  const { type = 'object' } = schema
  if (type !== 'object') throw refused(param, 'expected a JSON schema of an object, found another type')
  const isEmpty = schema.properties === undefined && schema.additionalProperties === undefined
  return { ...schema, type, ...(isEmpty ? { additionalProperties: false } : {}) }
}

function refused(param: string, message: string): EngineError {
  return new EngineError('invalid_request', `${param}: ${message}`, param)
}
