/**
 * Arguments of earlier calls on their way through a template, which writes them again in the model's form: digit for digit and in the
 * caller's order. JavaScript keeps neither 1.0 nor 12345678901234567890, and moves keys that are whole numbers to the front; what it would
 * change goes through the template as another number, or with a mark, and gets its own spelling back behind it.
 */
import { randomInt } from 'node:crypto'

const KEY = '\u{F8F9}'
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g
const NUM_COUNTER_DIGITS = 8

/** Of one conversation. */
export class ArgumentSpellings {
  /** Numbers that stand for others begin with this, which no caller can know. */
  readonly #prefix = String(randomInt(1_000_000, 9_999_999))
  readonly #spellings: string[] = []
  #hasKeys = false

  /** The arguments as a value for a template; '' and null are no arguments, and what is no JSON stays a string. */
  value(json: string): unknown {
    if (json.trim() === '' || json.trim() === 'null') return {}
    try {
      JSON.parse(json)
    } catch {
      return json
    }
    const marked = json.replace(TOKEN, (token, at: number) => {
      if (!token.startsWith('"')) return String(Number(token)) === token ? token : this.#standIn(token)
      const isKey = /^\s*:/.test(json.slice(at + token.length, at + token.length + 64))
      if (!isKey || !/^"\d+"$/.test(token)) return token
      this.#hasKeys = true
      return `"${KEY}${token.slice(1)}`
    })
    const value: unknown = JSON.parse(marked)
    return value
  }

  /** What the template made of it, in the caller's spelling. */
  restore(rendered: string): string {
    const keyed = this.#hasKeys ? rendered.replaceAll(KEY, '') : rendered
    if (this.#spellings.length === 0) return keyed
    const standIn = new RegExp(`${this.#prefix}(\\d{${NUM_COUNTER_DIGITS}})`, 'g')
    return keyed.replace(standIn, (found, number: string) => this.#spellings[Number(number)] ?? found)
  }

  /** A number that JavaScript writes as it is. */
  #standIn(token: string): string {
    this.#spellings.push(token)
    return this.#prefix + String(this.#spellings.length - 1).padStart(NUM_COUNTER_DIGITS, '0')
  }
}
