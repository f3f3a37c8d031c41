/**
 * JSON Schemas as grammars: every value that is written validates. Narrowed: an object has the properties that its schema names, in their
 * order, and others only where `additionalProperties` asks for them; exponents only where nothing bounds a number. What cannot be
 * enforced is named. Runs in the grammar thread: a hostile schema holds up nobody but its sender.
 */
import { intersect, product } from './automaton.ts'
import { EVERY, only, without } from './code-points.ts'
import type { CodePoints } from './code-points.ts'
import { FORMATS } from './formats.ts'
import { character, inOrder, NOTHING, oneOf, optional, text, times, written } from './byte-grammar.ts'
import type { Encoding, Expression, GrammarRules } from './byte-grammar.ts'
import { arrayRule, objectRule } from './json-collections.ts'
import { writtenValue } from './notation.ts'
import type { Brackets, Notation } from './notation.ts'
import { decimals, integers, multiples } from './numbers.ts'
import type { Bound } from './numbers.ts'
import { literal, parseRegex, repeat, searched, set, wholly } from './regex.ts'
import type { Regex } from './regex.ts'
import { parameterKind } from '../tool-calls/parameter-kind.ts'
import type { ParameterKind } from '../tool-calls/parameter-kind.ts'
import { isOfType, FRACTIONAL, KEYWORDS, NOT_PATTERN, NOT_VALUES, isSchema, TYPES } from './schema.ts'
import type { Schema } from './schema.ts'
import { alternatives, areDisjoint, below, commonTypes, counts, fixedValues, SchemaParts } from './schema-parts.ts'
import { satisfies, withoutLists } from './schema-check.ts'
import type { Parts } from './schema-parts.ts'
import { Unenforceable, Unsatisfiable } from './unenforceable.ts'

const MAX_DEPTH = 64
const MAX_NODES = 20_000
const MAX_LISTED = 16
/** Characters of a counted string; each takes its time to compile. */
const MAX_COUNTED = 20_000

/** Schemas of a `oneOf` that are told apart by what the others are not. */
const MAX_EXCLUSIVE = 10
/** Counted characters up to which a mark that must not stand among them is told from its beginning. */
const MAX_EXACT = 300
/** What reads as something else than a string where strings have no quotes. */
const NO_STRING = '\\s*(?:[-+.\\d{\\["\'(][\\s\\S]*|(?:true|false|null|True|False|None)\\s*)'

/** A value in the making. */
export interface Place {
  readonly path: string
  readonly depth: number
  readonly style: Style
}

/** Where a value stands: how it is written there, and strings without quotes if `raw` says what they may be. */
export interface Style {
  readonly notation: Notation
  readonly raw: { readonly kind: ParameterKind; readonly end: string } | null
}

export class JsonSchema {
  readonly grammar: GrammarRules
  readonly parts: SchemaParts
  readonly #root: unknown
  readonly #rootStyle: Style
  readonly #problems: string[] = []
  readonly #unenforced: string[] = []
  readonly #ids = new Map<Schema, number>()
  readonly #styles = new Map<ParameterKind, Style>()
  readonly #rules = new Map<Style, Map<string, Expression | null>>()
  readonly #anyValues = new Map<Style, Expression>()
  readonly #ranges = new Map<string, Expression>()
  readonly #character: Expression
  #numNodes = 0
  /** Why something has no value. */
  #reason: string | null = null

  constructor(root: unknown, grammar: GrammarRules, notation: Notation) {
    this.grammar = grammar
    this.parts = new SchemaParts(root)
    this.#root = root
    this.#rootStyle = { notation, raw: null }
    if (notation.inner === null) this.#styles.set('other', this.#rootStyle)
    this.#character = grammar.rule(character(EVERY, 'json'))
  }

  /** How the value of a member `name` of an object is written, and values in a list where that is null. */
  styleWithin({ notation }: Style, name: string | null): Style {
    const inner = notation.inner ?? notation
    const kind = notation.rawEnd === null || name === null ? 'other' : parameterKind(this.#root, name)
    const known = this.#styles.get(kind)
    if (known !== undefined) return known
    const made = {
      notation: inner,
      raw: notation.rawEnd === null || kind === 'other' ? null : { kind, end: notation.rawEnd },
    }
    this.#styles.set(kind, made)
    return made
  }

  /** What is not enforced, each with its place. */
  get unenforced(): readonly string[] {
    return this.#unenforced
  }

  /** The rule of the whole schema. Throws Unenforceable naming every place where something is wrong. */
  rule(): Expression {
    const rule = this.node([this.#root], '#', 0, this.#rootStyle)
    if (rule === null && this.#problems.length === 0) this.#problems.push(this.#reason ?? 'nothing matches the schema')
    if (this.#problems.length > 0) throw new Unenforceable(this.#problems.join('; '))
    return rule ?? NOTHING
  }

  note(problem: string, path: string): void {
    const sentence = `${problem} at ${path}`
    if (this.#unenforced.length < MAX_LISTED && !this.#unenforced.includes(sentence)) this.#unenforced.push(sentence)
  }

  #problem(problem: string, path: string): null {
    const sentence = `${problem} at ${path}`
    if (this.#problems.length < MAX_LISTED && !this.#problems.includes(sentence)) this.#problems.push(sentence)
    return null
  }

  /** The rule of a value that all schemas bind; null: there is no such value. */
  node(schemas: readonly unknown[], path: string, depth: number, style: Style): Expression | null {
    if (depth > MAX_DEPTH) return this.#problem(`nesting deeper than ${MAX_DEPTH}`, path)
    try {
      const parts = this.parts.expand(schemas)
      if (parts === null) return null
      const key = this.#key(parts)
      const rules = this.#rules.get(style) ?? new Map<string, Expression | null>()
      this.#rules.set(style, rules)
      const known = rules.get(key)
      if (known !== undefined) return known
      if (++this.#numNodes > MAX_NODES)
        throw new Unenforceable(`more than ${MAX_NODES} schemas, counted as they combine`)
      const rule = this.grammar.open()
      rules.set(key, rule)
      const body = this.#value(parts, path, depth, style)
      if (body === null) rules.set(key, null)
      else this.grammar.define(rule, body)
      return body === null ? null : rule
    } catch (error) {
      if (error instanceof Unsatisfiable) {
        this.#reason ??= `${error.message} at ${path}`
        return null
      }
      if (!(error instanceof Unenforceable)) throw error
      return this.#problem(error.message, path)
    }
  }

  #key(parts: Parts): string {
    const id = (part: Schema): number => {
      const known = this.#ids.get(part) ?? this.#ids.size
      this.#ids.set(part, known)
      return known
    }
    return parts.map(id).toSorted((a, b) => a - b).join(' ') // prettier-ignore
  }

  #value(parts: Parts, path: string, depth: number, style: Style): Expression | null {
    for (const part of parts) for (const keyword of this.parts.unenforced(part)) this.note(keyword, path)
    for (const part of parts) {
      const keyword = 'anyOf' in part ? 'anyOf' : 'oneOf' in part ? 'oneOf' : null
      if (keyword !== null) return this.#branches(parts, part, keyword, { path, depth, style })
    }
    const values = fixedValues(parts)
    const types = commonTypes(parts)
    if (values !== null) return this.#fixed(values, types, parts, style)
    const excluded = excludedValues(parts)
    if (types === null && excluded.length > 0 && !parts.some(hasTypedKeywords))
      return alternatives([...TYPES].flatMap((type) => (type === 'integer' ? [] : [this.#typed(type, parts, { path, depth, style })]))) // prettier-ignore
    if (types !== null) return alternatives([...types].map((type) => this.#typed(type, parts, { path, depth, style })))
    // Without a type, keywords bind only values of theirs: the types that they speak of are a choice that satisfies them.
    const spoken = Object.keys(KEYWORDS).filter((type) =>
      parts.some((part) => KEYWORDS[type]?.some((keyword) => keyword in part)),
    )
    if (spoken.length === 0) return this.anyValue(style)
    return alternatives(spoken.map((type) => this.#typed(type, parts, { path, depth, style })))
  }

  #branches(parts: Parts, part: Schema, keyword: 'anyOf' | 'oneOf', { path, depth, style }: Place): Expression | null {
    const listed = part[keyword]
    if (!Array.isArray(listed) || listed.length === 0)
      throw new Unenforceable(`"${keyword}": a list with something in it is expected`)
    const branches: readonly unknown[] = listed
    const others = [...parts.filter((other) => other !== part), this.parts.without(part, keyword)]
    const own = keyword === 'oneOf' ? this.#exclusive(branches, path) : branches.map((branch) => [branch])
    // Resolved already: they must not bring back what `$ref` and `allOf` led to.
    const bare = others.map((other) => this.parts.without(other, '$ref'))
    return alternatives(
      own.map((branch, i) => this.node([...bare, ...branch], below(path, keyword, i), depth + 1, style)),
    )
  }

  /** For each of the schemas those that bind what it allows and no other does. */
  #exclusive(branches: readonly unknown[], path: string): (readonly unknown[])[] {
    const alone = branches.map((branch) => [branch])
    if (branches.length < 2 || areDisjoint(branches.map((branch) => this.parts.expand([branch]) ?? []))) return alone
    const negated = branches.length > MAX_EXCLUSIVE ? [null] : branches.map((branch) => this.parts.negation.of(branch))
    if (!negated.includes(null)) return branches.map((branch, i) => [branch, ...negated.filter((_, j) => j !== i)])
    this.note('"oneOf" of schemas that may hold together (as "anyOf" it is enforced)', path)
    return alone
  }

  #fixed(values: readonly string[], types: ReadonlySet<string> | null, parts: Parts, style: Style): Expression | null {
    const target = (reference: unknown) => this.parts.target(reference)
    const rest = withoutLists(parts)
    const left = values.filter((json) => {
      const value: unknown = JSON.parse(json)
      const isTyped = types === null || [...types].some((type) => isOfType(value, type))
      return isTyped && rest.every((part) => satisfies(value, part, target))
    })
    if (left.length === 0) throw new Unsatisfiable('"enum" or "const" without a value that the rest allows')
    const written = left.flatMap((json) => writtenIn(JSON.parse(json), style) ?? [])
    if (written.length === 0)
      throw new Unenforceable('"enum" or "const" of values that this model’s calls cannot write')
    return oneOf(...written.map(text))
  }

  #typed(type: string, parts: Parts, { path, depth, style }: Place): Expression | null {
    const { words } = style.notation
    const excluded = excludedValues(parts)
    switch (type) {
      case 'null':
        return excluded.includes(null) ? null : text(words.null)
      case 'boolean':
        return alternatives([true, false].map((value) => (excluded.includes(value) ? null : text(words[`${value}`]))))
      case 'string':
        return this.#string(parts, path, style)
      case 'integer':
      case 'number':
        return this.#number(type, parts, path)
      case 'array':
        if (excluded.some(Array.isArray)) this.note('"not" of a list', path)
        return arrayRule(this, parts, { path, depth, style })
      default:
        if (excluded.some(isSchema)) this.note('"not" of an object', path)
        return objectRule(this, parts, { path, depth, style })
    }
  }

  /** A string with its quotes, if it has any. */
  #string(parts: Parts, path: string, { notation, raw }: Style): Expression {
    const { quote } = notation
    if (raw !== null) {
      const excluded = raw.kind === 'mixed' ? [wholly(parseRegex(NO_STRING))] : []
      return this.inner(parts, path, { excluded, mark: raw.end })
    }
    if (quote === null) return inOrder(text('"'), this.inner(parts, path), text('"'))
    return inOrder(text(quote.open), this.inner(parts, path, { mark: quote.close }), text(quote.close))
  }

  /**
   * What may stand between the quotes of a string: none of the `excluded`, and no `mark`, which is null where the string is JSON's. Throws
   * Unenforceable.
   */
  inner(
    parts: Parts,
    path: string,
    { excluded = [], mark = null }: { readonly excluded?: readonly Regex[]; readonly mark?: string | null } = {},
  ): Expression {
    // prettier-ignore
    const patterns: Regex[] = []
    const formats: Regex[] = []
    const unwanted = excludedValues(parts)
      .filter((value) => typeof value === 'string')
      .map(literal)
    const forbidden = [...excluded, ...unwanted]
    for (const part of parts) {
      const { pattern, format } = part
      const not = part[NOT_PATTERN]
      if (typeof not === 'string') this.#tryPattern(not, forbidden, path)
      if (typeof pattern === 'string') this.#tryPattern(pattern, patterns, path)
      else if (pattern !== undefined) throw new Unenforceable('"pattern" that is no string')
      const known = FORMATS.get(format)
      if (known !== undefined) formats.push(wholly(parseRegex(known)))
      if (format === 'regex') this.note('"format" regex', path)
    }
    const asked = counts(parts, 'minLength', 'maxLength')
    const { least } = asked
    const isTooLong = least > MAX_COUNTED
    if (isTooLong) this.note(`"minLength" above ${MAX_COUNTED}`, path)
    const most = asked.most < Infinity ? Math.min(asked.most, MAX_COUNTED) : Infinity
    const isCounted = !isTooLong && (least > 0 || most < Infinity)
    if (patterns.length + formats.length + forbidden.length === 0) {
      const [low, high] = isCounted ? [least, most] : [0, Infinity]
      if (mark === null) return times(this.#character, low, high)
      if (isCounted && Math.max(least, most === Infinity ? 0 : most) > MAX_EXACT) return times(character(beginningNo(mark), 'text'), low, high) // prettier-ignore
    }
    const lengths = isCounted ? [repeat(set(EVERY), least, most)] : []
    const wishes = [
      [...patterns, ...formats, ...lengths],
      [...formats, ...lengths],
      [...patterns, ...lengths],
    ]
    return this.#language(wishes, forbidden, mark, path)
  }

  #tryPattern(pattern: string, patterns: Regex[], path: string): void {
    try {
      patterns.push(searched(parseRegex(pattern)))
    } catch (error) {
      if (!(error instanceof Unenforceable)) throw error
      this.note(`"pattern" with ${error.message}`, path)
    }
  }

  /** The first of the conjunctions that can be had; what a later one leaves out is noted. */
  #language(
    conjunctions: readonly (readonly Regex[])[],
    excluded: readonly Regex[],
    mark: string | null,
    path: string,
  ): Expression {
    let why = 'rules for a string that no string satisfies'
    const encoding: Encoding = mark === null ? 'json' : 'text'
    const anything = [repeat(set(EVERY), 0, Infinity)]
    for (const [i, languages] of conjunctions.entries()) {
      if (languages.length === 0 && excluded.length === 0 && mark === null) continue
      const all = languages.length === 0 ? anything : languages
      // A mark among many characters takes too many states: then none of them may begin one.
      const ways = mark === null ? [[all, excluded]] : [[all, [...excluded, searched(literal(mark))]], [[...all, repeat(set(beginningNo(mark)), 0, Infinity)], excluded]] // prettier-ignore
      for (const [own = [], others = []] of ways) {
        try {
          const automaton = intersect(own, others)
          if (automaton !== null) return this.#noted(i, written(automaton, encoding), path)
        } catch (error) {
          if (!(error instanceof Unenforceable)) throw error
          why = error.message
        }
      }
    }
    throw new Unenforceable(why)
  }

  #noted(i: number, found: Expression, path: string): Expression {
    if (i === 1) this.note('"pattern" beside "format" or a length', path)
    if (i === 2) this.note('"format" beside "pattern"', path)
    return found
  }

  #number(type: 'integer' | 'number', parts: Parts, path: string): Expression {
    const low = tightest(parts, 'minimum', 'exclusiveMinimum', 1)
    const high = tightest(parts, 'maximum', 'exclusiveMaximum', -1)
    const range = type === 'integer' ? integers(low, high) : decimals(low, high)
    const steps = [...new Set(parts.flatMap(({ multipleOf }) => (multipleOf === undefined ? [] : [multipleOf])))]
    if (steps.some((step) => typeof step !== 'number' || !(step > 0)))
      throw new Unenforceable('"multipleOf": a number above 0 is expected')
    const unwanted = excludedValues(parts).filter((value) => typeof value === 'number')
    const hasFraction = parts.some((part) => part[FRACTIONAL] === true)
    const needed = steps.map(Number).filter((step) => !(type === 'integer' && Number.isInteger(1 / step)))
    if (needed.length === 0 && unwanted.length === 0 && !hasFraction) return this.#digits(range)
    const bounded = low === null && high === null && type === 'number' ? decimals({ value: -1e15, isExclusive: false }, { value: 1e15, isExclusive: false }) : range // prettier-ignore
    try {
      let automaton = intersect(hasFraction ? [bounded, parseRegex(FRACTION)] : [bounded], unwanted.map(spellings))
      if (automaton === null) throw new Unsatisfiable('bounds that leave no number')
      for (const step of needed) automaton = automaton && product(automaton, multiples(step))
      if (automaton === null) throw new Unsatisfiable('bounds that leave no multiple')
      return written(automaton, 'text')
    } catch (error) {
      if (!(error instanceof Unenforceable) || error instanceof Unsatisfiable) throw error
      this.note(error.message.startsWith('"multipleOf"') ? error.message : '"multipleOf"', path)
      return this.#digits(range)
    }
  }

  /** Many places have the same range. */
  #digits(range: Regex): Expression {
    const key = JSON.stringify(range)
    const known = this.#ranges.get(key)
    if (known !== undefined) return known
    const automaton = intersect([range])
    if (automaton === null) throw new Unsatisfiable('bounds that leave no number')
    const rule = this.grammar.rule(written(automaton, 'text'))
    this.#ranges.set(key, rule)
    return rule
  }

  /** Any value. */
  anyValue(style: Style): Expression {
    const known = this.#anyValues.get(style)
    if (known !== undefined) return known
    const any = this.grammar.open()
    this.#anyValues.set(style, any)
    const { notation } = style
    const inner = style.raw === null && notation.inner === null ? any : this.anyValue(this.styleWithin(style, null))
    const { object, list, member, bareKeysWithout } = notation.inner ?? notation
    const within = ({ open, close, comma, gap }: Brackets, item: Expression) =>
      inOrder(text(open), optional(gap, item, times(inOrder(comma, item), 0, Infinity), gap), text(close))
    const key = bareKeysWithout === null ? this.grammar.rule(this.#string([], '#', { notation, raw: null })) : bareKey()
    const pair = inOrder(text(member.begin), key, member.colon, inner, text(member.end))
    const words = Object.values(notation.words).map(text)
    const values = [within(object, pair), within(list, inner), this.#string([], '#', style), this.#digits(decimals(null, null))] // prettier-ignore
    this.grammar.define(any, oneOf(...values, ...words))
    return any
  }
}

/** Decimals that are no integers. */
const FRACTION = '-?\\d+\\.\\d*[1-9]\\d*'

/** A number in every way that a decimal can be written. */
function spellings(value: number): Regex {
  const [whole = '', fraction = ''] = decimalText(Math.abs(value)).split('.')
  const sign = value === 0 ? '-?' : value < 0 ? '-' : ''
  return parseRegex(`${sign}${whole}${fraction === '' ? '(?:\\.0+)?' : `\\.${fraction}0*`}`)
}

function decimalText(value: number): string {
  return value.toLocaleString('en-US', { useGrouping: false, maximumFractionDigits: 20 })
}

function excludedValues(parts: Parts): readonly unknown[] {
  return parts.flatMap((part): unknown[] => (Array.isArray(part[NOT_VALUES]) ? (part[NOT_VALUES] as unknown[]) : []))
}

function hasTypedKeywords(part: Schema): boolean {
  return Object.values(KEYWORDS).some((keywords) => keywords.some((keyword) => keyword in part))
}

/** A name without quotes. */
export function bareKey(): Expression {
  return written(intersect([wholly(parseRegex('[A-Za-z_][A-Za-z0-9_]{0,63}'))]) ?? { states: [] }, 'text')
}

/** Characters but the first of the mark. */
function beginningNo(mark: string): CodePoints {
  return without(EVERY, only(mark.codePointAt(0) ?? 0))
}

/** A fixed value as it is written; null: it cannot be. */
function writtenIn(value: unknown, { notation, raw }: Style): string | null {
  if (raw === null || typeof value !== 'string') return writtenValue(value, notation, false)
  const isMisread = raw.kind === 'mixed' && new RegExp(`^${NO_STRING}$`, 'u').test(value)
  return isMisread || value.includes(raw.end) ? null : writtenValue(value, notation, true)
}

/** The tightest of bounds that all hold. `sign` 1: the largest. */
function tightest(parts: Parts, inclusive: string, exclusive: string, sign: 1 | -1): Bound | null {
  let found: Bound | null = null
  const take = (value: unknown, isExclusive: boolean, keyword: string) => {
    if (value === undefined) return
    if (typeof value !== 'number') throw new Unenforceable(`"${keyword}": a number is expected`)
    const difference = found === null ? 1 : (value - found.value) * sign
    if (difference > 0 || (difference === 0 && isExclusive)) found = { value, isExclusive }
  }
  for (const part of parts) {
    // The standard's fourth draft had a flag beside the bound.
    const flag = part[exclusive]
    take(part[inclusive], flag === true, inclusive)
    if (typeof flag !== 'boolean') take(flag, true, exclusive)
  }
  return found
}
