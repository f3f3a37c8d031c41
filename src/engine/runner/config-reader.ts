/** Reads fields of a config.json and checks their types. */
import type { RopeParameters } from './rope.ts'
import { ModelError } from './runner.ts'

/** More layers than any model has. */
export const MAX_LAYERS = 4096

/** Typed access to an untrusted config. Every method but `raw` throws ModelError that names the file and the field. */
export class ConfigReader {
  readonly path: string
  readonly #fields: Readonly<Record<string, unknown>>

  constructor(path: string, fields: Readonly<Record<string, unknown>>) {
    this.path = path
    this.#fields = fields
  }

  raw(key: string): unknown {
    return this.#fields[key] ?? null
  }

  /** @param found the value, where it is not that of the key at the top level */
  fail(key: string, expected: string, found: unknown = this.#fields[key]): never {
    throw new ModelError(
      `${this.path}: ${key} should be ${expected}, found ${JSON.stringify(found)?.slice(0, 80) ?? 'nothing'}`,
    )
  }

  number(key: string, fallback?: number): number {
    const value = this.raw(key) ?? fallback
    if (typeof value !== 'number' || !Number.isFinite(value)) this.fail(key, 'a number')
    return value
  }

  /** A size: an integer from 1 to 2^24. No real model has larger ones, and the product of two stays exact. */
  size(key: string, fallback?: number): number {
    const value = this.number(key, fallback)
    if (!Number.isInteger(value) || value < 1 || value > 1 << 24) this.fail(key, 'a positive integer')
    return value
  }

  /** num_hidden_layers, bounded before lists with an item per layer are made. */
  numLayers(): number {
    const value = this.size('num_hidden_layers')
    if (value > MAX_LAYERS) this.fail('num_hidden_layers', `at most ${MAX_LAYERS}`)
    return value
  }

  optionalNumber(key: string): number | null {
    return this.raw(key) === null ? null : this.number(key)
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.raw(key) ?? fallback
    if (typeof value !== 'boolean') this.fail(key, 'true or false')
    return value
  }

  object(key: string): RopeParameters | null {
    const value = this.raw(key)
    if (value === null) return null
    if (typeof value !== 'object' || Array.isArray(value)) this.fail(key, 'an object')
    return value as RopeParameters
  }

  list(key: string, length: number): readonly unknown[] | null {
    const value = this.raw(key)
    if (value === null) return null
    if (!Array.isArray(value) || value.length < length) this.fail(key, `a list of ${length}`)
    return value
  }

  /** A field that holds a token id, a list of them, or null. */
  tokenIds(key: string): readonly number[] {
    const value = this.raw(key)
    const list = value === null ? [] : Array.isArray(value) ? value : [value]
    if (!list.every((id) => typeof id === 'number' && Number.isInteger(id) && id >= 0))
      this.fail(key, 'a token id or a list of them')
    return list as number[]
  }
}
