/** Nodes of a JSON Schema: what they are, and whether two of them can hold together. Pure data. */

export type Schema = { readonly [keyword: string]: unknown }

/** No value can satisfy two of them: their types differ, or a property they all require has other values in each. */
export function areDisjoint(schemas: readonly unknown[]): boolean {
  const nodes = schemas.map((node) => (isSchema(node) ? node : {}))
  return nodes.every((a, i) => nodes.slice(i + 1).every((b) => areTwoDisjoint(a, b)))
}

function areTwoDisjoint(a: Schema, b: Schema): boolean {
  const [valuesOfA, valuesOfB] = [fixedValues(a), fixedValues(b)]
  if (valuesOfA !== null && valuesOfB !== null) return !valuesOfA.some((value) => valuesOfB.includes(value))
  const widen = (type: unknown) => typesOf(type).map((name) => (name === 'integer' ? 'number' : name))
  if (a.type !== undefined && b.type !== undefined && !widen(a.type).some((name) => widen(b.type).includes(name)))
    return true
  const requiredBy = (schema: Schema) =>
    schema.type === 'object' && Array.isArray(schema.required) ? schema.required.map(String) : []
  const valuesOf = (schema: Schema, name: string) =>
    fixedValues(isSchema(schema.properties) ? schema.properties[name] : null)
  return requiredBy(a).some((name) => {
    const [ofA, ofB] = [valuesOf(a, name), valuesOf(b, name)]
    return requiredBy(b).includes(name) && ofA !== null && ofB !== null && !ofA.some((value) => ofB.includes(value))
  })
}

/** The values of an enum or const, as JSON; null without one. */
function fixedValues(node: unknown): string[] | null {
  if (!isSchema(node)) return null
  if ('const' in node) return [JSON.stringify(node.const)]
  return Array.isArray(node.enum) ? node.enum.map((value) => JSON.stringify(value)) : null
}

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

export function typesOf(type: unknown): string[] {
  return (Array.isArray(type) ? type : [type]).map(String)
}

export function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
