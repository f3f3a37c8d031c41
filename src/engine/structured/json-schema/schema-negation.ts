/** Negates schemas, for `not`, the `else` branch of `if`, and `oneOf`. */
import { FRACTIONAL, isSchema, NOT_PATTERN, NOT_VALUES, typesOf, wordOf } from './schema.ts'
import type { Schema } from './schema.ts'
import type { ReferenceTarget } from './schema-references.ts'

const MAX_DEPTH = 12
const EVERY_TYPE = ['null', 'boolean', 'number', 'string', 'array', 'object'] as const

/** Negates schemas; null where the negation cannot be written as a schema. */
export class SchemaNegation {
  readonly #target: ReferenceTarget
  /** Results by schema, because schemas are compared by identity. */
  readonly #known = new WeakMap<Schema, Schema | boolean | null>()

  /** `target` resolves references. */
  constructor(target: ReferenceTarget) {
    this.#target = target
  }

  /** The negation; null: it cannot be written as a schema. */
  of(schema: unknown, depth = 0): Schema | boolean | null {
    if (typeof schema === 'boolean') return !schema
    if (!isSchema(schema) || depth > MAX_DEPTH) return null
    const known = this.#known.get(schema)
    if (known !== undefined) return known
    // For a recursive schema.
    this.#known.set(schema, null)
    const made = this.#make(schema, depth)
    this.#known.set(schema, made)
    return made
  }

  #make(schema: Schema, depth: number): Schema | boolean | null {
    const breaches: (Schema | boolean)[] = []
    for (const [keyword, value] of Object.entries(schema)) {
      const found = this.#breaches(keyword, value, schema, depth)
      if (found === null) return null
      breaches.push(...found)
    }
    if (breaches.includes(true)) return true
    const left = breaches.filter(isSchema)
    const [only] = left
    if (only === undefined) return false
    return left.length === 1 ? only : { anyOf: left }
  }

  /** Schemas that together describe every violation of a keyword; null: they are unknown. */
  #breaches(keyword: string, value: unknown, schema: Schema, depth: number): readonly (Schema | boolean)[] | null {
    const each = (of: readonly unknown[]): (Schema | boolean)[] | null => {
      const found = of.map((one) => this.of(one, depth + 1))
      return found.includes(null) ? null : found.filter((one) => one !== null)
    }
    switch (keyword) {
      case '$ref':
        return each([this.#target(value, schema)])
      case 'allOf':
        return Array.isArray(value) ? each(value) : null
      case 'anyOf': {
        const found = Array.isArray(value) ? each(value) : null
        return found === null ? null : [{ allOf: found }]
      }
      case 'not':
        return [isSchema(value) ? value : value === true]
      case 'type':
        return typeBreaches(value, schema.nullable === true)
      case 'enum':
        return Array.isArray(value) ? [{ [NOT_VALUES]: value }] : null
      case 'const':
        return [{ [NOT_VALUES]: [value] }]
      case 'pattern':
        return typeof value === 'string' ? [{ type: 'string', [NOT_PATTERN]: value }] : null
      case 'required':
        return Array.isArray(value) ? value.map((name) => ({ type: 'object', properties: { [wordOf(name)]: false } })) : null // prettier-ignore
      case 'properties': {
        if (!isSchema(value)) return null
        const names = Object.keys(value)
        const found = each(Object.values(value))
        return found?.flatMap((inner, i) => (inner === false ? [] : [{ type: 'object', required: [names[i]], properties: { [names[i] ?? '']: inner } }])) ?? null // prettier-ignore
      }
      case 'items':
        return each([value])?.map((found) => ({ type: 'array', contains: found })) ?? null
      case 'contains':
        if ('minContains' in schema || 'maxContains' in schema) return null
        return each([value])?.map((found) => ({ type: 'array', items: found })) ?? null
      case 'multipleOf':
        return value === 1 ? [{ type: 'number', [FRACTIONAL]: true }] : null
      case 'exclusiveMinimum':
      case 'exclusiveMaximum':
      case 'minimum':
      case 'maximum':
        return typeof value === 'number' ? [boundBreach(keyword, value)] : null
      default:
        return countBreaches(keyword, value) ?? (UNKNOWN.has(keyword) ? null : [])
    }
  }
}

/** Keywords that cannot be negated. */
const UNKNOWN: ReadonlySet<string> = new Set(['oneOf', 'format', 'uniqueItems', 'prefixItems', 'additionalItems', 'additionalProperties', 'patternProperties', 'propertyNames', 'dependentRequired', 'dependentSchemas', 'dependencies', 'if', 'unevaluatedItems', 'unevaluatedProperties', '$dynamicRef', '$recursiveRef']) // prettier-ignore

function typeBreaches(type: unknown, isNullable: boolean): (Schema | boolean)[] {
  const named = new Set(typesOf(type))
  if (isNullable) named.add('null')
  const others = EVERY_TYPE.filter((name) => !named.has(name) && !(name === 'number' && named.has('integer')))
  const fractions = named.has('integer') && !named.has('number') ? [{ type: 'number', [FRACTIONAL]: true }] : []
  return [...(others.length === 0 ? [] : [{ type: others }]), ...fractions]
}

const BREACHED_BOUNDS = { minimum: 'exclusiveMaximum', maximum: 'exclusiveMinimum', exclusiveMinimum: 'maximum', exclusiveMaximum: 'minimum' } as const // prettier-ignore

function boundBreach(keyword: keyof typeof BREACHED_BOUNDS, value: number): Schema {
  return { type: 'number', [BREACHED_BOUNDS[keyword]]: value }
}

const COUNTS = new Map<string, readonly [type: string, breach: string, step: 1 | -1]>([
  ['minLength', ['string', 'maxLength', -1]],
  ['maxLength', ['string', 'minLength', 1]],
  ['minItems', ['array', 'maxItems', -1]],
  ['maxItems', ['array', 'minItems', 1]],
  ['minProperties', ['object', 'maxProperties', -1]],
  ['maxProperties', ['object', 'minProperties', 1]],
])

function countBreaches(keyword: string, value: unknown): readonly (Schema | boolean)[] | undefined {
  const [type, breach, step = 1] = COUNTS.get(keyword) ?? []
  if (type === undefined || breach === undefined) return undefined
  return typeof value === 'number' && value + step >= 0 ? [{ type, [breach]: value + step }] : [false]
}
