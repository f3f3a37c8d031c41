/** Converts JSON Schema's constraints on numbers to grammars. */
import { intersect, product } from '../patterns/automaton.ts'
import { automatonExpression } from '../byte-grammar.ts'
import type { Expression, GrammarRules } from '../byte-grammar.ts'
import { decimals, integers, multiples, numbers } from './numbers.ts'
import type { Bound } from './numbers.ts'
import { parseRegex } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { FRACTIONAL } from './schema.ts'
import { excludedValues } from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'

/** Builds the expressions of `number` and `integer` schemas. */
export class JsonNumbers {
  readonly #grammar: GrammarRules
  readonly #note: (problem: string, path: string) => void
  readonly #ranges = new Map<string, Expression>()

  /** @param note called for each constraint that is not enforced */
  constructor(grammar: GrammarRules, note: (problem: string, path: string) => void) {
    this.#grammar = grammar
    this.#note = note
  }

  /** The expression of a number that satisfies all schemas of `parts`. @throws Unenforceable */
  number(type: 'integer' | 'number', parts: Conjunction, path: string): Expression {
    const low = tightest(parts, 'minimum', 'exclusiveMinimum', 1)
    const high = tightest(parts, 'maximum', 'exclusiveMaximum', -1)
    const range = type === 'integer' ? integers(low, high) : numbers(low, high)
    const steps = [...new Set(parts.flatMap(({ multipleOf }) => (multipleOf === undefined ? [] : [multipleOf])))]
    if (steps.some((step) => typeof step !== 'number' || !(step > 0)))
      throw new Unenforceable('"multipleOf": a number above 0 is expected')
    const unwanted = excludedValues(parts).filter((value) => typeof value === 'number')
    const hasFraction = parts.some((part) => part[FRACTIONAL] === true)
    const needed = steps.map(Number).filter((step) => !(type === 'integer' && Number.isInteger(1 / step)))
    if (needed.length === 0 && unwanted.length === 0 && !hasFraction) return this.#range(range)
    // What is asked of the digits of a number says nothing about one with an exponent.
    const bounded = type === 'integer' ? range : decimals(low, high)
    try {
      let automaton = intersect(hasFraction ? [bounded, parseRegex(FRACTION)] : [bounded], unwanted.map(spellings))
      if (automaton === null) throw new Unsatisfiable('bounds that leave no number')
      for (const step of needed) automaton = automaton && product(automaton, multiples(step))
      if (automaton === null) throw new Unsatisfiable('bounds that leave no multiple')
      return automatonExpression(automaton, 'text')
    } catch (error) {
      if (!(error instanceof Unenforceable) || error instanceof Unsatisfiable) throw error
      const isOfSteps = error.message.startsWith('"multipleOf"')
      this.#note(isOfSteps ? error.message : needed.length > 0 ? '"multipleOf"' : '"not" of numbers', path)
      return this.#range(range)
    }
  }

  /** The rule of a range, shared by all places with the same range. */
  #range(range: Regex): Expression {
    const key = JSON.stringify(range)
    const known = this.#ranges.get(key)
    if (known !== undefined) return known
    const automaton = intersect([range])
    if (automaton === null) throw new Unsatisfiable('bounds that leave no number')
    const rule = this.#grammar.rule(automatonExpression(automaton, 'text'))
    this.#ranges.set(key, rule)
    return rule
  }
}

/** Decimals with a non-zero fraction. */
const FRACTION = '-?\\d+\\.\\d*[1-9]\\d*'

/** All decimal spellings of a value: with and without trailing zeros. */
function spellings(value: number): Regex {
  const [whole = '', fraction = ''] = decimalText(Math.abs(value)).split('.')
  const sign = value === 0 ? '-?' : value < 0 ? '-' : ''
  return parseRegex(`${sign}${whole}${fraction === '' ? '(?:\\.0+)?' : `\\.${fraction}0*`}`)
}

function decimalText(value: number): string {
  return value.toLocaleString('en-US', { useGrouping: false, maximumFractionDigits: 20 })
}

/** The tightest bound of all parts: the largest for `sign` 1 (lower bounds), the smallest for -1. null: none has one. */
function tightest(parts: Conjunction, inclusive: string, exclusive: string, sign: 1 | -1): Bound | null {
  let found: Bound | null = null
  const take = (value: unknown, isExclusive: boolean, keyword: string) => {
    if (value === undefined) return
    if (typeof value !== 'number') throw new Unenforceable(`"${keyword}": a number is expected`)
    const difference = found === null ? 1 : (value - found.value) * sign
    if (difference > 0 || (difference === 0 && isExclusive)) found = { value, isExclusive }
  }
  for (const part of parts) {
    // In draft 4, exclusiveMinimum and exclusiveMaximum are booleans next to the bound.
    const flag = part[exclusive]
    take(part[inclusive], flag === true, inclusive)
    if (typeof flag !== 'boolean') take(flag, true, exclusive)
  }
  return found
}
