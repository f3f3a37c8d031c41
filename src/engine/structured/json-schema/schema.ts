/** JSON Schemas as data, and their types and keywords. */

export type Schema = { readonly [keyword: string]: unknown }

/** Keywords by the type of value that they bind. */
export const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  array: [
    'items',
    'prefixItems',
    'additionalItems',
    'minItems',
    'maxItems',
    'uniqueItems',
    'unevaluatedItems',
    'contains',
  ],
  object: 'properties required additionalProperties minProperties maxProperties patternProperties propertyNames unevaluatedProperties'.split(' '), // prettier-ignore
  boolean: [],
  null: [],
}
/** Keywords of our own: values and patterns that must not be, and numbers that are no integers. */
export const NOT_VALUES = '\u0000values'
export const NOT_PATTERN = '\u0000pattern'
export const FRACTIONAL = '\u0000fractional'
export const TYPES: ReadonlySet<string> = new Set(['null', 'boolean', 'integer', 'number', 'string', 'array', 'object'])

/** Whether a value is an object, which is a schema with keywords. */
export function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The names in `type`, which is one or a list. */
export function typesOf(type: unknown): string[] {
  return (Array.isArray(type) ? type : [type]).map(wordOf)
}

/** A scalar as text. A caller's object may have a `toString` that is none, so objects have no text. */
export function wordOf(value: unknown): string {
  return typeof value === 'object' && value !== null ? '' : String(value)
}

/** Whether a JSON value has the type. 1.0 is an integer. */
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
