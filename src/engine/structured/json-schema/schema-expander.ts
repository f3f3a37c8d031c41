/** Schemas as conjunctions: resolves `$ref` and `allOf`, and determines the types, values and counts that a conjunction allows. */
import { oneOf } from '../byte-grammar.ts'
import type { Expression } from '../byte-grammar.ts'
import { FRACTIONAL, isOfType, isSchema, KEYWORDS, NOT_PATTERN, NOT_VALUES, TYPES, typesOf } from './schema.ts'
import type { Schema } from './schema.ts'
import { SchemaNegation } from './schema-negation.ts'
import { SchemaReferences } from './schema-references.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'

/** Schemas that one value must satisfy together. */
export type Conjunction = readonly Schema[]

/** Keywords that lead to further schemas which bind the same value. */
const FOLLOWED = ['$ref', '$dynamicRef', '$recursiveRef', 'allOf', 'not', 'if', 'dependentRequired', 'dependentSchemas', 'dependencies'] as const // prettier-ignore
const BINDING = new Set([...Object.values(KEYWORDS).flat(), ...FOLLOWED, NOT_VALUES, NOT_PATTERN, FRACTIONAL, 'type', 'nullable', 'enum', 'const', 'anyOf', 'oneOf']) // prettier-ignore
const MAX_CHAIN = 2000

/** Keywords rewritten as schemas, and the keywords for which that is impossible. */
interface ImpliedSchemas {
  readonly schemas: readonly unknown[]
  readonly unenforced: readonly string[]
}

/** Resolves references within one schema. */
export class SchemaExpander {
  readonly negation: SchemaNegation
  readonly #references: SchemaReferences
  readonly #omitted = new WeakMap<Schema, Map<string, Schema>>()
  readonly #implied = new WeakMap<Schema, ImpliedSchemas>()

  constructor(root: unknown) {
    this.#references = new SchemaReferences(root)
    this.negation = new SchemaNegation((reference, from) => this.target(reference, from))
  }

  /** The schema that a reference in the schema `from` leads to. @throws Unenforceable for one that leads nowhere */
  target(reference: unknown, from: Schema): unknown {
    return this.#references.target(reference, from)
  }

  /** Keywords that bind a value of the schema and cannot be enforced. */
  unenforced(schema: Schema): readonly string[] {
    return this.#impliedBy(schema).unenforced
  }

  /** `not`, `if` and what depends on a property as schemas that bind the value. */
  #impliedBy(schema: Schema): ImpliedSchemas {
    const known = this.#implied.get(schema)
    if (known !== undefined) return known
    const schemas: unknown[] = []
    const unenforced: string[] = []
    const add = (keyword: string, made: unknown) => (made === null ? unenforced.push(keyword) : schemas.push(made))
    if ('not' in schema) add('"not"', this.negation.of(schema.not))
    if ('if' in schema && ('then' in schema || 'else' in schema)) add('"if"', this.#conditional(schema))
    const dependent = [schema.dependencies, schema.dependentRequired, schema.dependentSchemas].flatMap(dependencies)
    for (const [name, inner] of dependent)
      schemas.push({ anyOf: [{ properties: { [name]: false } }, { required: [name], allOf: [inner] }] })
    const made = { schemas, unenforced }
    this.#implied.set(schema, made)
    return made
  }

  #conditional({ if: condition, then = true, else: otherwise = true }: Schema): unknown {
    const negated = this.negation.of(condition)
    if (negated === null) return null
    return { anyOf: [{ allOf: [condition, then] }, { allOf: [negated, otherwise] }] }
  }

  /** All schemas that bind a value of these; null: nothing can satisfy them. @throws Unenforceable */
  expand(schemas: readonly unknown[]): Conjunction | null {
    const found = new Set<Schema>()
    const active = new Set<Schema>()
    const visit = (schema: unknown): boolean => {
      if (schema === true || schema === undefined) return true
      if (schema === false) return false
      if (!isSchema(schema)) throw new Unenforceable(`a schema is expected, found ${describe(schema)}`)
      if (active.has(schema)) throw new Unenforceable('"$ref" that leads to itself')
      if (found.has(schema)) return true
      if (active.size >= MAX_CHAIN) throw new Unenforceable(`more than ${MAX_CHAIN} references or "allOf" in a row`)
      active.add(schema)
      found.add(schema)
      if (schema.allOf !== undefined && (!Array.isArray(schema.allOf) || schema.allOf.length === 0))
        throw new Unenforceable('"allOf": a list with something in it is expected')
      const members: readonly unknown[] = Array.isArray(schema.allOf) ? schema.allOf : []
      const references = [schema.$ref, schema.$dynamicRef, schema.$recursiveRef].filter((one) => one !== undefined)
      const isPossible = references.every((one) => visit(this.target(one, schema))) && members.every(visit) && this.#impliedBy(schema).schemas.every(visit) // prettier-ignore
      active.delete(schema)
      return isPossible
    }
    if (!schemas.every(visit)) return null
    return [...found].filter((schema) => Object.keys(schema).some((keyword) => BINDING.has(keyword)))
  }

  /** The same schema without a keyword, and without what `expand` followed; the same object each time. */
  without(schema: Schema, keyword: string): Schema {
    const omitted: readonly string[] = [keyword, ...FOLLOWED]
    if (!omitted.some((name) => name in schema)) return schema
    const known = this.#omitted.get(schema) ?? new Map<string, Schema>()
    this.#omitted.set(schema, known)
    const made = known.get(keyword) ?? Object.fromEntries(Object.entries(schema).filter(([name]) => !omitted.includes(name))) // prettier-ignore
    known.set(keyword, made)
    return made
  }
}

/** Properties, and the schemas that depend on them; a list of further properties as a schema. */
function dependencies(listed: unknown): (readonly [name: string, schema: unknown])[] {
  if (!isSchema(listed)) return []
  return Object.entries(listed).map(([name, inner]) => [name, Array.isArray(inner) ? { required: inner } : inner])
}

function describe(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`
}

/** The values that a conjunction's `enum` and `const` leave, as JSON; null without one. */
export function fixedValues(parts: Conjunction): string[] | null {
  let left: string[] | null = null
  for (const part of parts) {
    const lists = [...('const' in part ? [[part.const]] : []), ...('enum' in part ? [part.enum] : [])]
    for (const values of lists) {
      if (!Array.isArray(values) || values.length === 0)
        throw new Unenforceable('"enum": a list with something in it is expected')
      const own = new Set(values.map((value) => JSON.stringify(value)))
      left = left === null ? [...own] : left.filter((value) => own.has(value))
    }
  }
  return left
}

/** The excluded values. */
export function excludedValues(parts: Conjunction): readonly unknown[] {
  return parts.flatMap((part): unknown[] => (Array.isArray(part[NOT_VALUES]) ? (part[NOT_VALUES] as unknown[]) : []))
}

/** The types that a conjunction leaves; null where none of it names one. @throws Unenforceable for what is no type */
export function commonTypes(parts: Conjunction): ReadonlySet<string> | null {
  const left = parts.reduce<Set<string> | null>((before, { type, nullable }) => {
    if (type === undefined) return before
    const own = new Set(typesOf(type))
    if (own.size === 0 || [...own].some((name) => !TYPES.has(name)))
      throw new Unenforceable('"type" that is none of JSON’s')
    if (nullable === true) own.add('null')
    if (before === null) return own
    const both = [...before].filter((name) => own.has(name) || (name === 'integer' && own.has('number')))
    return new Set([...both, ...(own.has('integer') && before.has('number') ? ['integer'] : [])])
  }, null)
  // Every integer is a number.
  if (left?.has('number') === true) left.delete('integer')
  return left
}

/** Limit on the objects that are compared pair by pair. */
const MAX_COMPARED = 64

/**
 * No value can satisfy two of them: where they share a type, their values differ, or a property that they all require has other values in each, or
 * each object lacks what another one requires. Linear but for a few objects.
 */
export function areDisjoint(branches: readonly Conjunction[]): boolean {
  const byType = new Map<string, Conjunction[]>()
  for (const parts of branches) {
    const types = commonTypes(parts) ?? fixedTypes(parts)
    if (types === null) return false
    for (const type of new Set([...types].map((name) => (name === 'integer' ? 'number' : name)))) {
      const sharing = byType.get(type) ?? []
      byType.set(type, sharing)
      sharing.push(parts)
    }
  }
  return [...byType].every(
    ([type, sharing]) =>
      sharing.length < 2 || haveOwnKeys(sharing.map(fixedValues)) || (type === 'object' && areDisjointObjects(sharing)),
  )
}

/** The types of the values that a conjunction lists; null: it lists none. */
function fixedTypes(parts: Conjunction): readonly string[] | null {
  const values = fixedValues(parts)?.map((json): unknown => JSON.parse(json))
  return values?.map((value) => [...TYPES].find((type) => isOfType(value, type)) ?? '') ?? null
}

function areDisjointObjects(branches: readonly Conjunction[]): boolean {
  const required = branches.map((parts) => new Set(parts.flatMap((part) => (Array.isArray(part.required) ? part.required.map(String) : [])))) // prettier-ignore
  const isDiscriminated = (name: string) =>
    haveOwnKeys(
      branches.map((parts, i) => {
        const schemas = parts.map(({ properties }) => (isSchema(properties) ? properties[name] : undefined))
        return required[i]?.has(name) === true ? fixedValues(schemas.filter(isSchema)) : null
      }),
    )
  if ([...(required[0] ?? [])].some(isDiscriminated)) return true
  if (branches.length > MAX_COMPARED) return false
  const lacks = (i: number, j: number) => [...(required[i] ?? [])].some((name) => isForbidden(branches[j] ?? [], name))
  return branches.every((_, i) =>
    branches.slice(i + 1).every((_other, j) => lacks(i, i + 1 + j) || lacks(i + 1 + j, i)),
  )
}

/** No object of the conjunction has the property: a schema without it is closed. */
function isForbidden(parts: Conjunction, name: string): boolean {
  return parts.some(
    ({ properties, patternProperties, additionalProperties }) =>
      (additionalProperties === false && patternProperties === undefined && !(isSchema(properties) && Object.hasOwn(properties, name))) ||
      (isSchema(properties) && Object.hasOwn(properties, name) && properties[name] === false),
  ) // prettier-ignore
}

/** Every list is there, and nothing is in two of them. */
function haveOwnKeys(lists: readonly (readonly string[] | null)[]): boolean {
  const seen = new Set<string>()
  for (const list of lists) {
    if (list === null) return false
    for (const key of list) {
      if (seen.has(key)) return false
      seen.add(key)
    }
  }
  return true
}

/** One of several rules; null where none is possible. */
export function alternatives(rules: readonly (Expression | null)[]): Expression | null {
  const possible = [...new Set(rules.filter((rule) => rule !== null))]
  return possible.length === 0 ? null : oneOf(...possible)
}

/** The counts that all parts leave. @throws Unenforceable */
export function counts(
  parts: Conjunction,
  least: string,
  most: string,
): { readonly least: number; readonly most: number } {
  const read = (keyword: string) => parts.flatMap((part) => (part[keyword] === undefined ? [] : [part[keyword]]))
  const all = [...read(least), ...read(most)]
  if (all.some((value) => !Number.isInteger(value) || Number(value) < 0))
    throw new Unenforceable(`"${least}" and "${most}": counts are expected`)
  const bounds = { least: Math.max(0, ...read(least).map(Number)), most: Math.min(Infinity, ...read(most).map(Number)) }
  if (bounds.least > bounds.most) throw new Unsatisfiable(`"${least}" above "${most}"`)
  return bounds
}

/** Counts up to this are enforced. No answer is longer: an upper bound above it is brought down to it. */
export const MAX_COUNTED = 20_000

/** The counts that all parts leave, as far as they are enforced; `note` is told of the rest. @throws Unenforceable */
export function boundedCounts(
  parts: Conjunction,
  [leastWord, mostWord]: readonly [string, string],
  note: (problem: string) => void,
  max: number = MAX_COUNTED,
): { readonly least: number; readonly most: number } {
  const { least, most } = counts(parts, leastWord, mostWord)
  if (least > max) note(`"${leastWord}" above ${max}`)
  return least > max ? { least: max, most: Infinity } : { least, most: most === Infinity ? most : Math.min(most, max) }
}

/** A place below another, as JSON pointers write it; long names are cut. */
export function childPath(path: string, ...steps: readonly (string | number)[]): string {
  const write = (step: string | number) => String(step).slice(0, 64).replaceAll('~', '~0').replaceAll('/', '~1')
  return [path, ...steps.map(write)].join('/')
}
