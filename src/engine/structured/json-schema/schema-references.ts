/** Resolves the references of a JSON Schema to places within it or to subschemas with a name. */
import { isSchema } from './schema.ts'
import type { Schema } from './schema.ts'
import { Unenforceable } from '../unenforceable.ts'

/** Finds the schema that a reference in the schema `from` leads to. */
export type ReferenceTarget = (reference: unknown, from: Schema) => unknown

const MAX_SCHEMAS = 50_000
/** The address of a schema without an absolute one: relative addresses need something to be relative to. */
const NO_ADDRESS = 'schema://root/'
/** Keywords whose values are no schemas. */
const VALUES: ReadonlySet<string> = new Set(['enum', 'const', 'default', 'examples'])

/** A schema with an address of its own (`$id`), or the root: what the references within it are relative to. */
interface Resource {
  readonly root: unknown
  readonly address: string
}

/** Resolves `$ref` within one schema: JSON pointers, `$id` and `$anchor`. */
export class SchemaReferences {
  readonly #root: unknown
  /** Built on first use. */
  #index: SchemaIndex | null = null

  constructor(root: unknown) {
    this.#root = root
  }

  /** The schema that a `$ref` in the schema `from` points to. @throws Unenforceable when there is none */
  target(reference: unknown, from: Schema): unknown {
    if (typeof reference !== 'string') throw new Unenforceable('"$ref" that is not a string')
    this.#index ??= new SchemaIndex(this.#root)
    const { names, resources } = this.#index
    const { root, address } = resources.get(from) ?? { root: this.#root, address: NO_ADDRESS }
    if (reference === '#') return root
    // Many writers count from the whole document even in a schema with an address of its own.
    if (reference.startsWith('#/')) return place([root, this.#root], reference.slice(2))
    const absolute = resolved(reference, address)
    const named = names.get(absolute) ?? names.get(reference) ?? names.get(reference.replace(/^.*(?=#)/, ''))
    if (named !== undefined) return named
    const [id = '', pointer = ''] = absolute.split('#')
    const base = names.get(id) ?? names.get(reference.replace(/#.*$/, ''))
    if (base === undefined)
      throw new Unenforceable('"$ref" to anything but a place in the same schema, as in "#/$defs/name"')
    return pointer === '' ? base : place([base], pointer.replace(/^\//, ''))
  }
}

/** @throws Unenforceable */
function place(roots: readonly unknown[], pointer: string): unknown {
  const steps = pointer.split('/').map((step) => decode(step).replaceAll('~1', '/').replaceAll('~0', '~'))
  for (const root of roots) {
    let target: unknown = root
    for (const key of steps) {
      const at: unknown = target
      target = typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? Reflect.get(at, key) : undefined
    }
    if (target !== undefined) return target
  }
  throw new Unenforceable('"$ref" to a place that is not there')
}

/** The addresses of all subschemas that have one. */
class SchemaIndex {
  /** Subschemas by `$id`, as written and in full, and by `#` followed by their `$anchor`, with and without the address. */
  readonly names = new Map<string, Schema>()
  /** Where the subschemas are whose references are not relative to the root. */
  readonly resources = new WeakMap<Schema, Resource>()

  constructor(root: unknown) {
    const open: (readonly [value: unknown, resource: Resource])[] = [[root, { root, address: NO_ADDRESS }]]
    for (let i = 0; i < open.length && i < MAX_SCHEMAS; i++) {
      const [value, outer] = open[i] ?? [null, { root, address: NO_ADDRESS }]
      if (Array.isArray(value)) for (const item of value as unknown[]) open.push([item, outer])
      if (!isSchema(value)) continue
      const resource = this.#add(value, outer)
      for (const [keyword, inner] of Object.entries(value)) if (!VALUES.has(keyword)) open.push([inner, resource])
    }
  }

  #add(schema: Schema, outer: Resource): Resource {
    const { $id, id, $anchor, $dynamicAnchor } = schema
    const address = typeof $id === 'string' ? resolved($id, outer.address) : outer.address
    const resource = typeof $id === 'string' ? { root: schema, address } : outer
    if (resource.address !== NO_ADDRESS) this.resources.set(schema, resource)
    for (const name of [address, $id])
      if (typeof $id === 'string' && typeof name === 'string') this.names.set(name, schema)
    if (typeof id === 'string') this.names.set(id, schema)
    for (const name of [$anchor, $dynamicAnchor]) {
      if (typeof name !== 'string') continue
      this.names.set(`#${name}`, schema)
      this.names.set(`${address}#${name}`, schema)
    }
    return resource
  }
}

/** The reference in full, without an empty fragment; as it is where it is no address. */
function resolved(reference: string, address: string): string {
  try {
    return new URL(reference, address).href.replace(/#$/, '')
  } catch {
    return reference
  }
}

function decode(step: string): string {
  try {
    return decodeURIComponent(step)
  } catch {
    return step
  }
}
