/** What constrains a request's answer, in the field names of OpenAI, vLLM or llama-server. */
import type { StructuredOutput } from '../engine/request.ts'
import { invalidRequest } from './errors.ts'
import type { CompletionRequest } from './wire.ts'

type ConstraintField =
  | 'response_format'
  | 'structured_outputs'
  | 'guided_json'
  | 'guided_regex'
  | 'guided_choice'
  | 'guided_grammar'
  | 'grammar'
  | 'json_schema'
  | 'regex'
  | 'ebnf'
type ConstraintFields = Pick<CompletionRequest, ConstraintField>

interface Constraint {
  /** The request's field. */
  readonly field: ConstraintField
  readonly output: StructuredOutput
}

/** The one constraint of a request; null: none. @throws ApiError 400 when there are two, or a schema is no JSON. */
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
  const add = (field: ConstraintField, output: StructuredOutput | null | undefined | false) => {
    if (output) found.push({ field, output: { ...output, param: field } })
  }
  const schema = (field: ConstraintField, value: unknown, param: string = field): StructuredOutput | null =>
    value === undefined ? null : { kind: 'json_schema', schema: parseSchema(value, param), param: field }
  const regex = (pattern: string | undefined) => pattern !== undefined && ({ kind: 'regex', pattern } as const)
  const choice = (choices: readonly string[] | undefined) =>
    choices !== undefined && ({ kind: 'choice', choices } as const)
  const grammar = (ebnf: string | undefined) => ebnf !== undefined && ({ kind: 'grammar', ebnf } as const)

  add('response_format', formatOf(body.response_format))
  const { structured_outputs: outputs } = body
  add('structured_outputs', schema('structured_outputs', outputs?.json, 'structured_outputs.json'))
  add('structured_outputs', outputs?.json_object === true && { kind: 'json_object' })
  add('structured_outputs', regex(outputs?.regex))
  add('structured_outputs', choice(outputs?.choice))
  add('structured_outputs', grammar(outputs?.grammar))
  add('guided_json', schema('guided_json', body.guided_json))
  add('guided_regex', regex(body.guided_regex))
  add('guided_choice', choice(body.guided_choice))
  add('guided_grammar', grammar(body.guided_grammar))
  add('grammar', grammar(body.grammar))
  add('json_schema', schema('json_schema', body.json_schema))
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
  // llama.cpp, MLC-LLM and hosters put a schema here.
  return format.schema === undefined || format.schema === null
    ? { kind: 'json_object' }
    : { kind: 'json_schema', schema: parseSchema(format.schema, 'response_format.schema') }
}

/** Schemas may come as JSON text. */
function parseSchema(schema: unknown, param: string): unknown {
  if (typeof schema !== 'string') return schema
  try {
    return JSON.parse(schema)
  } catch {
    throw invalidRequest(`${param}: expected a JSON schema, found a string that is not JSON`, param)
  }
}
