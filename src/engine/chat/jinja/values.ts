/**
 * Values of templates, with Python semantics: integers are bigint, floats are number, lists are arrays. This module contains everything that
 * Python prints, compares or counts differently from JavaScript.
 */
import { TemplateFault } from './errors.ts'
import { floatText, isSameNumber } from './numbers.ts'

export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | readonly Value[]
  | Tuple
  | Dict
  | Namespace
  | Undefined
  | PyGenerator
  | NumberLiteral
  | Callable
  | HostObject

/** A Python tuple, named or not. */
export class Tuple {
  readonly items: readonly Value[]
  /** Names of items, of a named tuple. */
  readonly names: readonly string[]

  constructor(items: readonly Value[], names: readonly string[] = []) {
    this.items = items
    this.names = names
  }
}

/** A Python generator, the result of filters such as map: it can be iterated, but has no length and no index. */
export class PyGenerator {
  readonly items: readonly Value[]

  constructor(items: readonly Value[]) {
    this.items = items
  }
}

/** A number from the caller, which is written as it was spelled. */
export class NumberLiteral {
  readonly value: bigint | number
  readonly text: string

  constructor(value: bigint | number, text: string) {
    this.value = value
    this.text = text
  }
}

/** A missing name, attribute or item. It prints as nothing, and any other use fails. */
export class Undefined {
  readonly reason: string

  constructor(reason: string) {
    this.reason = reason
  }

  fail(): never {
    throw new TemplateFault(this.reason)
  }
}

/** `namespace()`: the only kind of value that templates can change. */
export class Namespace {
  readonly values: Map<string, Value>

  constructor(values: Map<string, Value> = new Map()) {
    this.values = values
  }
}

/** Arguments of a call. */
export interface Arguments {
  readonly positional: readonly Value[]
  readonly named: ReadonlyMap<string, Value>
}

/** A function that templates can call. */
export class Callable {
  readonly name: string
  readonly call: (args: Arguments) => Value

  constructor(name: string, call: (args: Arguments) => Value) {
    this.name = name
    this.call = call
  }
}

/** An object of the renderer with attributes, such as `loop`; some can be called. */
export class HostObject {
  /** Its type, for messages. */
  readonly name: string
  readonly attributes: Readonly<Record<string, Value>>
  readonly call: ((args: Arguments) => Value) | null

  constructor(
    name: string,
    attributes: Readonly<Record<string, Value>>,
    call: ((args: Arguments) => Value) | null = null,
  ) {
    this.name = name
    this.attributes = attributes
    this.call = call
  }
}

/** A dictionary in insertion order. Keys that are equal in Python are one key. */
export class Dict {
  readonly #entries = new Map<unknown, readonly [Value, Value]>()

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value)
  }

  get size(): number {
    return this.#entries.size
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(hashKey(key))?.[1]
  }

  has(key: Value): boolean {
    return this.#entries.has(hashKey(key))
  }

  set(key: Value, value: Value): void {
    const known = this.#entries.get(hashKey(key))
    this.#entries.set(hashKey(key), [known === undefined ? key : known[0], value])
  }

  entries(): readonly (readonly [Value, Value])[] {
    return [...this.#entries.values()]
  }

  keys(): readonly Value[] {
    return this.entries().map(([key]) => key)
  }

  values(): readonly Value[] {
    return this.entries().map(([, value]) => value)
  }
}

/** Equal for keys that are equal in Python: 1, 1.0 and true are one key. */
function hashKey(key: Value): unknown {
  const plain = plainOf(key)
  if (typeof plain === 'boolean') return plain ? 1n : 0n
  if (typeof plain === 'number') return Number.isInteger(plain) ? BigInt(plain) : plain
  if (plain instanceof Tuple) return `\u0000tuple ${reprOf(plain)}`
  if (isList(plain) || plain instanceof Dict) throw new TemplateFault(`unhashable type: '${typeName(plain)}'`)
  return plain
}

/** Whether the value is a Python list. */
export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value)
}

/** The value, with numbers stripped of their original spelling. */
export function plainOf(value: Value): Exclude<Value, NumberLiteral> {
  return value instanceof NumberLiteral ? value.value : value
}

/** Name of the value's Python type, for messages. */
export function typeName(value: Value): string {
  const plain = plainOf(value)
  if (plain === null) return 'NoneType'
  if (typeof plain === 'boolean') return 'bool'
  if (typeof plain === 'bigint') return 'int'
  if (typeof plain === 'number') return 'float'
  if (typeof plain === 'string') return 'str'
  if (isList(plain)) return 'list'
  if (plain instanceof Tuple) return 'tuple'
  if (plain instanceof Dict) return 'dict'
  if (plain instanceof Namespace) return 'Namespace'
  if (plain instanceof Undefined) return 'Undefined'
  if (plain instanceof PyGenerator) return 'generator'
  return plain instanceof HostObject ? plain.name : 'function'
}

/** Truth value by Python's rules. */
export function isTrue(value: Value): boolean {
  const plain = plainOf(value)
  if (plain === null || plain instanceof Undefined) return false
  if (typeof plain === 'object') {
    if (isList(plain)) return plain.length > 0
    if (plain instanceof Tuple) return plain.items.length > 0
    return plain instanceof Dict ? plain.size > 0 : true
  }
  return Boolean(plain)
}

/** As `{{ value }}` shows it. */
export function textOf(value: Value): string {
  if (typeof value === 'string') return value
  return value instanceof Undefined ? '' : reprOf(value)
}

/** Limit on the values in one conversion to text. Lists that contain others twice grow exponentially when printed. */
const MAX_VISITS = 1_000_000

/** Limits how many values one conversion to text visits. @throws TemplateFault above it */
export class PrintLimit {
  #numLeft = MAX_VISITS

  next(): void {
    if (--this.#numLeft < 0) throw new TemplateFault(`it prints more than ${MAX_VISITS} values at once`)
  }
}

/** As Python's repr(). */
export function reprOf(value: Value, visits = new PrintLimit()): string {
  visits.next()
  if (value instanceof NumberLiteral) return value.text
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'number') return floatText(value)
  if (typeof value === 'string') return quoted(value)
  if (isList(value)) return `[${value.map((item) => reprOf(item, visits)).join(', ')}]`
  if (value instanceof Tuple)
    return value.items.length === 1
      ? `(${reprOf(value.items[0] ?? null, visits)},)`
      : `(${value.items.map((item) => reprOf(item, visits)).join(', ')})`
  if (value instanceof Dict)
    return `{${value
      .entries()
      .map(([key, item]) => `${reprOf(key, visits)}: ${reprOf(item, visits)}`)
      .join(', ')}}`
  if (value instanceof Undefined) return 'Undefined'
  throw new TemplateFault(`it prints a ${typeName(value)}, which cannot be printed`)
}

const ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' }
const UNPRINTABLE = /[\\\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}]/gu

function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = text.replaceAll(UNPRINTABLE, (character) => {
    if (character === ' ') return ' '
    const known = ESCAPES[character]
    if (known !== undefined) return known
    const code = character.codePointAt(0) ?? 0
    if (code <= 0xff) return `\\x${hex(code, 2)}`
    return code <= 0xffff ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`
  })
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote
}

const hex = (code: number, digits: number): string => code.toString(16).padStart(digits, '0')

/** The items over which a loop iterates. */
export function itemsOf(value: Value): readonly Value[] {
  if (typeof value === 'string') return [...value]
  if (isList(value)) return value
  if (value instanceof Tuple || value instanceof PyGenerator) return value.items
  if (value instanceof Dict) return value.keys()
  if (value instanceof Undefined) return []
  throw new TemplateFault(`'${typeName(value)}' object is not iterable`)
}

/** As Python's len(). */
export function lengthOf(value: Value): number {
  if (typeof value === 'string') return numCodePoints(value)
  if (isList(value)) return value.length
  if (value instanceof Tuple) return value.items.length
  if (value instanceof Dict) return value.size
  if (value instanceof Undefined) return 0
  throw new TemplateFault(`object of type '${typeName(value)}' has no len()`)
}

const SURROGATE = /[\ud800-\udfff]/

/** Characters are code points. */
export function numCodePoints(text: string): number {
  if (!SURROGATE.test(text)) return text.length
  let count = 0
  for (const _ of text) count++
  return count
}

/** Characters of a text, to be indexed. */
export function charactersOf(text: string): string | readonly string[] {
  return SURROGATE.test(text) ? [...text] : text
}

/** What indexes and slices of a value pick from: characters or items; null for a value that has no order. */
export function itemsByIndex(value: Value): string | readonly Value[] | null {
  if (typeof value === 'string') return charactersOf(value)
  if (isList(value)) return value
  return value instanceof Tuple ? value.items : null
}

/** `left == right` by Python's rules. */
export function equals(left: Value, right: Value): boolean {
  const [a, b] = [plainOf(left), plainOf(right)]
  if (typeof a === 'object' && a === b) return true
  if (isNumeric(a) && isNumeric(b)) return isSameNumber(numberOf(a), numberOf(b))
  if (isList(a) && isList(b)) return equalItems(a, b)
  if (a instanceof Tuple && b instanceof Tuple) return equalItems(a.items, b.items)
  if (a instanceof Dict && b instanceof Dict)
    return a.size === b.size && a.entries().every(([key, value]) => b.has(key) && equals(value, b.get(key) ?? null))
  if (a instanceof Undefined) return b instanceof Undefined
  return a === b
}

function equalItems(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, i) => equals(item, b[i] ?? null))
}

/** Whether it is a bool, int or float. */
export function isNumeric(value: Value): value is boolean | bigint | number {
  return typeof value === 'bigint' || typeof value === 'number' || typeof value === 'boolean'
}

/** The number of a numeric value; true is 1, false is 0. */
export function numberOf(value: boolean | bigint | number): bigint | number {
  return typeof value === 'boolean' ? (value ? 1n : 0n) : value
}

/** Negative where `left` comes first. @throws for what Python does not order */
export function compare(left: Value, right: Value, operator: string): number {
  const [a, b] = [plainOf(left), plainOf(right)]
  if (isNumeric(a) && isNumeric(b)) {
    const [x, y] = [numberOf(a), numberOf(b)]
    return x < y ? -1 : x > y ? 1 : isSameNumber(x, y) ? 0 : NaN
  }
  if (typeof a === 'string' && typeof b === 'string') return compareText(a, b)
  const [itemsA, itemsB] = isList(a) && isList(b) ? [a, b] : a instanceof Tuple && b instanceof Tuple ? [a.items, b.items] : [null, null] // prettier-ignore
  if (itemsA !== null && itemsB !== null) {
    for (const [i, item] of itemsA.entries()) {
      const other = itemsB[i]
      if (other === undefined) return 1
      if (!equals(item, other)) return compare(item, other, operator)
    }
    return itemsA.length - itemsB.length
  }
  if (a instanceof Undefined) return a.fail()
  if (b instanceof Undefined) return b.fail()
  throw new TemplateFault(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`)
}

/** Compares by code points; JavaScript compares UTF-16 units. */
function compareText(a: string, b: string): number {
  if (!SURROGATE.test(a) && !SURROGATE.test(b)) return a < b ? -1 : a > b ? 1 : 0
  const [x, y] = [[...a], [...b]]
  for (const [i, character] of x.entries()) {
    const difference = (character.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? -1)
    if (difference !== 0) return difference
  }
  return x.length - y.length
}

/** Wraps a template value inside plain data. */
export class ValueBox {
  readonly value: Value

  constructor(value: Value) {
    this.value = value
  }
}

/** Converts plain JavaScript data to a template value. */
export function toValue(value: unknown): Value {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value
  if (value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'bigint')
    return value
  if (Array.isArray(value)) return value.map(toValue)
  if (value instanceof ValueBox) return value.value
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined)
    return new Dict(entries.map(([key, item]) => [key, toValue(item)] as const))
  }
  throw new TemplateFault(`a ${typeof value} cannot be used in a template`)
}
