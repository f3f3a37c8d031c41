/** Grammars of objects. */
import { inOrder, text } from '../byte-grammar.ts'
import type { Expression } from '../byte-grammar.ts'
import { codePoints, EVERY } from '../patterns/code-points.ts'
import { inBrackets, countedMembers, finiteValues } from './json-members.ts'
import type { Member, SchemaRules } from './json-members.ts'
import { keyOf } from '../notation.ts'
import type { Notation, ValueContext } from '../notation.ts'
import { partialMatch } from '../patterns/regex-anchors.ts'
import { choice, literal, parseRegex, repeat, sequence, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { satisfies } from './schema-check.ts'
import type { ReferenceTarget } from './schema-references.ts'
import { isSchema, wordOf } from './schema.ts'
import type { Schema } from './schema.ts'
import { alternatives, childPath, boundedCounts } from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'

/** A property that no schema names. */
const NO_NAME = '\u0000'
const MAX_EXCLUDED_CHARACTERS = 2000

/** The rule of an object. */
export function objectRule(
  rules: SchemaRules,
  parts: Conjunction,
  { path, depth, style }: ValueContext,
): Expression | null {
  const { member } = style.notation
  const note = (problem: string) => rules.note(problem, path)
  const { least, most } = boundedCounts(parts, ['minProperties', 'maxProperties'], note)
  const required = requiredNames(parts)
  const declared = new Set(parts.flatMap(({ properties }) => (isSchema(properties) ? Object.keys(properties) : [])))
  const keyNames = namesOfKeys(rules, parts)
  const all = new Set([...declared, ...required, ...(keyNames ?? [])])
  const own: Member[] = []
  for (const name of all) {
    const isRequired = required.has(name)
    const schemas = isAllowedName(rules, parts, name) ? schemasOf(parts, name) : [false]
    const value = schemas.includes(false)
      ? null
      : rules.node(schemas, childPath(path, 'properties', name), depth + 1, rules.styleWithin(style, name))
    if (value === null && isRequired) throw new Unsatisfiable('a required property that nothing can be')
    const key = keyOf(name, style.notation)
    if (key === null && isRequired) throw new Unenforceable('a property whose name this model’s calls cannot write')
    if (value !== null && key !== null)
      own.push({ rule: rules.grammar.rule(memberRule(text(key), value, member)), isRequired })
  }
  const place = { path, depth, style }
  const free = keyNames === null ? freeMember(rules, parts, declared, all, place) : null
  const made = objectOfMembers(rules, own, free, { least, most }, place)
  if (made !== null || free !== null || keyNames !== null) return made
  // The named properties are too few, so other properties are needed.
  const other = freeMember(rules, parts, new Set(), all, place)
  return other === null ? null : objectOfMembers(rules, own, other, { least, most }, place)
}

/** The rule of an object with these members and free ones; null: there is none. */
function objectOfMembers(
  rules: SchemaRules,
  own: readonly Member[],
  free: Expression | null,
  { least, most }: { readonly least: number; readonly most: number },
  { path, style }: ValueContext,
): Expression | null {
  const { object } = style.notation
  let fewest = least
  if (free !== null && least > Math.max(1, own.length)) {
    // Free keys may repeat, and a repeated key counts once.
    rules.note('"minProperties" of free keys', path)
    fewest = 0
  }
  return inBrackets(object, countedMembers(rules, own, free, { least: fewest, most }, object.comma, path, 'properties'))
}

function memberRule(key: Expression, value: Expression, { begin, colon, end }: Notation['member']): Expression {
  return inOrder(text(begin), key, colon, value, text(end))
}

function requiredNames(parts: Conjunction): Set<string> {
  const names = new Set<string>()
  for (const { properties, required } of parts) {
    const isOfWrongType =
      (properties !== undefined && !isSchema(properties)) ||
      (required !== undefined && !(Array.isArray(required) && required.every((name) => typeof name !== 'object')))
    if (isOfWrongType) throw new Unenforceable('"properties" or "required" of a wrong type')
    if (Array.isArray(required)) for (const name of required) names.add(wordOf(name))
  }
  return names
}

/** All schemas of a property. If false is among them, the property is not allowed. */
function schemasOf(parts: Conjunction, name: string): unknown[] {
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
function isElsewhere(parts: Conjunction, name: string): boolean {
  return parts.some(({ properties }) => isSchema(properties) && Object.hasOwn(properties, name))
}

function matches(pattern: string, name: string): boolean {
  try {
    return new RegExp(pattern, 'u').test(name)
  } catch {
    throw new Unenforceable('"patternProperties" with a pattern that is none')
  }
}

/** Whether `propertyNames` lets a key have this name. It binds the keys of `properties` too. */
function isAllowedName({ expander }: SchemaRules, parts: Conjunction, name: string): boolean {
  const target: ReferenceTarget = (reference, from) => expander.target(reference, from)
  return parts.every(({ propertyNames }) => propertyNames === undefined || satisfies(name, propertyNames, target))
}

/** The keys that `propertyNames` lists; null where it lists none. */
function namesOfKeys(rules: SchemaRules, parts: Conjunction): ReadonlySet<string> | null {
  const schemas = parts.flatMap(({ propertyNames }) => (isSchema(propertyNames) ? [propertyNames] : []))
  const values = schemas.length === 0 ? null : finiteValues(rules, schemas)
  if (values === null) return null
  return new Set(values.map((json): unknown => JSON.parse(json)).filter((value) => typeof value === 'string'))
}

/** The rule of a member with a key of its own; null: there is none. */
function freeMember(
  rules: SchemaRules,
  parts: Conjunction,
  declared: ReadonlySet<string>,
  names: ReadonlySet<string>,
  place: ValueContext,
): Expression | null {
  const { path, depth, style } = place
  const patterns = parts.flatMap(({ patternProperties }) => (isSchema(patternProperties) ? Object.keys(patternProperties) : [])) // prettier-ignore
  if (parts.some(({ propertyNames }) => propertyNames === false)) return null
  const closed = parts.some(({ additionalProperties, unevaluatedProperties }) => additionalProperties === false || unevaluatedProperties === false) // prettier-ignore
  if (patterns.length > 0) return patternMember(rules, [...new Set(patterns)], parts, names, place)
  if (closed) return null
  const asked = parts.flatMap(({ additionalProperties }) => (additionalProperties === undefined ? [] : [additionalProperties])) // prettier-ignore
  // Properties that a schema does not name are allowed, but seldom intended.
  if (declared.size > 0 && asked.length === 0) return null
  const inner = rules.styleWithin(style, NO_NAME)
  const value = asked.every((schema) => schema === true)
    ? rules.anyValue(inner)
    : rules.node(asked, childPath(path, 'additionalProperties'), depth + 1, inner)
  return value === null ? null : memberRule(freeKey(rules, parts, names, place), value, style.notation.member)
}

/** A member whose key some of the patterns find, or none of them if `additionalProperties` asks for such members. */
function patternMember(
  rules: SchemaRules,
  patterns: readonly string[],
  parts: Conjunction,
  names: ReadonlySet<string>,
  place: ValueContext,
): Expression | null {
  const { path, depth, style } = place
  let languages: readonly Regex[]
  try {
    languages = patterns.map((pattern) => partialMatch(parseRegex(pattern)))
  } catch (error) {
    // It is unknown which keys the pattern matches, so none are allowed.
    if (error instanceof Unenforceable) return null
    throw error
  }
  // A key that several patterns find has to satisfy all of their schemas.
  const groups = patterns.length <= MAX_PATTERNS ? subsets(patterns.length) : patterns.map((_, i) => [i])
  const areOthersAsked = parts.some(({ additionalProperties }) => additionalProperties !== undefined)
  const members = [...groups, ...(areOthersAsked ? [[]] : [])].map((group) => {
    const found = group.flatMap((i) => patterns[i] ?? [])
    const schemas = schemasOfKey(parts, new Set(found))
    if (schemas.includes(false)) return null
    const others = languages.filter((_, i) => !group.includes(i))
    const name = keyOrNull(rules, parts, names, place, { found: found.map((pattern): Schema => ({ pattern })), others })
    if (name === null) return null
    const inner = rules.styleWithin(style, NO_NAME)
    const value = rules.node(schemas, childPath(path, 'patternProperties', group[0] ?? 0), depth + 1, inner)
    return value === null ? null : memberRule(name, value, style.notation.member)
  })
  return alternatives(members)
}

/** The schemas of a property that only patterns find: in each part, those of its patterns or, without one, that of all others. */
function schemasOfKey(parts: Conjunction, found: ReadonlySet<string>): unknown[] {
  return parts.flatMap(({ patternProperties, additionalProperties, unevaluatedProperties }) => {
    const own = Object.entries(isSchema(patternProperties) ? patternProperties : {}).filter(([pattern]) => found.has(pattern)) // prettier-ignore
    if (own.length > 0) return own.map(([, schema]) => schema)
    const others = additionalProperties ?? (found.size > 0 ? undefined : unevaluatedProperties)
    return others === undefined ? [] : [others]
  })
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
function keyOrNull(
  rules: SchemaRules,
  parts: Conjunction,
  names: ReadonlySet<string>,
  place: ValueContext,
  patterns: KeyPatterns,
): Expression | null {
  try {
    return freeKey(rules, parts, names, place, patterns)
  } catch (error) {
    if (error instanceof Unenforceable) return null
    throw error
  }
}

/** A key that none of the names is, within what `propertyNames` says. */
function freeKey(
  rules: SchemaRules,
  parts: Conjunction,
  names: ReadonlySet<string>,
  { path, style }: ValueContext,
  { found, others }: KeyPatterns = { found: [], others: [] },
): Expression {
  const schemas = parts.flatMap(({ propertyNames }) => (isSchema(propertyNames) ? [propertyNames] : []))
  const own = rules.expander.expand(schemas) ?? []
  const characters = [...names].reduce((sum, name) => sum + name.length, 0)
  const excluded = [...others]
  if (characters > MAX_EXCLUDED_CHARACTERS) {
    // Too many to be told apart: no key begins as one of them does.
    const firsts = [...new Set([...names].map((name) => name.codePointAt(0) ?? 0))]
    excluded.push(
      sequence(set(codePoints(firsts.map((code) => [code, code] as const))), repeat(set(EVERY), 0, Infinity)),
    )
  } else if (names.size > 0) excluded.push(choice(...[...names].map((name) => literal(name))))
  const place = childPath(path, 'propertyNames')
  if (style.notation.bareKeysWithout === null)
    return inOrder(text('"'), rules.stringContent([...own, ...found], place, { excluded }), text('"'))
  return rules.stringContent([...own, ...found, { pattern: '^[A-Za-z_][A-Za-z0-9_]*$' }], place, {
    excluded,
    mark: '\n',
  })
}
