/** What a request asks of its output, bounded before anything is made of it. */
import { invalidField } from '../request.ts'
import type { StructuredOutput } from '../request.ts'
import type { ToolCallGrammar } from '../tool-calls/tool-call-grammar.ts'

/** What an answer is held to. */
export type OutputConstraint =
  | StructuredOutput
  /** `otherwise`: what an answer without calls is held to. */
  | { readonly kind: 'tool_calls'; readonly grammar: ToolCallGrammar; readonly otherwise?: TextConstraint }
  | MessageConstraint

/** A text behind what the model's form has it begin with, in which special tokens may stand. */
interface MessageConstraint {
  readonly kind: 'message'
  readonly begin: string
  readonly specialTokens: readonly string[]
  readonly of: StructuredOutput
}

export type TextConstraint = StructuredOutput | MessageConstraint

/** More than this is refused unread. */
const MAX_SOURCE_CHARACTERS = 65_536

export interface GrammarSource {
  /** The request's field. */
  readonly param: string
  readonly constraint: OutputConstraint
}

/** A constraint that is small enough, and its key among others. @throws EngineError invalid_request naming the field */
export function grammarSource(constraint: OutputConstraint): GrammarSource & { readonly key: string } {
  const param = grammarParam(constraint)
  // Counted with an end: what is far too long is not even read through.
  if (charactersOf(constraint, MAX_SOURCE_CHARACTERS) > MAX_SOURCE_CHARACTERS) {
    throw invalidField(param, `expected at most ${MAX_SOURCE_CHARACTERS} characters, found more`)
  }
  return { param, constraint, key: JSON.stringify(constraint) }
}

/** The request's field that a structured output came from. */
export function grammarParam(constraint: OutputConstraint): string {
  if (constraint.kind === 'tool_calls') return 'tools'
  if (constraint.kind === 'message') return grammarParam(constraint.of)
  const isJson = constraint.kind === 'json_object' || constraint.kind === 'json_schema'
  return constraint.param ?? (isJson ? 'response_format' : 'structured_outputs')
}

/** Characters of a value as JSON, about; counting ends once there are more than `most`. */
function charactersOf(value: unknown, most: number): number {
  const open: unknown[] = [value]
  let total = 0
  while (open.length > 0) {
    const item = open.pop()
    if (typeof item === 'string') total += item.length + 2
    else if (typeof item !== 'object' || item === null) total += 5
    else if (Array.isArray(item)) {
      total += item.length
      if (total > most) return total
      for (const member of item as unknown[]) open.push(member)
    } else {
      for (const key in item) {
        total += key.length + 4
        if (total > most) return total
        open.push(Reflect.get(item, key))
      }
    }
    if (total > most) return total
  }
  return total
}
