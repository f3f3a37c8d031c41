/** Values for a JSON Schema, drawn at random: most fit it, and some are off by what callers get wrong. */

export type Schema = boolean | { readonly [keyword: string]: unknown }

/** 0 ≤ value < 1 */
export type Draw = () => number

/** What strings are made of: nothing, blanks, quotes, what has a meaning in templates and JSON, characters of several bytes, halves of pairs. */
const TEXTS = ['', ' ', 'a', 'hello', '0', 'null', '"', '\\', '\n', '\u0000', 'ü', '👩‍👩‍👧', '\ud800', '\u202e', '{{ x }}', '<|im_end|>', '../..', '%00', 'x'.repeat(300)] // prettier-ignore
const NUMBERS = [0, 1, -1, 2, 7, 0.5, 1e-9, 1e9, 2 ** 31, 2 ** 53, 1e300, -0]
/** Depth at which objects and lists end. */
const MAX_DEPTH = 6

export class SchemaValues {
  readonly #schemas: Readonly<Record<string, Schema>>
  readonly #draw: Draw
  /** Share of the places where something else stands than the schema says. */
  readonly #wrong: number

  /** `schemas`: components that `$ref` names. */
  constructor(schemas: Readonly<Record<string, Schema>>, draw: Draw, wrong: number) {
    this.#schemas = schemas
    this.#draw = draw
    this.#wrong = wrong
  }

  pick<T>(items: readonly [T, ...T[]] | readonly T[]): T {
    return items[Math.floor(this.#draw() * items.length)] as T
  }

  value(schema: Schema, depth = 0): unknown {
    if (this.#draw() < this.#wrong) return this.#anything(depth)
    if (typeof schema === 'boolean') return this.#anything(depth)
    const { $ref, const: constant, enum: values, anyOf, oneOf, allOf, type } = schema
    if (typeof $ref === 'string') return this.value(this.#schemas[$ref.slice($ref.lastIndexOf('/') + 1)] ?? true, depth)
    if ('const' in schema) return constant
    if (Array.isArray(values)) return this.pick(values)
    const choices = Array.isArray(anyOf) ? anyOf : Array.isArray(oneOf) ? oneOf : null
    if (choices !== null) return this.value({ ...schema, anyOf: undefined, oneOf: undefined, ...(this.pick(choices) as object) }, depth) // prettier-ignore
    if (Array.isArray(allOf)) return this.value(Object.assign({}, ...(allOf as object[])) as Schema, depth)
    switch (Array.isArray(type) ? this.pick(type) : type) {
      case 'object':
        return this.#object(schema, depth)
      case 'array':
        return this.#array(schema, depth)
      case 'string':
        return this.#string(schema)
      case 'integer':
        return this.#number(schema, true)
      case 'number':
        return this.#number(schema, false)
      case 'boolean':
        return this.#draw() < 0.5
      case 'null':
        return null
      default:
        return 'properties' in schema ? this.#object(schema, depth) : this.#anything(depth)
    }
  }

  #object(schema: { readonly [keyword: string]: unknown }, depth: number): Record<string, unknown> {
    const properties = (schema['properties'] ?? {}) as Readonly<Record<string, Schema>>
    const required = (schema['required'] ?? []) as readonly string[]
    // Many fields at once seldom make a request that is answered.
    const share = depth === 0 ? 3 / Math.max(3, Object.keys(properties).length) : 0.5
    const object: Record<string, unknown> = {}
    for (const [name, property] of Object.entries(properties)) {
      const isLeftOut = required.includes(name) ? this.#draw() < this.#wrong : this.#draw() > share || depth > MAX_DEPTH
      if (!isLeftOut) object[name] = this.value(property, depth + 1)
    }
    const more = schema['additionalProperties']
    if (more !== undefined && more !== false && depth < MAX_DEPTH && this.#draw() < 0.5)
      object[this.pick(TEXTS)] = this.value(more as Schema, depth + 1)
    if (this.#draw() < this.#wrong)
      object[this.pick(['', '__proto__x', 'constructor', 'unknown'])] = this.#anything(depth + 1)
    return object
  }

  #array(schema: { readonly [keyword: string]: unknown }, depth: number): unknown[] {
    const { items = true, minItems = 0, maxItems = 4, prefixItems } = schema
    if (Array.isArray(prefixItems)) return prefixItems.map((item) => this.value(item as Schema, depth + 1))
    const most = depth > MAX_DEPTH ? 0 : Math.min(Number(maxItems), 4)
    const length = Math.max(Number(minItems), Math.floor(this.#draw() * (most + 1)))
    return Array.from({ length }, () => this.value(items as Schema, depth + 1))
  }

  #string({ minLength = 0, maxLength = Infinity }: { readonly [keyword: string]: unknown }): string {
    const text = Array.from({ length: Math.floor(this.#draw() * 3) + 1 }, () => this.pick(TEXTS)).join('')
    return text.padEnd(Number(minLength), 'x').slice(0, Number(maxLength))
  }

  #number(schema: { readonly [keyword: string]: unknown }, isWhole: boolean): number {
    const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum, exclusiveMaximum } = schema
    const low = Math.max(Number(minimum), typeof exclusiveMinimum === 'number' ? exclusiveMinimum + 1e-6 : -Infinity)
    const high = Math.min(Number(maximum), typeof exclusiveMaximum === 'number' ? exclusiveMaximum - 1e-6 : Infinity)
    const drawn = this.pick([...NUMBERS, ...[low, high].filter(Number.isFinite)])
    const value = Math.min(Math.max(isWhole ? Math.trunc(drawn) : drawn, low), high)
    return isWhole ? Math.ceil(value) : value
  }

  #anything(depth: number): unknown {
    const kind = Math.floor(this.#draw() * (depth > MAX_DEPTH ? 4 : 6))
    if (kind === 0) return null
    if (kind === 1) return this.#draw() < 0.5
    if (kind === 2) return this.pick(NUMBERS)
    if (kind === 3) return this.pick(TEXTS)
    const length = Math.floor(this.#draw() * 3)
    const items = Array.from({ length }, () => this.#anything(depth + 1))
    return kind === 4 ? items : Object.fromEntries(items.map((item) => [this.pick(TEXTS), item]))
  }
}
