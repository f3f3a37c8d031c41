/**
 * JSON Schemas as the grammar compiler can hold them to the letter. What it ignores, or takes more loosely than the standard, is refused by
 * name, or narrowed to less than the schema allows: whatever is generated must validate. Pure data.
 *
 * Narrowed: an object with `properties` gets no others (a further key could repeat one of them, and the last one wins), in their order;
 * a `pattern` matches the whole string; `prefixItems` are all there; `oneOf` needs branches that cannot hold together.
 */
import { EngineError } from './request.ts'

type Schema = { readonly [keyword: string]: unknown }

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
/** What a JSON string cannot hold as it is. */
const UNSAFE = '"\\\\\\x00-\\x1f'
/** A character that stands for itself. A complement, since the compiler misreads ranges beyond ASCII. */
const PLAIN = `[^${UNSAFE}]`
const DATE =
  '\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))'
const TIME = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)'
const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d{2}|[1-9]?\\d)'
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?'
const HOST = `(?:${LABEL}\\.){1,4}[A-Za-z]{2,12}`
/** Formats as patterns that give valid values only, if not every one (no 29 February, no local hosts). */
const FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE}T${TIME}`],
  ['uuid', '[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}'],
  ['ipv4', `${OCTET}\\.${OCTET}\\.${OCTET}\\.${OCTET}`],
  ['ipv6', '(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}'],
  ['hostname', HOST],
  ['email', `[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,3}@${HOST}`],
  ['uri', `https?://${HOST}(?::[1-9]\\d{0,3})?(?:/[A-Za-z0-9._~-]{1,64}){0,8}/?`],
])
const MAX_DEPTH = 64
const MAX_LISTED_INTEGERS = 1024

/** The schema to compile. Throws EngineError invalid_request naming every keyword that cannot be enforced, or what is wrong. */
export function prepareSchema(schema: unknown): unknown {
  const problems: string[] = []
  const prepared = new Preparation(schema, problems).root()
  if (problems.length > 0) {
    throw new EngineError(
      'invalid_request',
      `response_format: the schema cannot be enforced: ${problems.join('; ')}`,
      'response_format',
    )
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
        `a schema is expected, found ${node === false ? 'false, which nothing matches' : typeof node}`,
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

/**
 * A pattern that matches no quote, backslash or control character, which may not stand in a JSON string as they are; null where that cannot
 * be made sure. Anchors may stand at the ends only, and are dropped: the whole string is matched.
 */
export function jsonSafePattern(pattern: string): string | null {
  const body = pattern.replace(/^\^/, '').replace(/(?<!\\)\$$/, '')
  if (body !== pattern && body.includes('|')) return null
  let safe = ''
  for (let i = 0; i < body.length;) {
    const rest = body.slice(i)
    const group = /^\[(\^?)((?:\\[dwDW.\-\]^$*+?(){}|/]|[^\\\]"\p{Cc}\u{80}-\u{10ffff}])+)\]/u.exec(rest)
    const token =
      group?.[0] ??
      /^(?:\\[dw.\-\]^$*+?(){}|/[]|\(\?:|\((?!\?)|[)|*+?]|\{\d+(?:,\d*)?\}|\.|[^\\"()[\]{}|*+?.^$\p{Cc}])/u.exec(
        rest,
      )?.[0]
    if (token === undefined) return null
    i += token.length
    if (token === '.') safe += PLAIN
    else if (group !== null && group[1] === '^') {
      if (/\\[DW]/.test(token)) return null
      safe += `[^${UNSAFE}${group[2] ?? ''}]`
    } else if (group !== null) {
      if (/\\[DW]/.test(token) || coversUnsafe(group[2] ?? '')) return null
      safe += token
    } else safe += token
  }
  return safe
}

/** A range in a character class that runs over the quote or the backslash. */
function coversUnsafe(members: string): boolean {
  for (const [, from = '', to = ''] of members.matchAll(/(\\?.)-(\\?.)/gsu)) {
    const [low, high] = [from.codePointAt(from.length - 1) ?? 0, to.codePointAt(to.length - 1) ?? 0]
    if ([0x22, 0x5c].some((code) => low <= code && code <= high)) return true
  }
  return false
}

/** No value can satisfy two of them: their types differ, or a property they all require has other values in each. */
function areDisjoint(schemas: readonly unknown[]): boolean {
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

function isOfType(value: unknown, type: string): boolean {
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

function typesOf(type: unknown): string[] {
  return (Array.isArray(type) ? type : [type]).map(String)
}

function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
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
