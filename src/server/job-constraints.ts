/** The constraint on a request's answer, in the fields of OpenAI, vLLM, SGLang or llama.cpp. */
import type { StructuredOutput } from '../engine/request.ts'
import { invalidRequest } from './errors.ts'
import type { CompletionRequest } from './wire.ts'
import type { constraintFields } from './wire-elsewhere.ts'

type ConstraintField = 'response_format' | 'structured_outputs' | keyof typeof constraintFields
type ConstraintFields = Pick<CompletionRequest, ConstraintField>

interface Constraint {
  /** Field of the request. */
  readonly field: ConstraintField
  readonly output: StructuredOutput
}

/** The constraint of a request; null if it has none. @throws ApiError 400 for two constraints, or for a schema that is not JSON. */
export function constraintOf(body: ConstraintFields): Constraint | null {
  const [first, second] = constraintsOf(body)
  if (second !== undefined) {
    throw invalidRequest(
      `${second.field}: expected one constraint on the answer, found ${first?.field} too`,
      second.field,
    )
  }
  return first ?? null
}

function constraintsOf(body: ConstraintFields): Constraint[] {
  const found: Constraint[] = []
  const add = (field: ConstraintField, output: StructuredOutput | null) => {
    if (output) found.push({ field, output: { ...output, param: field } })
  }
  const schema = (value: unknown, param: string): StructuredOutput | null =>
    value === undefined ? null : { kind: 'json_schema', schema: parseSchema(value, param), param }
  const regex = (pattern?: string): StructuredOutput | null =>
    pattern === undefined ? null : { kind: 'regex', pattern }
  const choice = (choices?: readonly string[]): StructuredOutput | null =>
    choices === undefined ? null : { kind: 'choice', choices }
  const grammar = (ebnf?: string): StructuredOutput | null => (ebnf === undefined ? null : { kind: 'grammar', ebnf })

  add('response_format', formatOf(body.response_format))
  const { structured_outputs: outputs } = body
  add('structured_outputs', schema(outputs?.json, 'structured_outputs.json'))
  add('structured_outputs', outputs?.json_object === true ? { kind: 'json_object' } : null)
  add('structured_outputs', regex(outputs?.regex) ?? choice(outputs?.choice) ?? grammar(outputs?.grammar))
  add('guided_json', schema(body.guided_json, 'guided_json'))
  add('guided_regex', regex(body.guided_regex))
  add('guided_choice', choice(body.guided_choice))
  add('guided_grammar', grammar(body.guided_grammar))
  add('grammar', grammar(body.grammar))
  add('json_schema', schema(body.json_schema, 'json_schema'))
  add('regex', regex(body.regex))
  add('ebnf', grammar(body.ebnf))
  return found
}

function formatOf(format: ConstraintFields['response_format']): StructuredOutput | null {
  if (format?.type === 'json_schema') {
    const { schema, strict } = format.json_schema
    return { kind: 'json_schema', schema, isStrict: strict === true }
  }
  if (format?.type !== 'json_object') return null
  // llama.cpp, MLC-LLM and hosted APIs allow a schema here.
  return format.schema === undefined || format.schema === null
    ? { kind: 'json_object' }
    : { kind: 'json_schema', schema: parseSchema(format.schema, 'response_format.schema') }
}

/** A schema may also be JSON text. */
function parseSchema(schema: unknown, param: string): unknown {
  if (typeof schema !== 'string') return schema
  try {
    return JSON.parse(schema)
  } catch {
    throw invalidRequest(`${param}: expected a JSON schema, found a string that is not JSON`, param)
  }
}
