/**
 * Turns JSON Schemas into grammars whose outputs all validate. The grammars are narrower than the schemas: an object has the properties that its
 * schema names, in that order, and others only if `additionalProperties` asks for them; only unbounded numbers have exponents. Keywords that cannot
 * be enforced are reported. Runs in the grammar thread, so that a hostile schema delays only its sender.
 */
import { parameterKind } from '../../tool-calls/parameter-kind.ts'
import type { ParameterKind } from '../../tool-calls/parameter-kind.ts'
import { inOrder, NOTHING, oneOf, optional, text, times } from '../byte-grammar.ts'
import type { Expression, GrammarRules } from '../byte-grammar.ts'
import { arrayRule } from './json-lists.ts'
import { JsonNumbers } from './json-numbers.ts'
import { objectRule } from './json-objects.ts'
import { bareKey, JsonStrings, literalIn } from './json-strings.ts'
import type { InnerOptions } from './json-strings.ts'
import type { Brackets, Notation, ValueContext, Style } from '../notation.ts'
import { isOfType, isSchema, KEYWORDS, TYPES } from './schema.ts'
import type { Schema } from './schema.ts'
import { satisfies, withoutListedValues } from './schema-check.ts'
import {
  alternatives,
  areDisjoint,
  childPath,
  commonTypes,
  excludedValues,
  fixedValues,
  SchemaExpander,
} from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import type { ReferenceTarget } from './schema-references.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'

const MAX_DEPTH = 64
const MAX_NODES = 20_000
const MAX_LISTED = 16
/** Limit on the schemas of a `oneOf` that are made exclusive by negating the others. */
const MAX_EXCLUSIVE = 10
/** A JSON Schema as grammar rules; `rule` is the root. @throws Unenforceable naming the path */
export class JsonSchema {
  readonly grammar: GrammarRules
  readonly expander: SchemaExpander
  readonly #root: unknown
  readonly #rootStyle: Style
  readonly #problems: string[] = []
  readonly #unenforced: string[] = []
  readonly #ids = new Map<Schema, number>()
  readonly #styles = new Map<ParameterKind, Style>()
  readonly #rules = new Map<Style, Map<string, Expression | null>>()
  readonly #anyValues = new Map<Style, Expression>()
  readonly #strings: JsonStrings
  readonly #numbers: JsonNumbers
  #numNodes = 0
  /** Why no value satisfies the schema. */
  #reason: string | null = null

  constructor(root: unknown, grammar: GrammarRules, notation: Notation) {
    this.grammar = grammar
    this.expander = new SchemaExpander(root)
    this.#root = root
    this.#rootStyle = { notation, raw: null }
    if (notation.inner === null) this.#styles.set('other', this.#rootStyle)
    const note = (problem: string, path: string) => this.note(problem, path)
    this.#strings = new JsonStrings(grammar, note)
    this.#numbers = new JsonNumbers(grammar, note)
  }

  /** How the value of a property is written; a null name stands for an item of a list. */
  styleWithin({ notation }: Style, name: string | null): Style {
    const stringContent = notation.inner ?? notation
    const kind = notation.rawEnd === null || name === null ? 'other' : parameterKind(this.#root, name)
    const known = this.#styles.get(kind)
    if (known !== undefined) return known
    const made = {
      notation: stringContent,
      raw: notation.rawEnd === null || kind === 'other' ? null : { kind, end: notation.rawEnd },
    }
    this.#styles.set(kind, made)
    return made
  }

  /** The keywords that are not enforced, each with its path. */
  get unenforced(): readonly string[] {
    return this.#unenforced
  }

  /** The rule of the whole schema. @throws Unenforceable naming the path of every problem */
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

  /** The rule of a value that satisfies all schemas; null: there is no such value. */
  node(schemas: readonly unknown[], path: string, depth: number, style: Style): Expression | null {
    if (depth > MAX_DEPTH) return this.#problem(`nesting deeper than ${MAX_DEPTH}`, path)
    try {
      const parts = this.expander.expand(schemas)
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
      const body = this.#possible(() => this.#value(parts, path, depth, style), path)
      if (body === null) rules.set(key, null)
      else this.grammar.define(rule, body)
      return body === null ? null : rule
    } catch (error) {
      if (!(error instanceof Unenforceable)) throw error
      return this.#problem(error.message, path)
    }
  }

  /** Returns null, and records why, if no value is possible. */
  #possible(make: () => Expression | null, path: string): Expression | null {
    try {
      return make()
    } catch (error) {
      if (!(error instanceof Unsatisfiable)) throw error
      this.#reason ??= `${error.message} at ${path}`
      return null
    }
  }

  #key(parts: Conjunction): string {
    const id = (part: Schema): number => {
      const known = this.#ids.get(part) ?? this.#ids.size
      this.#ids.set(part, known)
      return known
    }
    return parts.map(id).toSorted((a, b) => a - b).join(' ') // prettier-ignore
  }

  #value(parts: Conjunction, path: string, depth: number, style: Style): Expression | null {
    for (const part of parts) for (const keyword of this.expander.unenforced(part)) this.note(keyword, path)
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
    // Without a type, keywords apply only to values of their type. A choice of those types satisfies them.
    const spoken = Object.keys(KEYWORDS).filter((type) =>
      parts.some((part) => KEYWORDS[type]?.some((keyword) => keyword in part)),
    )
    if (spoken.length === 0) return this.anyValue(style)
    return alternatives(spoken.map((type) => this.#typed(type, parts, { path, depth, style })))
  }

  #branches(
    parts: Conjunction,
    part: Schema,
    keyword: 'anyOf' | 'oneOf',
    { path, depth, style }: ValueContext,
  ): Expression | null {
    const listed = part[keyword]
    if (!Array.isArray(listed) || listed.length === 0)
      throw new Unenforceable(`"${keyword}": a list with something in it is expected`)
    const branches: readonly unknown[] = listed
    const others = [...parts.filter((other) => other !== part), this.expander.without(part, keyword)]
    const own = keyword === 'oneOf' ? this.#exclusive(branches, path) : branches.map((branch) => [branch])
    // References are resolved already and must not be followed again.
    const bare = others.map((other) => this.expander.without(other, '$ref'))
    return alternatives(
      own.map((branch, i) => this.node([...bare, ...branch], childPath(path, keyword, i), depth + 1, style)),
    )
  }

  /** For each schema, the conjunction that allows what it allows and no other schema does. */
  #exclusive(branches: readonly unknown[], path: string): (readonly unknown[])[] {
    const alone = branches.map((branch) => [branch])
    if (branches.length < 2 || areDisjoint(branches.map((branch) => this.expander.expand([branch]) ?? []))) return alone
    const negated =
      branches.length > MAX_EXCLUSIVE ? [null] : branches.map((branch) => this.expander.negation.of(branch))
    if (!negated.includes(null)) return branches.map((branch, i) => [branch, ...negated.filter((_, j) => j !== i)])
    this.note('"oneOf" of schemas that may hold together (as "anyOf" it is enforced)', path)
    return alone
  }

  #fixed(
    values: readonly string[],
    types: ReadonlySet<string> | null,
    parts: Conjunction,
    style: Style,
  ): Expression | null {
    const target: ReferenceTarget = (reference, from) => this.expander.target(reference, from)
    const rest = withoutListedValues(parts)
    const left = values.filter((json) => {
      const value: unknown = JSON.parse(json)
      const isTyped = types === null || [...types].some((type) => isOfType(value, type))
      return isTyped && rest.every((part) => satisfies(value, part, target))
    })
    if (left.length === 0) throw new Unsatisfiable('"enum" or "const" without a value that the rest allows')
    const written = left.flatMap((json) => literalIn(JSON.parse(json), style) ?? [])
    if (written.length === 0)
      throw new Unenforceable('"enum" or "const" of values that this model’s calls cannot write')
    return oneOf(...written)
  }

  #typed(type: string, parts: Conjunction, { path, depth, style }: ValueContext): Expression | null {
    const { words } = style.notation
    const excluded = excludedValues(parts)
    switch (type) {
      case 'null':
        return excluded.includes(null) ? null : text(words.null)
      case 'boolean':
        return alternatives([true, false].map((value) => (excluded.includes(value) ? null : text(words[`${value}`]))))
      case 'string':
        return this.#strings.string(parts, path, style)
      case 'integer':
      case 'number':
        return this.#numbers.number(type, parts, path)
      case 'array':
        if (excluded.some(Array.isArray)) this.note('"not" of a list', path)
        return arrayRule(this, parts, { path, depth, style })
      default:
        if (excluded.some(isSchema)) this.note('"not" of an object', path)
        return objectRule(this, parts, { path, depth, style })
    }
  }

  /** The content of a string, without its quotes. */
  stringContent(parts: Conjunction, path: string, options?: InnerOptions): Expression {
    return this.#strings.stringContent(parts, path, options)
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
    const key =
      bareKeysWithout === null ? this.grammar.rule(this.#strings.string([], '#', { notation, raw: null })) : bareKey()
    const pair = inOrder(text(member.begin), key, member.colon, inner, text(member.end))
    const words = Object.values(notation.words).map(text)
    const values = [within(object, pair), within(list, inner), this.#strings.string([], '#', style), this.#numbers.number('number', [], '#')] // prettier-ignore
    this.grammar.define(any, oneOf(...values, ...words))
    return any
  }
}

function hasTypedKeywords(part: Schema): boolean {
  return Object.values(KEYWORDS).some((keywords) => keywords.some((keyword) => keyword in part))
}
