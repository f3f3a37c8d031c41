/** Resolves the references of a JSON Schema to places within it or to subschemas with a name. */
import { isSchema } from './schema.ts'
import type { Schema } from './schema.ts'
import { Unenforceable } from '../unenforceable.ts'

const MAX_SCHEMAS = 50_000

/** Resolves `$ref` within one schema: JSON pointers, `$id` and `$anchor`. */
export class SchemaReferences {
  readonly #root: unknown
  /** Subschemas by `$id`, and by `#` followed by their `$anchor`; built on first use. */
  #names: ReadonlyMap<string, Schema> | null = null

  constructor(root: unknown) {
    this.#root = root
  }

  /** The schema that a `$ref` points to. @throws Unenforceable when there is none */
  target(reference: unknown): unknown {
    if (reference === '#') return this.#root
    if (typeof reference !== 'string') throw new Unenforceable('"$ref" that is not a string')
    if (reference.startsWith('#/')) return place(this.#root, reference.slice(2))
    this.#names ??= namesIn(this.#root)
    const named = this.#names.get(reference) ?? this.#names.get(reference.replace(/^.*(?=#)/, ''))
    if (named !== undefined) return named
    const [id = '', pointer = ''] = reference.split('#')
    const base = this.#names.get(id)
    if (base === undefined)
      throw new Unenforceable('"$ref" to anything but a place in the same schema, as in "#/$defs/name"')
    return pointer === '' ? base : place(base, pointer.replace(/^\//, ''))
  }
}

function place(root: unknown, pointer: string): unknown {
  let target: unknown = root
  for (const step of pointer.split('/')) {
    const key = decode(step).replaceAll('~1', '/').replaceAll('~0', '~')
    const at: unknown = target
    target = typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? Reflect.get(at, key) : undefined
  }
  if (target === undefined) throw new Unenforceable('"$ref" to a place that is not there')
  return target
}

function namesIn(root: unknown): ReadonlyMap<string, Schema> {
  const names = new Map<string, Schema>()
  const open: unknown[] = [root]
  for (let i = 0; i < open.length && i < MAX_SCHEMAS; i++) {
    const value = open[i]
    if (Array.isArray(value)) open.push(...(value as unknown[]))
    if (!isSchema(value)) continue
    for (const name of [value.$id, value.id]) if (typeof name === 'string') names.set(name, value)
    for (const name of [value.$anchor, value.$dynamicAnchor]) if (typeof name === 'string') names.set(`#${name}`, value)
    open.push(...Object.values(value))
  }
  return names
}

function decode(step: string): string {
  try {
    return decodeURIComponent(step)
  } catch {
    return step
  }
}
