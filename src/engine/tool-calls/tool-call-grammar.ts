/** The grammar of an answer that must call functions, in the model's own format: every call is valid by construction. */
import { invalidField } from '../request.ts'
import type { ToolDefinition, ToolUse } from '../request.ts'
import { isSchema, typesOf } from '../structured/json-schema/schema.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { CallBody, LiteralBody, TaggedBody, ToolCallFormat } from './tool-call-format.ts'
import { markersOf } from './tool-call-formats.ts'

/** One or more calls of any of the functions. Plain data, because it is sent to the thread that compiles it. */
export interface ToolCallGrammar {
  readonly before: string
  readonly functions: readonly ToolCallRule[]
  readonly separator: string
  readonly after: string
  readonly isRepeated: boolean
  /** The special tokens in the texts around the arguments. */
  readonly specialTokens: readonly string[]
}

/** A call of one function: `begin`, arguments that satisfy the schema, `end`. */
interface ToolCallRule {
  readonly begin: string
  readonly schema: unknown
  /** How the arguments are written; null: as JSON. */
  readonly notation: TaggedBody | LiteralBody | null
  readonly end: string
  /** The request field with the schema. */
  readonly param: string
  /** A schema that cannot be enforced completely is refused. */
  readonly isStrict: boolean
}

/**
 * The grammar of an answer that must call functions; null if the model may choose not to.
 * @throws EngineError invalid_request if the format is unknown or the parameters do not describe an object
 */
export function toolCallGrammar(
  format: ToolCallFormat | null,
  use: ToolUse,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ToolCallGrammar | null {
  const { choice, tools, parallel, parametersField = 'function.parameters' } = use
  if (choice === 'auto') return null
  if (format === null) {
    throw invalidField(
      'tool_choice',
      'expected auto or none, because the chat template does not show a known format of function calls; name one with --tool-call-parser',
    )
  }
  const offered = tools.map((tool, i) => ({ name: functionName(tool), i, tool }))
  const allowed = choice === 'required' ? offered : offered.filter(({ name }) => name === choice.name)
  const [begin, end] = [format.begin.join(''), format.end.join('')]
  const [callBegin, callEnd] = [format.callBegin.join(''), format.callEnd.join('')]
  const isBegun = format.isBare
  return {
    before: isBegun ? '' : begin,
    functions: allowed.map(({ name, i, tool }) => {
      const written = callRule(format.body, name)
      return {
        ...written,
        begin: callBegin + written.begin,
        end: written.end + callEnd,
        schema: parametersSchema(tool, `tools.${i}.${parametersField}`),
        param: `tools.${i}.${parametersField}`,
        isStrict: isSchema(tool.function) && tool.function.strict === true,
      }
    }),
    separator: format.isOneByOne ? end + format.separator + begin : format.separator,
    after: end,
    isRepeated: parallel && choice === 'required' && format.isParallel,
    specialTokens: [...markersOf(format, tokenizer).values()],
  }
}

/** The text before and after the arguments of a call. */
function callRule(body: CallBody, name: string): Pick<ToolCallRule, 'begin' | 'notation' | 'end'> {
  switch (body.kind) {
    case 'object':
      return {
        begin: `{"${body.nameKey}": ${JSON.stringify(name)}, "${body.argumentsKey}": `,
        notation: null,
        end: '}',
      }
    case 'named':
      return { begin: body.before + name + body.after, notation: null, end: '' }
    case 'tagged':
      return { begin: name + body.nameEnd, notation: body, end: body.end }
    case 'literal':
      return { begin: name + body.open, notation: body, end: body.close }
  }
}

/** The name of a tool's function; empty if it has none. */
export function functionName(tool: ToolDefinition): string {
  const { function: described } = tool
  return isSchema(described) ? String(described.name) : ''
}

/** The schema of a function's arguments as the caller gave it; undefined without one. */
export function functionParameters({ function: described }: ToolDefinition): unknown {
  return isSchema(described) ? described.parameters : undefined
}

/** The schema of the arguments. A function without parameters takes an empty object. */
function parametersSchema(tool: ToolDefinition, param: string): unknown {
  const schema = functionParameters(tool) ?? {}
  if (!isSchema(schema)) throw invalidField(param, 'expected a JSON schema of an object')
  if ('$ref' in schema || 'anyOf' in schema || 'oneOf' in schema || 'allOf' in schema) return schema
  const { type = 'object' } = schema
  if (!typesOf(type).includes('object'))
    throw invalidField(param, 'expected a JSON schema of an object, found another type')
  const isEmpty = schema.properties === undefined && schema.additionalProperties === undefined
  return { ...schema, type: 'object', nullable: false, ...(isEmpty ? { additionalProperties: false } : {}) }
}
