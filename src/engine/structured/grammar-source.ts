/** What a request asks of its output, as the grammar library takes it. */
import { prepareSchema } from './json-schema.ts'
import { PatternError, preparePattern } from './regex-pattern.ts'
import { EngineError } from '../request.ts'
import type { StructuredOutput } from '../request.ts'
import type { ToolCallGrammar } from '../tool-calls/tool-call-grammar.ts'

/** What an answer is held to. */
export type OutputConstraint = StructuredOutput | { readonly kind: 'tool_calls'; readonly grammar: ToolCallGrammar }

/** A schema or grammar beyond this is refused: preparing it runs on the thread that serves. */
const MAX_SOURCE_CHARACTERS = 65_536

/** A JSON Schema, a pattern, EBNF, or a ToolCallGrammar as JSON. */
export interface GrammarSource {
  readonly kind: 'schema' | 'regex' | 'ebnf' | 'tool_calls'
  readonly text: string
}

/** Throws EngineError invalid_request, naming the field, for what cannot be enforced and for what is too long. */
export function grammarSource(constraint: OutputConstraint): GrammarSource {
  const source = rawSource(constraint)
  if (source.text.length <= MAX_SOURCE_CHARACTERS) return source
  const param = grammarParam(constraint)
  throw new EngineError(
    'invalid_request',
    `${param}: expected at most ${MAX_SOURCE_CHARACTERS} characters, found ${source.text.length}`,
    param,
  )
}

/** The request's field that a structured output came from. */
export function grammarParam(constraint: OutputConstraint): string {
  switch (constraint.kind) {
    case 'json_object':
      return 'response_format'
    case 'json_schema':
      return constraint.param ?? 'response_format'
    case 'tool_calls':
      return 'tools'
    default:
      return 'structured_outputs'
  }
}

function rawSource(constraint: OutputConstraint): GrammarSource {
  switch (constraint.kind) {
    case 'json_object':
      return { kind: 'schema', text: JSON.stringify({ type: 'object' }) }
    case 'json_schema':
      return { kind: 'schema', text: JSON.stringify(prepareSchema(constraint.schema, grammarParam(constraint))) }
    case 'regex':
      return { kind: 'regex', text: enforceablePattern(constraint.pattern, grammarParam(constraint)) }
    case 'choice':
      return { kind: 'ebnf', text: `root ::= ${constraint.choices.map(ebnfLiteral).join(' | ')}` }
    case 'grammar':
      return { kind: 'ebnf', text: constraint.ebnf }
    case 'tool_calls':
      return { kind: 'tool_calls', text: JSON.stringify(constraint.grammar) }
  }
}

function enforceablePattern(pattern: string, param: string): string {
  try {
    return preparePattern(pattern)
  } catch (cause) {
    if (!(cause instanceof PatternError)) throw cause
    const message = `${param}: the pattern cannot be enforced: ${cause.message}`
    throw new EngineError('invalid_request', message, param, { cause })
  }
}

function ebnfLiteral(text: string): string {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0) ?? 0
    if (character === '"' || character === '\\') return `\\${character}`
    return code < 0x20 || code === 0x7f ? `\\x${code.toString(16).padStart(2, '0')}` : character
  })
  return `"${escaped.join('')}"`
}
