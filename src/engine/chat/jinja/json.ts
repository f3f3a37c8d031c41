/** JSON as Python's json module reads and writes it. */
import { TemplateFault } from './errors.ts'
import { floatText } from './numbers.ts'
import { compare, Dict, isList, NumberLiteral, Tuple, typeName, PrintLimit } from './values.ts'
import type { Value } from './values.ts'

interface JsonLayout {
  /** Of one level; null: everything in one line. */
  readonly indent: string | null
  readonly itemSeparator: string
  readonly keySeparator: string
  readonly sortsKeys: boolean
  readonly isAscii: boolean
}

/** As json.dumps. @throws TemplateFault for a value that JSON cannot represent */
export function jsonText(value: Value, layout: JsonLayout, depth = 0, visits = new PrintLimit()): string {
  visits.next()
  if (value instanceof NumberLiteral) return value.text
  if (value === null) return 'null'
  if (typeof value === 'boolean' || typeof value === 'bigint') return String(value)
  if (typeof value === 'number') return jsonFloat(value)
  if (typeof value === 'string') return jsonString(value, layout)
  if (isList(value) || value instanceof Tuple) {
    const items = isList(value) ? value : value.items
    return inLines('[', items.map((item) => jsonText(item, layout, depth + 1, visits)), ']', layout, depth) // prettier-ignore
  }
  if (!(value instanceof Dict)) throw new TemplateFault(`Object of type ${typeName(value)} is not JSON serializable`)
  const entries = layout.sortsKeys ? value.entries().toSorted(([a], [b]) => compare(a, b, '<')) : value.entries()
  const fields = entries.map(
    ([key, item]) =>
      `${jsonString(keyText(key), layout)}${layout.keySeparator}${jsonText(item, layout, depth + 1, visits)}`,
  )
  return inLines('{', fields, '}', layout, depth)
}

function inLines(open: string, parts: readonly string[], close: string, layout: JsonLayout, depth: number): string {
  const { indent, itemSeparator } = layout
  if (parts.length === 0 || indent === null) return open + parts.join(itemSeparator) + close
  const [outer, inner] = [`\n${indent.repeat(depth)}`, `\n${indent.repeat(depth + 1)}`]
  return open + inner + parts.join(itemSeparator + inner) + outer + close
}

function keyText(key: Value): string {
  if (typeof key === 'string') return key
  if (key instanceof NumberLiteral) return key.text
  if (key === null) return 'null'
  if (typeof key === 'boolean' || typeof key === 'bigint') return String(key)
  if (typeof key === 'number') return jsonFloat(key)
  throw new TemplateFault(`keys must be str, int, float, bool or None, not ${typeName(key)}`)
}

function jsonFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity'
  return floatText(value)
}

function jsonString(text: string, { isAscii }: JsonLayout): string {
  const json = JSON.stringify(text)
  // eslint-disable-next-line no-control-regex -- every character that is not printable ASCII
  return isAscii ? json.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) : json
}

/** Limit on the digits of integers. Longer ones keep their spelling. */
const MAX_DIGITS = 300

/** Limit on nesting, the same as for request bodies. */
const MAX_DEPTH = 128

/** As json.loads, but numbers keep their spelling and keys their order. null: it is not JSON, or is nested too deeply. */
export function parseJson(text: string): { readonly value: Value } | null {
  try {
    JSON.parse(text)
    return { value: new JsonReader(text).read() }
  } catch {
    return null
  }
}

/** Reads text that is known to be JSON. */
class JsonReader {
  readonly #tokens: RegExpExecArray[]
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#tokens = [...text.matchAll(/"(?:[^"\\]|\\.)*"|[-\d][-+.\deE]*|true|false|null|[[\]{}:,]/g)]
  }

  read(): Value {
    const token = this.#next()
    if (token === '{' || token === '[') {
      if (++this.#depth > MAX_DEPTH) throw new RangeError(`more than ${MAX_DEPTH} levels of nesting`)
      const value = token === '{' ? this.#readObject() : this.#readArray()
      this.#depth--
      return value
    }
    if (token.startsWith('"')) return String(JSON.parse(token))
    if (token === 'null') return null
    return token === 'true' || token === 'false' ? token === 'true' : toNumber(token)
  }

  #next(): string {
    return this.#tokens[this.#at++]?.[0] ?? ''
  }

  #readArray(): Value {
    const items: Value[] = []
    if (this.#peek() === ']') this.#at++
    else
      do items.push(this.read())
      while (this.#next() === ',')
    return items
  }

  #readObject(): Value {
    const object = new Dict()
    if (this.#peek() === '}') {
      this.#at++
      return object
    }
    do {
      const key = String(JSON.parse(this.#next()))
      this.#at++
      object.set(key, this.read())
    } while (this.#next() === ',')
    return object
  }

  #peek(): string {
    return this.#tokens[this.#at]?.[0] ?? ''
  }
}

function toNumber(text: string): Value {
  if (/^(?:0|-?[1-9]\d*)$/.test(text))
    return text.length <= MAX_DIGITS ? BigInt(text) : new NumberLiteral(Number(text), text)
  const value = Number(text)
  return floatText(value) === text ? value : new NumberLiteral(value, text)
}
