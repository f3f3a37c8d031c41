/** Compiles a constraint on the output to a grammar. Runs in a thread, so that a hostile schema delays only its sender. */
import type { ToolCallGrammar } from '../tool-calls/tool-call-grammar.ts'
import { GrammarRules, inOrder, oneOf, patternExpression, text, textWithTokens, times } from './byte-grammar.ts'
import type { Expression, Network } from './byte-grammar.ts'
import { grammarParam } from './grammar-source.ts'
import type { GrammarSource } from './grammar-source.ts'
import { JsonSchema } from './json-schema/json-schema.ts'
import { argumentsNotation, jsonNotation } from './notation.ts'
import type { Notation } from './notation.ts'
import { fullMatch } from './patterns/regex-anchors.ts'
import { parseRegex } from './patterns/regex.ts'
import { Unenforceable } from './unenforceable.ts'
import { userGrammar } from './user-grammars/user-grammar.ts'

interface ConstraintGrammar {
  readonly network: Network
  /** Constraints that are not enforced, as sentences that name the field. */
  readonly warnings: readonly string[]
}

/** @throws Unenforceable, in words that name the field */
export function constraintGrammar(source: GrammarSource): ConstraintGrammar {
  const grammar = new GrammarRules()
  const warnings: string[] = []
  const root = rootOf(source, grammar, warnings)
  return { network: naming(source.param, 'it cannot be compiled', () => grammar.network(root)), warnings }
}

function rootOf({ param, constraint }: GrammarSource, grammar: GrammarRules, warnings: string[]): Expression {
  switch (constraint.kind) {
    case 'json_object':
    case 'json_schema': {
      const schema = constraint.kind === 'json_object' ? { type: 'object' } : constraint.schema
      const isStrict = constraint.kind === 'json_schema' && constraint.isStrict === true
      return schemaRule(schema, { param, isStrict, notation: jsonNotation(grammar, 'free') }, grammar, warnings)
    }
    case 'regex':
      return naming(param, 'the pattern cannot be enforced', () => {
        const matching = patternExpression(fullMatch(parseRegex(constraint.pattern)), 'text')
        if (matching !== null) return matching
        throw new Unenforceable('no text matches it')
      })
    case 'choice':
      return oneOf(...constraint.choices.map(text))
    case 'grammar':
      return naming(param, 'the grammar cannot be enforced', () => {
        const own = userGrammar(constraint.ebnf, grammar)
        warnings.push(...own.warnings.map((why) => `${param}: ${why}`))
        return own.root
      })
    case 'message': {
      const { begin, specialTokens, of } = constraint
      return inOrder(textWithTokens(begin, specialTokens), rootOf({ param, constraint: of }, grammar, warnings))
    }
    case 'tool_calls': {
      const calls = callsRule(constraint.grammar, grammar, warnings)
      if (constraint.otherwise === undefined) return calls
      return oneOf(
        rootOf({ param: grammarParam(constraint.otherwise), constraint: constraint.otherwise }, grammar, warnings),
        calls,
      )
    }
  }
}

interface SchemaOptions {
  readonly param: string
  readonly isStrict: boolean
  readonly notation: Notation
}

/** Keywords that cannot be enforced are refused under `strict`, and otherwise reported. */
function schemaRule(
  root: unknown,
  { param, isStrict, notation }: SchemaOptions,
  grammar: GrammarRules,
  warnings: string[],
): Expression {
  const schema = new JsonSchema(root, grammar, notation)
  const rule = naming(param, 'the schema cannot be enforced', () => {
    const found = schema.rule()
    if (isStrict && schema.unenforced.length > 0) throw new Unenforceable(schema.unenforced.join('; '))
    return found
  })
  if (schema.unenforced.length > 0) warnings.push(`${param}: not enforced: ${schema.unenforced.join('; ')}`)
  return rule
}

function naming<T>(param: string, problem: string, make: () => T): T {
  try {
    return make()
  } catch (error) {
    if (error instanceof Unenforceable)
      throw new Unenforceable(`${param}: ${problem}: ${error.message}`, { cause: error })
    if (error instanceof RangeError)
      throw new Unenforceable(`${param}: ${problem}: it is nested too deeply`, { cause: error })
    throw error
  }
}

/** Calls of functions, in the model's form. */
function callsRule(calls: ToolCallGrammar, grammar: GrammarRules, warnings: string[]): Expression {
  const { before, functions, separator, after, isRepeated, specialTokens } = calls
  const around = (written: string) => textWithTokens(written, specialTokens)
  const json = jsonNotation(grammar, 'line')
  const rules = functions.map(({ begin, schema, notation: own, end, param, isStrict }) => {
    const notation = own === null ? json : argumentsNotation(own, grammar)
    const rule = schemaRule(schema, { param, isStrict, notation }, grammar, warnings)
    return inOrder(around(begin), rule, around(end))
  })
  const call = grammar.rule(oneOf(...rules))
  const more = times(inOrder(around(separator), call), 0, isRepeated ? Infinity : 0)
  return inOrder(around(before), call, more, around(after))
}
