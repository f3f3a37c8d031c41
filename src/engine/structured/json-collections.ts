/** Objects and lists of JSON Schemas as grammars. */
import { codePoints, EVERY } from './code-points.ts'
import { inOrder, NOTHING, oneOf, optional, text, times } from './byte-grammar.ts'
import type { Expression, GrammarRules } from './byte-grammar.ts'
import { choice, literal, parseRegex, repeat, searched, sequence, set } from './regex.ts'
import { satisfies, withoutLists } from './schema-check.ts'
import type { Regex } from './regex.ts'
import { isSchema } from './schema.ts'
import type { Schema } from './schema.ts'
import { alternatives, below, commonTypes, counts, fixedValues } from './schema-parts.ts'
import type { Place, Style } from './json-schema.ts'
import { writtenKey, writtenValue } from './notation.ts'
import type { Brackets, Notation } from './notation.ts'
import type { Parts, SchemaParts } from './schema-parts.ts'
import { Unenforceable, Unsatisfiable } from './unenforceable.ts'

/** What a collection needs to know of the schema that it stands in. */
export interface SchemaRules {
  readonly grammar: GrammarRules
  readonly parts: SchemaParts
  /** The rule of a value that all schemas bind; null: there is none. */
  node(schemas: readonly unknown[], path: string, depth: number, style: Style): Expression | null
  anyValue(style: Style): Expression
  /** How the value of a member of that name is written, and values in a list where it is null. */
  styleWithin(style: Style, name: string | null): Style
  /** What may stand between the quotes of a string. */
  inner(
    parts: Parts,
    path: string,
    options?: { readonly excluded?: readonly Regex[]; readonly mark?: string | null },
  ): Expression
  note(problem: string, path: string): void
}

/** A property that no schema names. */
const NO_NAME = '\u0000'
/** Rules that count members: places times counts. */
const MAX_COUNTS = 4000
const MAX_EXCLUDED_CHARACTERS = 2000

/** One member of a list or an object. */
interface Member {
  readonly rule: Expression
  readonly isRequired: boolean
}

/** The rule of a list. */
export function arrayRule(rules: SchemaRules, parts: Parts, { path, depth, style }: Place): Expression | null {
  const { least, most } = counts(parts, 'minItems', 'maxItems')
  const own = style.notation.inner ?? style.notation
  const { list } = own
  const inner = rules.styleWithin(style, null)
  const isUnique = parts.some(({ uniqueItems }) => uniqueItems === true)
  const { prefix, rest } = places(parts, least)
  const first = prefix.map((schemas, i) => rules.node(schemas, below(path, 'prefixItems', i), depth + 1, inner))
  const isClosed = rest.includes(false)
  const item = isClosed ? null : rules.node(rest, below(path, 'items'), depth + 1, inner)
  if (isUnique && most > 1) {
    const values = prefix.length > 0 ? null : finite(rules, rest)
    if (values !== null) {
      const listed = values.flatMap((value) => writtenValue(JSON.parse(value), own, false) ?? [])
      const members = listed.map((value): Member => ({ rule: text(value), isRequired: false }))
      return bracketed(list, counted(rules, members, null, { least, most }, list.comma, path, 'items'))
    }
    rules.note('"uniqueItems"', path)
  }
  const wanted = wantedOf(parts)
  if (wanted !== null) {
    if (prefix.length === 0 && wanted.others === 0) return containing(rules, rest, { least, most }, wanted, { path, depth, style }) // prettier-ignore
    rules.note('"contains"', path)
  }
  const missing = first.indexOf(null)
  const fixed = (missing < 0 ? first : first.slice(0, missing)).filter((rule) => rule !== null)
  const tail = missing < 0 ? item : null
  if (fixed.length + (tail === null ? 0 : Infinity) < least) return null
  if (fixed.length === 0) return repeated(list, tail, least, most)
  // Lists that end among the first places are valid too, but what is listed is meant to be there.
  const numFixed = Math.min(fixed.length, most)
  const free = numFixed < fixed.length ? null : tail
  const least2 = Math.max(0, least - numFixed)
  const more = free === null || most - numFixed <= 0 ? [] : [times(inOrder(list.comma, free), least2, most - numFixed)]
  const first2 = fixed.slice(0, numFixed).flatMap((rule, i) => (i === 0 ? [rule] : [list.comma, rule]))
  return bracketed(list, { body: inOrder(...first2, ...more), mayBeEmpty: false })
}

/** The schemas of the first places, and of those behind them. */
function places(parts: Parts, least: number): { readonly prefix: unknown[][]; readonly rest: unknown[] } {
  const lists = parts.map((part) => {
    const { prefixItems, items, unevaluatedItems } = part
    if (prefixItems !== undefined && (!Array.isArray(prefixItems) || prefixItems.length === 0))
      throw new Unenforceable('"prefixItems": a list with something in it is expected')
    // The standard's older drafts listed the first places under `items`.
    const first: unknown[] = Array.isArray(prefixItems) ? prefixItems : Array.isArray(items) ? items : []
    const after = Array.isArray(items) ? part.additionalItems : (items ?? unevaluatedItems)
    // What is not described behind the first places is allowed, and seldom meant.
    return { first, after: after === undefined && first.length > 0 && least <= first.length ? false : after }
  })
  const numFirst = Math.max(0, ...lists.map(({ first }) => first.length))
  const prefix = Array.from({ length: numFirst }, (_, i) =>
    lists.map(({ first, after }) => (i < first.length ? first[i] : after)),
  )
  return { prefix, rest: lists.map(({ after }) => after) }
}

/** Of `contains`: the schema, and how many items it has to hold for. */
interface Wanted {
  readonly schema: unknown
  readonly least: number
  readonly most: number
  /** Further schemas of its kind. */
  readonly others: number
}

function wantedOf(parts: Parts): Wanted | null {
  const all = parts.flatMap((part) => {
    if (part.contains === undefined) return []
    const { least, most } = counts([{ minContains: 1, ...part }], 'minContains', 'maxContains')
    return least === 0 && most === Infinity ? [] : [{ schema: part.contains, least, most }]
  })
  const [first] = all
  return first === undefined ? null : { ...first, others: all.length - 1 }
}

/** Lists longer than this are not counted item by item. */
const MAX_PLACES = 64

/** A list of which some items are of another schema besides. */
function containing(
  rules: SchemaRules,
  items: readonly unknown[],
  { least, most }: { readonly least: number; readonly most: number },
  wanted: Wanted,
  { path, depth, style }: Place,
): Expression | null {
  const { list } = style.notation.inner ?? style.notation
  const inner = rules.styleWithin(style, null)
  const node = (more: readonly unknown[], step: string) => (items.includes(false) ? null : rules.node([...items, ...more], below(path, step), depth + 1, inner)) // prettier-ignore
  const own = node([wanted.schema], 'contains')
  const isBounded = wanted.most < Infinity
  const negated = isBounded ? rules.parts.negation.of(wanted.schema) : null
  if (isBounded && negated === null) rules.note('"maxContains"', path)
  const other = node(negated === null ? [] : [negated], 'items')
  if (own === null && wanted.least > 0) return null
  const mostOwn = negated === null ? wanted.least : wanted.most
  // From a number of items on nothing more has to be counted.
  const numPlaces = Math.min(most, MAX_PLACES, Math.max(least, wanted.least) + (most < Infinity ? most : 0))
  if (most < Infinity && most > MAX_PLACES) rules.note(`"maxItems" above ${MAX_PLACES} beside "contains"`, path)
  const isOpen = most > numPlaces
  const states = new Map<string, Expression | null>()
  /** What may follow `place` items of which `found` are wanted ones. */
  const after = (place: number, found: number): Expression | null => {
    const key = `${place} ${found}`
    const known = states.get(key)
    if (known !== undefined) return known
    const rule = rules.grammar.open()
    states.set(key, rule)
    const next = isOpen && place === numPlaces ? place : place + 1
    const step = (item: Expression | null, nowFound: number) => {
      const rest = item === null || next > numPlaces || nowFound > mostOwn ? null : after(next, nowFound)
      return item === null || rest === null ? null : inOrder(...(place === 0 ? [] : [list.comma]), item, rest)
    }
    const isEnough = place >= least && found >= wanted.least
    const counted = found < mostOwn ? step(own, found + 1) : null
    const body = alternatives([isEnough ? NOTHING : null, counted, step(other, found)])
    if (body === null) states.set(key, null)
    else rules.grammar.define(rule, body)
    return body === null ? null : rule
  }
  // An empty list has no room inside.
  const whole = after(0, 0)
  return whole === null ? null : inOrder(text(list.open), list.gap, whole, list.gap, text(list.close))
}

const MAX_LISTED_INTEGERS = 64

/** The values of a schema that has few of them, as JSON. */
function finite({ parts }: SchemaRules, schemas: readonly unknown[]): string[] | null {
  const expanded = parts.expand(schemas)
  if (expanded === null) return null
  const target = (reference: unknown) => parts.target(reference)
  const rest = withoutLists(expanded)
  return candidates(expanded, parts)?.filter((json) => rest.every((part) => satisfies(JSON.parse(json), part, target))) ?? null // prettier-ignore
}

/** Values among which are all that the schemas allow; null: too many, or not known. */
function candidates(expanded: Parts, parts: SchemaParts): string[] | null {
  const fixed = fixedValues(expanded)
  if (fixed !== null) return fixed
  const types = commonTypes(expanded)
  if (types !== null && [...types].every((type) => type === 'boolean' || type === 'null'))
    return [...types].flatMap((type) => (type === 'null' ? 'null' : ['true', 'false']))
  if (types?.size === 1 && types.has('integer')) {
    const bounds = (keyword: string) => expanded.flatMap((part) => (typeof part[keyword] === 'number' ? [part[keyword]] : [])) // prettier-ignore
    const low = Math.ceil(Math.max(...bounds('minimum'), ...bounds('exclusiveMinimum')))
    const high = Math.floor(Math.min(...bounds('maximum'), ...bounds('exclusiveMaximum')))
    return high - low < MAX_LISTED_INTEGERS ? Array.from({ length: Math.max(0, high - low + 1) }, (_, i) => String(low + i)) : null // prettier-ignore
  }
  for (const { anyOf, oneOf } of expanded) {
    const branches: unknown = anyOf ?? oneOf
    if (!Array.isArray(branches)) continue
    const each = branches.map((branch: unknown) => {
      const inner = parts.expand([branch])
      return inner === null ? [] : candidates(inner, parts)
    })
    if (!each.includes(null)) return [...new Set(each.flatMap((values) => values ?? []))]
  }
  return null
}

interface Members {
  readonly body: Expression | null
  readonly mayBeEmpty: boolean
}

function bracketed({ open, close, gap }: Brackets, { body, mayBeEmpty }: Members): Expression | null {
  if (body === null) return mayBeEmpty ? text(open + close) : null
  const inner = inOrder(text(open), gap, body, gap, text(close))
  return mayBeEmpty ? oneOf(text(open + close), inner) : inner
}

function repeated(list: Brackets, item: Expression | null, least: number, most: number): Expression | null {
  if (item === null || most === 0) return bracketed(list, { body: null, mayBeEmpty: least === 0 })
  const body = inOrder(item, times(inOrder(list.comma, item), Math.max(0, least - 1), most - 1))
  return bracketed(list, { body, mayBeEmpty: least === 0 })
}

/**
 * Members in their order, each at most once, and then any number of `free` ones: at least `least` and at most `most` of them. Two rules for
 * each place, and for each count of members before it where counts matter: what follows a comma, and what follows a member.
 */
function counted(
  rules: SchemaRules,
  own: readonly Member[],
  free: Expression | null,
  { least, most }: { readonly least: number; readonly most: number },
  comma: Expression,
  path: string,
  what: string,
): Members {
  const { grammar } = rules
  const numRequired = own.filter(({ isRequired }) => isRequired).length
  const mostThereAre = own.length + (free === null ? 0 : Infinity)
  const matters = least > numRequired || most < mostThereAre
  const isCounting = matters && own.length * Math.min(most, own.length) <= MAX_COUNTS
  if (matters && !isCounting) rules.note(`the number of ${what} beside this many of them`, path)
  const [low, high] = isCounting ? [least, most] : [0, Infinity]
  const lastRequired = own.findLastIndex(({ isRequired }) => isRequired)
  const mayStop = (place: number, numBefore: number) => place > lastRequired && numBefore >= low
  const counts = Array.from({ length: isCounting ? Math.min(high, own.length) + 1 : 1 }, (_, i) => i)
  const behind = (numBefore: number) => (isCounting ? numBefore + 1 : 0)
  // From the last place to the first; null: impossible.
  let nextByCount: (Expression | null)[] = counts.map((numBefore) => {
    if (free === null || numBefore >= high) return null
    return inOrder(free, times(inOrder(comma, free), Math.max(0, low - numBefore - 1), high - numBefore - 1))
  })
  const restOf = (place: number, numBefore: number, next: Expression | null): Expression | null => {
    const canStop = mayStop(place, numBefore)
    if (next === null || numBefore >= high) return canStop ? NOTHING : null
    return canStop ? optional(comma, next) : inOrder(comma, next)
  }
  for (let place = own.length - 1; place >= 0; place--) {
    const { rule, isRequired } = own[place] ?? { rule: NOTHING, isRequired: false }
    const after = nextByCount
    nextByCount = counts.map((numBefore) => {
      const rest = numBefore >= high ? null : restOf(place + 1, behind(numBefore), after[behind(numBefore)] ?? null)
      const taken = rest === null ? null : inOrder(rule, rest)
      const made = isRequired ? taken : alternatives([taken, after[numBefore] ?? null])
      return made === null ? null : grammar.rule(made)
    })
  }
  const all = nextByCount[0] ?? null
  const mayBeEmpty = mayStop(0, 0)
  return all === null ? { body: null, mayBeEmpty } : { body: all, mayBeEmpty }
}

/** The rule of an object. */
export function objectRule(rules: SchemaRules, parts: Parts, { path, depth, style }: Place): Expression | null {
  const { object, member } = style.notation
  const { least, most } = counts(parts, 'minProperties', 'maxProperties')
  const required = requiredNames(parts)
  const declared = new Set(parts.flatMap(({ properties }) => (isSchema(properties) ? Object.keys(properties) : [])))
  const keyNames = namesOfKeys(rules, parts)
  const all = new Set([...declared, ...required, ...(keyNames ?? [])])
  const own: Member[] = []
  for (const name of all) {
    const isRequired = required.has(name)
    const schemas = keyNames !== null && !keyNames.has(name) ? [false] : schemasOf(parts, name)
    const value = schemas.includes(false)
      ? null
      : rules.node(schemas, below(path, 'properties', name), depth + 1, rules.styleWithin(style, name))
    if (value === null && isRequired) throw new Unsatisfiable('a required property that nothing can be')
    const key = writtenKey(name, style.notation)
    if (key === null && isRequired) throw new Unenforceable('a property whose name this model’s calls cannot write')
    if (value !== null && key !== null)
      own.push({ rule: rules.grammar.rule(inMember(text(key), value, member)), isRequired })
  }
  const free = keyNames === null ? freeMember(rules, parts, declared, all, { path, depth, style }) : null
  let fewest = least
  if (free !== null && least > Math.max(1, own.length)) {
    // A key that is written twice counts once.
    rules.note('"minProperties" of free keys', path)
    fewest = 0
  }
  return bracketed(object, counted(rules, own, free, { least: fewest, most }, object.comma, path, 'properties'))
}

function inMember(key: Expression, value: Expression, { begin, colon, end }: Notation['member']): Expression {
  return inOrder(text(begin), key, colon, value, text(end))
}

function requiredNames(parts: Parts): Set<string> {
  const names = new Set<string>()
  for (const { properties, required, dependentRequired } of parts) {
    if ((properties !== undefined && !isSchema(properties)) || (required !== undefined && !Array.isArray(required)))
      throw new Unenforceable('"properties" or "required" of a wrong type')
    if (Array.isArray(required)) for (const name of required) names.add(String(name))
    // What one property asks for is there with and without it.
    if (isSchema(dependentRequired))
      for (const list of Object.values(dependentRequired)) if (Array.isArray(list)) for (const name of list) names.add(String(name)) // prettier-ignore
  }
  return names
}

/** All schemas of one property; false among them: there is no such property. */
function schemasOf(parts: Parts, name: string): unknown[] {
  return parts.flatMap(({ properties, patternProperties, additionalProperties, unevaluatedProperties }) => {
    const own = isSchema(properties) && Object.hasOwn(properties, name) ? [properties[name]] : []
    const matching = Object.entries(isSchema(patternProperties) ? patternProperties : {}).flatMap(([pattern, schema]) => (matches(pattern, name) ? [schema] : [])) // prettier-ignore
    const found = [...own, ...matching]
    if (found.length > 0) return found
    const others = additionalProperties ?? unevaluatedProperties
    return others === undefined || (additionalProperties === undefined && isElsewhere(parts, name)) ? [] : [others]
  })
}

/** `unevaluatedProperties` lets through what any part names. */
function isElsewhere(parts: Parts, name: string): boolean {
  return parts.some(({ properties }) => isSchema(properties) && Object.hasOwn(properties, name))
}

function matches(pattern: string, name: string): boolean {
  try {
    return new RegExp(pattern, 'u').test(name)
  } catch {
    throw new Unenforceable('"patternProperties" with a pattern that is none')
  }
}

/** The keys that `propertyNames` lists; null where it lists none. */
function namesOfKeys(rules: SchemaRules, parts: Parts): ReadonlySet<string> | null {
  const schemas = parts.flatMap(({ propertyNames }) => (isSchema(propertyNames) ? [propertyNames] : []))
  const values = schemas.length === 0 ? null : finite(rules, schemas)
  if (values === null) return null
  return new Set(values.map((json): unknown => JSON.parse(json)).filter((value) => typeof value === 'string'))
}

/** The rule of a member with a key of its own; null: there is none. */
function freeMember(
  rules: SchemaRules,
  parts: Parts,
  declared: ReadonlySet<string>,
  names: ReadonlySet<string>,
  place: Place,
): Expression | null {
  const { path, depth, style } = place
  const patterns = parts.flatMap(({ patternProperties }) => Object.entries(isSchema(patternProperties) ? patternProperties : {})) // prettier-ignore
  const closed = parts.some(({ additionalProperties, unevaluatedProperties }) => additionalProperties === false || unevaluatedProperties === false) // prettier-ignore
  if (patterns.length > 0) return patternMember(rules, patterns, parts, names, place)
  if (closed) return null
  const asked = parts.flatMap(({ additionalProperties }) => (additionalProperties === undefined ? [] : [additionalProperties])) // prettier-ignore
  // What a schema does not name is allowed, and seldom meant.
  if (declared.size > 0 && asked.length === 0) return null
  const inner = rules.styleWithin(style, NO_NAME)
  const value = asked.every((schema) => schema === true)
    ? rules.anyValue(inner)
    : rules.node(asked, below(path, 'additionalProperties'), depth + 1, inner)
  return value === null ? null : inMember(key(rules, parts, names, place), value, style.notation.member)
}

/** A member whose key one of the patterns finds; what `additionalProperties` allows beside them is left out. */
function patternMember(
  rules: SchemaRules,
  patterns: readonly (readonly [string, unknown])[],
  parts: Parts,
  names: ReadonlySet<string>,
  place: Place,
): Expression | null {
  const { path, depth, style } = place
  let languages: readonly Regex[]
  try {
    languages = patterns.map(([pattern]) => searched(parseRegex(pattern)))
  } catch (error) {
    // Which keys it binds cannot be told: there are none.
    if (error instanceof Unenforceable) return null
    throw error
  }
  // A key that several patterns find has to satisfy all of their schemas.
  const groups = patterns.length <= MAX_PATTERNS ? subsets(patterns.length) : patterns.map((_, i) => [i])
  const members = groups.map((group) => {
    const schemas = group.map((i) => patterns[i]?.[1])
    const others = languages.filter((_, i) => !group.includes(i))
    const found = group.map((i): Schema => ({ pattern: patterns[i]?.[0] }))
    const name = anyKey(rules, parts, names, place, { found, others })
    if (name === null) return null
    const inner = rules.styleWithin(style, NO_NAME)
    const value = rules.node(schemas, below(path, 'patternProperties', group[0] ?? 0), depth + 1, inner)
    return value === null ? null : inMember(name, value, style.notation.member)
  })
  return alternatives(members)
}

/** Patterns whose keys are told apart in every way. */
const MAX_PATTERNS = 4

/** Every choice of some of the numbers below `count`. */
function subsets(count: number): number[][] {
  const numbers = Array.from({ length: count }, (_, i) => i)
  return Array.from({ length: 2 ** count - 1 }, (_, i) => numbers.filter((bit) => ((i + 1) >> bit) & 1))
}

/** Patterns that find a key, as schemas, and those that must not. */
interface KeyPatterns {
  readonly found: readonly Schema[]
  readonly others: readonly Regex[]
}

/** null: no key is found by these patterns and by none of the others. */
function anyKey(
  rules: SchemaRules,
  parts: Parts,
  names: ReadonlySet<string>,
  place: Place,
  patterns: KeyPatterns,
): Expression | null {
  try {
    return key(rules, parts, names, place, patterns)
  } catch (error) {
    if (error instanceof Unenforceable) return null
    throw error
  }
}

/** A key that none of the names is, within what `propertyNames` says. */
function key(
  rules: SchemaRules,
  parts: Parts,
  names: ReadonlySet<string>,
  { path, style }: Place,
  { found, others }: KeyPatterns = { found: [], others: [] },
): Expression {
  const schemas = parts.flatMap(({ propertyNames }) => (isSchema(propertyNames) ? [propertyNames] : []))
  const own = rules.parts.expand(schemas) ?? []
  const characters = [...names].reduce((sum, name) => sum + name.length, 0)
  const excluded = [...others]
  if (characters > MAX_EXCLUDED_CHARACTERS) {
    // Too many to be told apart: no key begins as one of them does.
    const firsts = [...new Set([...names].map((name) => name.codePointAt(0) ?? 0))]
    excluded.push(
      sequence(set(codePoints(firsts.map((code) => [code, code] as const))), repeat(set(EVERY), 0, Infinity)),
    )
  } else if (names.size > 0) excluded.push(choice(...[...names].map((name) => literal(name))))
  const place = below(path, 'propertyNames')
  if (style.notation.bareKeysWithout === null)
    return inOrder(text('"'), rules.inner([...own, ...found], place, { excluded }), text('"'))
  return rules.inner([...own, ...found, { pattern: '^[A-Za-z_][A-Za-z0-9_]*$' }], place, { excluded, mark: '\n' })
}
