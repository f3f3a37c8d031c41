/** What a request asks of its output, as the grammar library takes it. */
import { prepareSchema } from './json-schema.ts'
import { EngineError } from './request.ts'
import type { StructuredOutput } from './request.ts'

/** A schema or grammar beyond this is refused: preparing it runs on the thread that serves. */
const MAX_SOURCE_CHARACTERS = 65_536

/** A JSON Schema, a pattern or EBNF. */
export interface GrammarSource {
  readonly kind: 'schema' | 'regex' | 'ebnf'
  readonly text: string
}

/** Throws EngineError invalid_request, naming the field, for what cannot be enforced and for what is too long. */
export function grammarSource(structured: StructuredOutput): GrammarSource {
  const source = rawSource(structured)
  if (source.text.length <= MAX_SOURCE_CHARACTERS) return source
  const param = grammarParam(structured)
  throw new EngineError(
    'invalid_request',
    `${param}: expected at most ${MAX_SOURCE_CHARACTERS} characters, found ${source.text.length}`,
    param,
  )
}

/** The request's field that a structured output came from. */
export function grammarParam({ kind }: StructuredOutput): string {
  return kind === 'json_object' || kind === 'json_schema' ? 'response_format' : 'structured_outputs'
}

function rawSource(structured: StructuredOutput): GrammarSource {
  switch (structured.kind) {
    case 'json_object':
      return { kind: 'schema', text: JSON.stringify({ type: 'object' }) }
    case 'json_schema':
      return { kind: 'schema', text: JSON.stringify(prepareSchema(structured.schema)) }
    case 'regex':
      return { kind: 'regex', text: structured.pattern }
    case 'choice':
      return { kind: 'ebnf', text: `root ::= ${structured.choices.map(ebnfLiteral).join(' | ')}` }
    case 'grammar':
      return { kind: 'ebnf', text: structured.ebnf }
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
