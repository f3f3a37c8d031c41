/** Validates known values: those of `enum` and `const` must satisfy the other keywords of their schema. */
import { COUNTED_FORMATS, STRING_FORMATS } from './formats.ts'
import { FRACTIONAL, isOfType, isSchema, NOT_PATTERN, NOT_VALUES, typesOf, wordOf } from './schema.ts'
import type { Schema } from './schema.ts'
import type { ReferenceTarget } from './schema-references.ts'

const MAX_DEPTH = 32

/** What expanded schemas ask for beside `enum` and `const`, of values that these list. Their references were followed. */
export function withoutListedValues(parts: readonly Schema[]): Schema[] {
  return parts.map((part) => Object.fromEntries(Object.entries(part).filter(([name]) => name !== 'enum' && name !== 'const' && name !== '$ref'))) // prettier-ignore
}

/** `target` resolves references. Keywords that are not known, and patterns that are none, bind nothing. */
export function satisfies(value: unknown, schema: unknown, target: ReferenceTarget, depth = 0): boolean {
  if (typeof schema === 'boolean' || !isSchema(schema)) return schema !== false
  if (depth > MAX_DEPTH) return true
  const holds = (inner: unknown, of = value) => satisfies(of, inner, target, depth + 1)
  const list = (keyword: string): readonly unknown[] => (Array.isArray(schema[keyword]) ? (schema[keyword] as unknown[]) : []) // prettier-ignore
  if (!isOfSchemasType(value, schema) || !isAllowedByLists(value, schema)) return false
  if (schema.$ref !== undefined && !holds(target(schema.$ref, schema))) return false
  if (!list('allOf').every((inner) => holds(inner))) return false
  if ('anyOf' in schema && !list('anyOf').some((inner) => holds(inner))) return false
  if ('oneOf' in schema && list('oneOf').filter((inner) => holds(inner)).length !== 1) return false
  if ('not' in schema && holds(schema.not)) return false
  if ('if' in schema && !holds(holds(schema.if) ? schema.then : schema.else)) return false
  if (typeof value === 'number') return isNumberWithin(value, schema)
  if (typeof value === 'string') return isStringWithin(value, schema)
  if (Array.isArray(value)) return isListWithin(value, schema, holds)
  return !isSchema(value) || isObjectWithin(value, schema, holds)
}

type Holds = (schema: unknown, of: unknown) => boolean

function isOfSchemasType(value: unknown, { type, nullable }: Schema): boolean {
  return type === undefined || (nullable === true && value === null) || typesOf(type).some((name) => isOfType(value, name)) // prettier-ignore
}

function isAllowedByLists(value: unknown, schema: Schema): boolean {
  const own = canonical(value)
  const listed = (values: unknown) => Array.isArray(values) && values.some((other) => canonical(other) === own)
  if ('const' in schema && canonical(schema.const) !== own) return false
  return !('enum' in schema && !listed(schema.enum)) && !listed(schema[NOT_VALUES])
}

/** Equal values are equal texts. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`
  if (!isSchema(value)) return value === 0 ? '0' : (JSON.stringify(value) ?? 'null')
  const members = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `{${members.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join()}}`
}

function isNumberWithin(value: number, schema: Schema): boolean {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema
  const isBelow = (bound: unknown, isExclusive: boolean) => typeof bound === 'number' && (isExclusive ? value <= bound : value < bound) // prettier-ignore
  const isAbove = (bound: unknown, isExclusive: boolean) => typeof bound === 'number' && (isExclusive ? value >= bound : value > bound) // prettier-ignore
  if (isBelow(minimum, exclusiveMinimum === true) || isBelow(exclusiveMinimum, true)) return false
  if (isAbove(maximum, exclusiveMaximum === true) || isAbove(exclusiveMaximum, true)) return false
  if (schema[FRACTIONAL] === true && Number.isInteger(value)) return false
  if (typeof multipleOf !== 'number' || multipleOf <= 0) return true
  const ratio = value / multipleOf
  return Math.abs(ratio - Math.round(ratio)) < 1e-9
}

function isStringWithin(value: string, schema: Schema): boolean {
  const length = Array.from(value).length
  const { minLength, maxLength, pattern, format } = schema
  if (typeof minLength === 'number' && length < minLength) return false
  if (typeof maxLength === 'number' && length > maxLength) return false
  if (typeof pattern === 'string' && !matches(pattern, value, true)) return false
  const excluded = schema[NOT_PATTERN]
  if (typeof excluded === 'string' && matches(excluded, value, false)) return false
  // These patterns are narrower than their formats, so they say nothing about a value that the schema lists.
  const known = COUNTED_FORMATS.has(format) ? undefined : STRING_FORMATS.get(format)
  return known === undefined || matches(`^(?:${known})$`, value, true)
}

function matches(pattern: string, text: string, otherwise: boolean): boolean {
  try {
    return new RegExp(pattern, 'u').test(text)
  } catch {
    return otherwise
  }
}

function isListWithin(value: readonly unknown[], schema: Schema, holds: Holds): boolean {
  const { minItems, maxItems, uniqueItems, prefixItems, items, additionalItems, contains, minContains = 1 } = schema
  if (typeof minItems === 'number' && value.length < minItems) return false
  if (typeof maxItems === 'number' && value.length > maxItems) return false
  if (uniqueItems === true && new Set(value.map(canonical)).size < value.length) return false
  const first: readonly unknown[] = Array.isArray(prefixItems) ? prefixItems : Array.isArray(items) ? items : []
  const rest = Array.isArray(items) ? additionalItems : items
  if (!value.every((item, i) => holds(i < first.length ? first[i] : rest, item))) return false
  if (contains === undefined) return true
  const numContained = value.filter((item) => holds(contains, item)).length
  return numContained >= Number(wordOf(minContains)) && numContained <= Number(wordOf(schema.maxContains ?? Infinity))
}

function isObjectWithin(value: Schema, schema: Schema, holds: Holds): boolean {
  const { properties, patternProperties, additionalProperties, propertyNames, required, dependentRequired } = schema
  const keys = Object.keys(value)
  const { minProperties = 0, maxProperties = Infinity } = schema
  if (keys.length < Number(wordOf(minProperties)) || keys.length > Number(wordOf(maxProperties))) return false
  if (Array.isArray(required) && !required.every((name) => Object.hasOwn(value, wordOf(name)))) return false
  for (const [name, list] of Object.entries(isSchema(dependentRequired) ? dependentRequired : {}))
    if (Object.hasOwn(value, name) && Array.isArray(list) && !list.every((other) => Object.hasOwn(value, wordOf(other)))) return false // prettier-ignore
  for (const [name, inner] of Object.entries(isSchema(schema.dependentSchemas) ? schema.dependentSchemas : {}))
    if (Object.hasOwn(value, name) && !holds(inner, value)) return false
  return keys.every((key) => {
    if (propertyNames !== undefined && !holds(propertyNames, key)) return false
    const own = isSchema(properties) && Object.hasOwn(properties, key) ? [properties[key]] : []
    const matching = Object.entries(isSchema(patternProperties) ? patternProperties : {}).flatMap(([pattern, inner]) => (matches(pattern, key, false) ? [inner] : [])) // prettier-ignore
    const found = [...own, ...matching]
    return (found.length > 0 ? found : [additionalProperties]).every((inner) => holds(inner, value[key]))
  })
}
