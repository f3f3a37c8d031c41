/** Whether a schema makes a value a string, for formats that write strings without quotes. */
import { isSchema, typesOf } from '../structured/json-schema/schema.ts'
import type { Schema } from '../structured/json-schema/schema.ts'

/** `string`: always a string. `other`: never one. `mixed`: either; a value that reads as JSON is not a string. */
export type ParameterKind = 'string' | 'other' | 'mixed'

const MAX_DEPTH = 16

/** The kind of the property `name` in an object with the schema `root`; `mixed` if the schema does not determine it. */
export function parameterKind(root: unknown, name: string): ParameterKind {
  if (!isSchema(root)) return 'mixed'
  const schemas = propertySchemas(root, name, root, 0)
  if (schemas.length === 0) return 'mixed'
  const kinds = schemas.map((schema) => kindOf(schema, root, 0))
  // The value must satisfy all of them.
  return kinds.find((kind) => kind !== 'mixed') ?? 'mixed'
}

function propertySchemas(schema: unknown, name: string, root: Schema, depth: number): unknown[] {
  if (!isSchema(schema) || depth > MAX_DEPTH) return []
  const { properties, additionalProperties, allOf, $ref: reference } = schema
  const below = (inner: unknown) => propertySchemas(inner, name, root, depth + 1)
  const own = isSchema(properties) && Object.hasOwn(properties, name) ? [properties[name]] : isSchema(additionalProperties) ? [additionalProperties] : [] // prettier-ignore
  return [...own, ...(Array.isArray(allOf) ? allOf.flatMap(below) : []), ...below(target(reference, root))]
}

/** The kind of a schema's values. @param root resolves its references */
function kindOf(schema: unknown, root: Schema, depth = 0): ParameterKind {
  if (!isSchema(schema) || depth > MAX_DEPTH) return 'mixed'
  const { type, nullable, enum: listed, const: fixed, anyOf, oneOf, allOf, $ref: reference } = schema
  if (fixed !== undefined) return typeof fixed === 'string' ? 'string' : 'other'
  if (Array.isArray(listed) && listed.length > 0) return commonKind(listed.map((value) => (typeof value === 'string' ? 'string' : 'other'))) // prettier-ignore
  if (type !== undefined) {
    const kinds = typesOf(type).map((name) => (name === 'string' ? 'string' : 'other'))
    return commonKind(nullable === true ? [...kinds, 'other'] : kinds)
  }
  const below = (inner: unknown) => kindOf(inner, root, depth + 1)
  if (reference !== undefined) return below(target(reference, root))
  for (const branches of [anyOf, oneOf]) if (Array.isArray(branches) && branches.length > 0) return commonKind(branches.map(below)) // prettier-ignore
  if (Array.isArray(allOf)) return allOf.map(below).find((kind) => kind !== 'mixed') ?? 'mixed'
  return 'mixed'
}

function commonKind(kinds: readonly ParameterKind[]): ParameterKind {
  const [first = 'mixed'] = kinds
  return kinds.every((kind) => kind === first) ? first : 'mixed'
}

function target(reference: unknown, root: Schema): unknown {
  if (typeof reference !== 'string' || !reference.startsWith('#')) return undefined
  return reference
    .split('/')
    .slice(1)
    .reduce<unknown>((at, step) => {
      const key = step.replaceAll('~1', '/').replaceAll('~0', '~')
      return isSchema(at) && Object.hasOwn(at, key) ? at[key] : undefined
    }, root)
}
