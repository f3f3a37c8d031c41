/** JSON Schemas as conjunctions: what `$ref` and `allOf` bring together, and what is known of a conjunction. Pure data. */
import { oneOf } from './byte-grammar.ts'
import type { Expression } from './byte-grammar.ts'
import { Unenforceable, Unsatisfiable } from './unenforceable.ts'

export type Schema = { readonly [keyword: string]: unknown }

/** Schemas that bind one value all together. */
export type Parts = readonly Schema[]

/** Keywords by the type of value that they bind. */
export const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems', 'uniqueItems', 'unevaluatedItems'],
  object: 'properties required additionalProperties minProperties maxProperties patternProperties propertyNames unevaluatedProperties dependentRequired'.split(' '), // prettier-ignore
  boolean: [],
  null: [],
}
/** Keywords of the standard that bind values and are not enforced. Any other keyword is an annotation. */
export const UNENFORCED = ['not', 'if', 'dependentSchemas', 'dependencies', 'contains', 'additionalItems', '$dynamicRef', '$recursiveRef'] // prettier-ignore
const BINDING = new Set([...Object.values(KEYWORDS).flat(), ...UNENFORCED, 'type', 'nullable', 'enum', 'const', 'anyOf', 'oneOf']) // prettier-ignore
const MAX_CHAIN = 2000

export function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function typesOf(type: unknown): string[] {
  return (Array.isArray(type) ? type : [type]).map(String)
}

/** Resolves references within one schema. */
export class SchemaParts {
  readonly #root: unknown
  readonly #omitted = new WeakMap<Schema, Map<string, Schema>>()

  constructor(root: unknown) {
    this.#root = root
  }

  /** All schemas that bind a value of these; null: nothing can satisfy them. Throws Unenforceable. */
  expand(schemas: readonly unknown[]): Parts | null {
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
      const isPossible = (schema.$ref === undefined || visit(this.#target(schema.$ref))) && members.every(visit)
      active.delete(schema)
      return isPossible
    }
    if (!schemas.every(visit)) return null
    return [...found].filter((schema) => Object.keys(schema).some((keyword) => BINDING.has(keyword)))
  }

  /** The same schema without a keyword, and without what `expand` followed; the same object each time. */
  without(schema: Schema, keyword: string): Schema {
    if (![keyword, '$ref', 'allOf'].some((name) => name in schema)) return schema
    const known = this.#omitted.get(schema) ?? new Map<string, Schema>()
    this.#omitted.set(schema, known)
    const made = known.get(keyword) ?? Object.fromEntries(Object.entries(schema).filter(([name]) => name !== keyword && name !== '$ref' && name !== 'allOf')) // prettier-ignore
    known.set(keyword, made)
    return made
  }

  #target(reference: unknown): unknown {
    if (reference === '#') return this.#root
    if (typeof reference !== 'string' || !reference.startsWith('#/'))
      throw new Unenforceable('"$ref" to anything but a place in the same schema, as in "#/$defs/name"')
    let target: unknown = this.#root
    for (const step of reference.slice(2).split('/')) {
      const key = decode(step).replaceAll('~1', '/').replaceAll('~0', '~')
      const at: unknown = target
      target = typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? Reflect.get(at, key) : undefined
    }
    if (target === undefined) throw new Unenforceable('"$ref" to a place that is not there')
    return target
  }
}

function decode(step: string): string {
  try {
    return decodeURIComponent(step)
  } catch {
    return step
  }
}

function describe(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`
}

/** The values that a conjunction's `enum` and `const` leave, as JSON; null without one. */
export function fixedValues(parts: Parts): string[] | null {
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

/** The types that a conjunction leaves; null where none of it names one. Throws Unenforceable for what is no type. */
export function commonTypes(parts: Parts): ReadonlySet<string> | null {
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

export const TYPES: ReadonlySet<string> = new Set(['null', 'boolean', 'integer', 'number', 'string', 'array', 'object'])

export function isOfType(value: unknown, type: string): boolean {
  switch (type) {
    case 'null':
      return value === null
    case 'array':
      return Array.isArray(value)
    case 'object':
      return isSchema(value)
    case 'integer':
      return Number.isInteger(value)
    default:
      return typeof value === type
  }
}

/** No value can satisfy two of them: their types differ, or a property that they all require has other values in each. Linear. */
export function areDisjoint(branches: readonly Parts[]): boolean {
  if (haveOwnKeys(branches.map((parts) => fixedValues(parts)))) return true
  const types = branches.map((parts) => commonTypes(parts))
  if (haveOwnKeys(types.map((own) => own && [...own].map((name) => (name === 'integer' ? 'number' : name)))))
    return true
  if (!types.every((own) => own?.size === 1 && own.has('object'))) return false
  const [first = []] = branches
  const names = first.flatMap(({ required }) => (Array.isArray(required) ? required.map(String) : []))
  return names.some((name) =>
    haveOwnKeys(
      branches.map((parts) => {
        const isRequired = parts.some(({ required }) => Array.isArray(required) && required.includes(name))
        const own = parts
          .map(({ properties }) => (isSchema(properties) ? properties[name] : undefined))
          .filter(isSchema)
        return isRequired ? fixedValues(own) : null
      }),
    ),
  )
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

/** The counts that all parts leave. Throws Unenforceable. */
export function counts(parts: Parts, least: string, most: string): { readonly least: number; readonly most: number } {
  const read = (keyword: string) => parts.flatMap((part) => (part[keyword] === undefined ? [] : [part[keyword]]))
  const all = [...read(least), ...read(most)]
  if (all.some((value) => !Number.isInteger(value) || Number(value) < 0))
    throw new Unenforceable(`"${least}" and "${most}": counts are expected`)
  const bounds = { least: Math.max(0, ...read(least).map(Number)), most: Math.min(Infinity, ...read(most).map(Number)) }
  if (bounds.least > bounds.most) throw new Unsatisfiable(`"${least}" above "${most}"`)
  return bounds
}

/** A place below another, as JSON pointers write it; long names are cut. */
export function below(path: string, ...steps: readonly (string | number)[]): string {
  const write = (step: string | number) => String(step).slice(0, 64).replaceAll('~', '~0').replaceAll('/', '~1')
  return [path, ...steps.map(write)].join('/')
}
