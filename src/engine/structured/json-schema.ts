/**
 * JSON Schemas as the grammar compiler can hold them to the letter. What it ignores, or takes more loosely than the standard, is refused by
 * name, or narrowed to less than the schema allows: whatever is generated must validate. Pure data.
 *
 * Narrowed: an object with `properties` gets no others (a further key could repeat one of them, and the last one wins), in their order;
 * a `pattern` matches the whole string; `prefixItems` are all there; `oneOf` needs branches that cannot hold together.
 */
import { FORMATS, jsonSafePattern, PLAIN } from './json-pattern.ts'
import { EngineError } from '../request.ts'
import { areDisjoint, isOfType, isSchema, typesOf } from './schema-node.ts'
import type { Schema } from './schema-node.ts'

const ANNOTATIONS = new Set([
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  '$schema',
  '$id',
  '$comment',
  'discriminator',
])
const NUMERIC = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum']
const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  integer: NUMERIC,
  number: NUMERIC,
  boolean: [],
  null: [],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  object: ['properties', 'required', 'additionalProperties', 'minProperties', 'maxProperties'],
}
const MAX_DEPTH = 64
const MAX_LISTED_INTEGERS = 1024

/**
 * The schema to compile. Throws EngineError invalid_request naming every keyword that cannot be enforced, or what is wrong. `param`: the
 * request's field that holds the schema.
 */
export function prepareSchema(schema: unknown, param = 'response_format'): unknown {
  const problems: string[] = []
  const prepared = new Preparation(schema, problems).root()
  if (problems.length > 0) {
    throw new EngineError('invalid_request', `${param}: the schema cannot be enforced: ${problems.join('; ')}`, param)
  }
  return prepared
}

class Preparation {
  readonly #root: unknown
  readonly #problems: string[]

  constructor(root: unknown, problems: string[]) {
    this.#root = root
    this.#problems = problems
  }

  root(): unknown {
    if (!isSchema(this.#root)) return this.#node(this.#root, '#', 0)
    const { $defs, definitions, ...rest } = this.#root
    const prepared = this.#node(rest, '#', 0)
    const named = (definitions: unknown, path: string) =>
      Object.fromEntries(
        Object.entries(isSchema(definitions) ? definitions : {}).map(([name, node], i) => [
          name,
          this.#node(node, `${path}/${i}`, 1),
        ]),
      )
    const all = {
      ...($defs === undefined ? {} : { $defs: named($defs, '#/$defs') }),
      ...(definitions === undefined ? {} : { definitions: named(definitions, '#/definitions') }),
    }
    return isSchema(prepared) ? { ...prepared, ...all } : prepared
  }

  #refuse(path: string, problem: string): Schema {
    // A path counts properties and definitions from 0: their names are the caller's, and messages reach logs and traces.
    if (this.#problems.length < 16) this.#problems.push(`${problem} at ${path}`)
    return {}
  }

  #node(node: unknown, path: string, depth: number): unknown {
    if (depth > MAX_DEPTH) return this.#refuse(path, `nesting deeper than ${MAX_DEPTH}`)
    if (node === true) return {}
    if (!isSchema(node))
      return this.#refuse(
        path,
        `a schema is expected, found ${node === false ? 'false, which nothing matches' : node === null ? 'null' : typeof node}`,
      )
    const schema = Object.fromEntries(Object.entries(node).filter(([keyword]) => !ANNOTATIONS.has(keyword)))
    for (const keyword of ['$ref', 'allOf', 'anyOf', 'oneOf', 'const', 'enum']) {
      if (!(keyword in schema)) continue
      const others = Object.keys(schema).filter(
        (other) => other !== keyword && !(other === 'type' && (keyword === 'const' || keyword === 'enum')),
      )
      if (others.length > 0) return this.#refuse(path, `${quote(others)} beside "${keyword}"`)
      return this.#combined(keyword, schema, path, depth)
    }
    return this.#typed(schema, path, depth)
  }

  #combined(keyword: string, schema: Schema, path: string, depth: number): unknown {
    const value = schema[keyword]
    if (keyword === '$ref') return this.#reference(value, path)
    if (keyword === 'const') return this.#values([value], schema.type, path)
    if (!Array.isArray(value) || value.length === 0)
      return this.#refuse(path, `"${keyword}": a list with something in it is expected`)
    if (keyword === 'enum') return this.#values(value, schema.type, path)
    const branches = value.map((branch, i) => this.#node(branch, `${path}/${keyword}/${i}`, depth + 1))
    if (branches.length === 1) return branches[0]
    if (keyword === 'allOf') return this.#refuse(path, '"allOf" of several schemas')
    if (keyword === 'oneOf' && !areDisjoint(value.map((branch) => this.#resolve(branch)))) {
      return this.#refuse(
        path,
        '"oneOf" of schemas that may hold together (use "anyOf", or a property whose "const" differs)',
      )
    }
    return { anyOf: branches }
  }

  #values(values: readonly unknown[], type: unknown, path: string): Schema {
    const kept = values.filter((value) => type === undefined || typesOf(type).some((name) => isOfType(value, name)))
    return kept.length === 0 ? this.#refuse(path, '"enum" without a value of its "type"') : { enum: kept }
  }

  #reference(reference: unknown, path: string): Schema {
    const seen = new Set<unknown>()
    for (
      let target: unknown = { $ref: reference };
      isSchema(target) && '$ref' in target;
      target = this.#target(target.$ref)
    ) {
      if (seen.has(target.$ref)) return this.#refuse(path, '"$ref" that leads to itself')
      seen.add(target.$ref)
    }
    if (this.#target(reference) === undefined)
      return this.#refuse(path, '"$ref" to anything but "#", "#/$defs/name" or "#/definitions/name"')
    return { $ref: reference }
  }

  #target(reference: unknown): unknown {
    if (reference === '#') return this.#root
    const [, list = '', name = ''] = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(String(reference)) ?? []
    const definitions = isSchema(this.#root) ? this.#root[list] : undefined
    return isSchema(definitions) && Object.hasOwn(definitions, name) ? definitions[name] : undefined
  }

  #resolve(node: unknown): unknown {
    return isSchema(node) && '$ref' in node ? this.#target(node.$ref) : node
  }

  #typed(schema: Schema, path: string, depth: number): unknown {
    const { type, ...constraints } = schema
    const keywords = Object.keys(constraints)
    const known = new Set(Object.values(KEYWORDS).flat())
    const unknown = keywords.filter((keyword) => !known.has(keyword))
    if (unknown.length > 0) return this.#refuse(path, quote(unknown))
    // Without a type, constraints bind only values of theirs: the types they speak of are a choice that satisfies them.
    const types =
      type === undefined
        ? Object.keys(KEYWORDS).filter(
            (name) => name !== 'integer' && keywords.some((keyword) => KEYWORDS[name]?.includes(keyword)),
          )
        : typesOf(type)
    if (types.some((name) => !(name in KEYWORDS)) || (type !== undefined && types.length === 0))
      return this.#refuse(path, '"type" that is none of JSON’s')
    const branches = types.map((name) => {
      const own = Object.fromEntries(
        Object.entries(constraints).filter(([keyword]) => KEYWORDS[name]?.includes(keyword)),
      )
      return this.#ofType(name, own, path, depth)
    })
    return branches.length === 0 ? {} : branches.length === 1 ? branches[0] : { anyOf: branches }
  }

  #ofType(type: string, schema: Schema, path: string, depth: number): Schema {
    switch (type) {
      case 'string':
        return this.#string(schema, path)
      case 'integer':
      case 'number':
        return this.#number(type, schema, path)
      case 'array':
        return this.#array(schema, path, depth)
      case 'object':
        return this.#object(schema, path, depth)
      default:
        return { type }
    }
  }

  #string(schema: Schema, path: string): Schema {
    const { pattern, format, minLength, maxLength } = schema
    const [own = '', ...beside] = [
      ...(pattern === undefined ? [] : ['pattern']),
      ...(format === undefined ? [] : ['format']),
      ...Object.keys(schema).filter((keyword) => keyword.endsWith('Length')),
    ]
    if ((pattern !== undefined || format !== undefined) && beside.length > 0)
      return this.#refuse(path, `${quote(beside)} beside "${own}"`)
    if (format !== undefined) {
      const known = FORMATS.get(format)
      return known === undefined ? this.#refuse(path, '"format" of this name') : { type: 'string', pattern: known }
    }
    if (pattern !== undefined) {
      const safe = typeof pattern === 'string' ? jsonSafePattern(pattern) : null
      return safe === null ? this.#refuse(path, '"pattern" of this kind') : { type: 'string', pattern: safe }
    }
    if (!this.#areBounds(minLength, maxLength)) return this.#refuse(path, '"minLength" and "maxLength"')
    // As a pattern: the compiler's own form of a bounded string lets control characters through.
    if (minLength === undefined && maxLength === undefined) return { type: 'string' }
    return { type: 'string', pattern: `${PLAIN}{${String(minLength ?? 0)},${String(maxLength ?? '')}}` }
  }

  #number(type: string, schema: Schema, path: string): Schema {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema
    if (
      [minimum, maximum, exclusiveMinimum, exclusiveMaximum].some(
        (bound) => bound !== undefined && !Number.isFinite(bound),
      )
    ) {
      return this.#refuse(path, `${quote(Object.keys(schema))} that is not a number`)
    }
    if (type === 'integer') {
      const low = Math.max(
        ceil(minimum),
        exclusiveMinimum === undefined ? -Infinity : Math.floor(Number(exclusiveMinimum)) + 1,
      )
      const high = Math.min(
        -ceil(negative(maximum)),
        exclusiveMaximum === undefined ? Infinity : Math.ceil(Number(exclusiveMaximum)) - 1,
      )
      return this.#integer(low, high, quote(Object.keys(schema)), path)
    }
    if (Object.keys(schema).length === 0 || (minimum === 0 && Object.keys(schema).length === 1))
      return { type, ...schema }
    return this.#refuse(path, `${quote(Object.keys(schema))} of a "number" ("minimum": 0 can)`)
  }

  /** The compiler builds ranges from digits and lets numbers beyond some borders through: only those it gets right are left to it. */
  #integer(low: number, high: number, keywords: string, path: string): Schema {
    if (low > high) return this.#refuse(path, `${keywords} that leave no integer`)
    if (low === -Infinity && high === Infinity) return { type: 'integer' }
    if (high - low < MAX_LISTED_INTEGERS) return { enum: Array.from({ length: high - low + 1 }, (_, i) => low + i) }
    if (high === Infinity && (low === 0 || low === 1)) return { type: 'integer', minimum: low }
    return this.#refuse(
      path,
      `${keywords} of this range (from 0 or 1 on, or at most ${MAX_LISTED_INTEGERS} integers, can)`,
    )
  }

  #array(schema: Schema, path: string, depth: number): Schema {
    const { items, prefixItems, minItems, maxItems } = schema
    if (!this.#areBounds(minItems, maxItems)) return this.#refuse(path, '"minItems" and "maxItems"')
    const bounds = { ...(minItems === undefined ? {} : { minItems }), ...(maxItems === undefined ? {} : { maxItems }) }
    if (prefixItems === undefined) {
      return {
        type: 'array',
        ...bounds,
        ...(items === undefined ? {} : { items: this.#node(items, `${path}/items`, depth + 1) }),
      }
    }
    if (!Array.isArray(prefixItems) || prefixItems.length === 0)
      return this.#refuse(path, '"prefixItems": a list with something in it is expected')
    if (Number(maxItems ?? Infinity) < prefixItems.length)
      return this.#refuse(path, '"maxItems" below the number of "prefixItems"')
    const rest = items === undefined || items === false ? false : this.#node(items, `${path}/items`, depth + 1)
    if (rest === false && Number(minItems ?? 0) > prefixItems.length)
      return this.#refuse(path, '"minItems" above the number of "prefixItems"')
    const prefix = prefixItems.map((node, i) => this.#node(node, `${path}/prefixItems/${i}`, depth + 1))
    return { type: 'array', ...(rest === false ? {} : bounds), prefixItems: prefix, items: rest }
  }

  #object(schema: Schema, path: string, depth: number): Schema {
    const { properties = {}, required = [], additionalProperties = true, minProperties, maxProperties } = schema
    if (!isSchema(properties) || !Array.isArray(required))
      return this.#refuse(path, '"properties" or "required" of a wrong type')
    if (!this.#areBounds(minProperties, maxProperties)) return this.#refuse(path, '"minProperties" and "maxProperties"')
    const bounds = {
      ...(minProperties === undefined ? {} : { minProperties }),
      ...(maxProperties === undefined ? {} : { maxProperties }),
    }
    const missing = required.map(String).filter((name) => !Object.hasOwn(properties, name))
    if (additionalProperties === false && missing.length > 0)
      return this.#refuse(path, '"required" names that "additionalProperties" forbids')
    const own = [
      ...Object.entries(properties),
      ...missing.map((name): [string, unknown] => [name, additionalProperties]),
    ]
    if (own.length > 0) {
      if (Number(minProperties ?? 0) > own.length || Number(maxProperties ?? Infinity) < required.length)
        return this.#refuse(path, quote(Object.keys(bounds)))
      const nodes = own.map(([name, node], i) => [name, this.#node(node, `${path}/properties/${i}`, depth + 1)])
      return { type: 'object', properties: Object.fromEntries(nodes), required, additionalProperties: false, ...bounds }
    }
    // Free keys may repeat, and a repeated key counts once.
    if (Number(minProperties ?? 0) > 1) return this.#refuse(path, '"minProperties" above 1 without "properties"')
    if (additionalProperties === false) return { type: 'object', properties: {}, additionalProperties: false }
    return {
      type: 'object',
      additionalProperties: this.#node(additionalProperties, `${path}/additionalProperties`, depth + 1),
      ...bounds,
    }
  }

  #areBounds(least: unknown, most: unknown): boolean {
    const isCount = (value: unknown) => value === undefined || (Number.isInteger(value) && Number(value) >= 0)
    return isCount(least) && isCount(most) && Number(least ?? 0) <= Number(most ?? Infinity)
  }
}

function ceil(bound: unknown): number {
  return bound === undefined ? -Infinity : Math.ceil(Number(bound))
}

function negative(bound: unknown): unknown {
  return bound === undefined ? undefined : -Number(bound)
}

/** Keywords of the standard that are not enforced, so that they can be named. */
const OTHER_KEYWORDS =
  '$ref $defs definitions $anchor $dynamicRef $dynamicAnchor $recursiveRef $vocabulary type enum const allOf anyOf oneOf not if then else dependencies dependentSchemas dependentRequired patternProperties propertyNames unevaluatedProperties unevaluatedItems additionalItems contains minContains maxContains uniqueItems multipleOf contentEncoding contentMediaType contentSchema'
const STANDARD = new Set([...Object.values(KEYWORDS).flat(), ...OTHER_KEYWORDS.split(' ')])

/** Keywords of the standard by name; anything else is the caller's word, which no message repeats. */
function quote(names: readonly string[]): string {
  return [...new Set(names.map((name) => (STANDARD.has(name) ? `"${name}"` : 'an unknown keyword')))].join(', ')
}
