/** Reads literals as Python and some models write them, character by character, and returns them as JSON. */
import { isSpace } from '../markers.ts'

interface LiteralStyle {
  /** Between a key and its value. */
  readonly keyEnd: string
  /** Delimits strings, which then have no escapes; null: strings are written as in Python or JSON. */
  readonly quote: string | null
}

const WORDS: ReadonlyMap<string, string> = new Map(Object.entries({ True: 'true', False: 'false', None: 'null', true: 'true', false: 'false', null: 'null', '': 'null' })) // prettier-ignore
const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?$/
const CLOSING: Readonly<Record<string, string>> = { '{': '}', '[': ']', '(': ')' }
const ESCAPES: Readonly<Record<string, string>> = { n: '\\n', t: '\\t', r: '\\r', b: '\\b', f: '\\f', a: '\\u0007', v: '\\u000b', '\\': '\\\\', "'": "'", '"': '\\"', '/': '/', '\n': '' } // prettier-ignore
const HEX_DIGITS: Readonly<Record<string, number>> = { x: 2, u: 4, U: 8 }

/** A text as JSON writes it between quotes. */
export function escapeJson(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/["\\\u0000-\u001f]/g, (character) => JSON.stringify(character).slice(1, -1))
}

interface Container {
  readonly close: string
  readonly isObject: boolean
  readonly keyEnd: string
  numMembers: number
}

/**
 * What may come next. `key`: a key, or the end of the container. `value`: a value, or the end of a list. `quoteEnd`: the end of a string, or
 * more of it, because some templates write strings without escapes. `next`: a comma, or the end of the container.
 */
type Phase = 'key' | 'keyEnd' | 'value' | 'word' | 'string' | 'escape' | 'hex' | 'quoteEnd' | 'next' | 'done'

/** Scans one literal, one character per `push`. */
export class LiteralScanner {
  /** What was read, as JSON. The reader empties it. */
  json = ''
  readonly #style: LiteralStyle
  readonly #open: Container[] = []
  #phase: Phase = 'value'
  #held = ''
  /** The quote that ends the string. */
  #quote = ''
  #isKey = false

  constructor(style: LiteralStyle) {
    this.#style = style
  }

  /** Begins inside an object that ends with `close`. */
  beginArguments(close: string): void {
    this.#push(close, true, this.#style.keyEnd)
  }

  get isDone(): boolean {
    return this.#phase === 'done'
  }

  get depth(): number {
    return this.#open.length
  }

  /** Takes the next character. False: it cannot be part of the literal; what is not converted yet is then appended as it was written. */
  push(character: string): boolean {
    const isTaken = this.#take(character)
    if (!isTaken) {
      this.json += this.#held
      this.#held = ''
    }
    return isTaken
  }

  #take(character: string): boolean {
    switch (this.#phase) {
      case 'key':
        return this.#readKey(character)
      case 'keyEnd':
        if (isSpace(character)) return true
        if (character !== (this.#open.at(-1)?.keyEnd ?? '')) return false
        this.json += ': '
        this.#phase = 'value'
        return true
      case 'value':
        return this.#beginValue(character)
      case 'word':
        return this.#readWord(character)
      case 'string':
        return this.#readString(character)
      case 'escape':
        return this.#readEscape(character)
      case 'hex':
        return this.#readHex(character)
      case 'quoteEnd':
        return this.#endQuote(character)
      case 'next':
        return this.#readNext(character)
      case 'done':
        return isSpace(character)
    }
  }

  /** Ends the text. False: the literal is incomplete. */
  end(): boolean {
    if (this.#phase === 'quoteEnd') this.#endString()
    if (this.#phase === 'word' && !this.#endWord()) return false
    return this.#phase === 'done'
  }

  #push(close: string, isObject: boolean, keyEnd: string): void {
    this.#open.push({ close, isObject, keyEnd, numMembers: 0 })
    this.json += isObject ? '{' : '['
    this.#phase = isObject ? 'key' : 'value'
  }

  #pop(): void {
    const closed = this.#open.pop()
    this.json += closed?.isObject === true ? '}' : ']'
    this.#phase = this.#open.length === 0 ? 'done' : 'next'
  }

  #separate(): void {
    const container = this.#open.at(-1)
    if (container === undefined) return
    if (container.numMembers++ > 0) this.json += ', '
  }

  #readKey(character: string): boolean {
    const { close = '', keyEnd = ':' } = this.#open.at(-1) ?? {}
    if (this.#held === '') {
      if (isSpace(character)) return true
      if (character === close) {
        this.#pop()
        return true
      }
      const isQuote = this.#style.quote === null && (character === '"' || character === "'")
      if (isQuote && keyEnd === ':') {
        this.#separate()
        this.#isKey = true
        return this.#beginString(character)
      }
    }
    if (character === keyEnd) {
      const key = this.#held.trim()
      // Python's dictionaries have no unquoted keys.
      if (key === '' || (this.#style.quote === null && keyEnd === ':')) return false
      this.#held = ''
      this.#separate()
      const { quote } = this.#style
      const isQuoted = quote !== null && key.startsWith(quote) && key.endsWith(quote) && key.length >= 2 * quote.length
      this.json += `${JSON.stringify(isQuoted ? key.slice(quote.length, -quote.length) : key)}: `
      this.#phase = 'value'
      return true
    }
    if (this.#style.quote === null && /[()[\]{},"'\s]/.test(character) && !(isSpace(character) && this.#held !== '')) return false // prettier-ignore
    this.#held += character
    return true
  }

  #beginValue(character: string): boolean {
    if (isSpace(character)) return true
    const container = this.#open.at(-1)
    if (container !== undefined && !container.isObject && character === container.close) {
      this.#pop()
      return true
    }
    if (container !== undefined && !container.isObject) this.#separate()
    const { quote } = this.#style
    if (quote === null && (character === '"' || character === "'")) return this.#beginString(character)
    const close = CLOSING[character]
    if (close !== undefined && (quote === null || character !== '(')) {
      this.#push(close, character === '{', ':')
      return true
    }
    this.#phase = 'word'
    this.#held = ''
    return this.#readWord(character)
  }

  /** A number, a word, or part of the delimiter of a string. */
  #readWord(character: string): boolean {
    const { quote } = this.#style
    if (quote !== null && quote.startsWith(this.#held + character)) {
      this.#held += character
      return this.#held !== quote || this.#beginString(quote)
    }
    if (/[-+.\w]/.test(character)) {
      this.#held += character
      return this.#held.length <= 400
    }
    return this.#endWord() && this.push(character)
  }

  #endWord(): boolean {
    const word = this.#held
    const json = NUMBER.test(word) ? word : (WORDS.get(word) ?? pythonNumber(word))
    if (json === null || (word === '' && this.#style.quote === null)) return false
    this.#held = ''
    this.json += json
    this.#endValue()
    return true
  }

  #beginString(quote: string): boolean {
    this.#quote = quote
    this.#held = ''
    this.json += '"'
    this.#phase = 'string'
    return true
  }

  #readString(character: string): boolean {
    const { quote } = this.#style
    if (quote !== null) {
      const candidate = this.#held + character
      let start = 0
      while (!quote.startsWith(candidate.slice(start))) start++
      this.json += escapeJson(candidate.slice(0, start))
      this.#held = candidate.slice(start)
      if (this.#held === quote) this.#endString()
      return true
    }
    if (character === '\\') this.#phase = 'escape'
    else if (character === this.#quote) {
      this.#phase = 'quoteEnd'
      this.#held = ''
    } else this.json += escapeJson(character)
    return true
  }

  #readEscape(character: string): boolean {
    this.#phase = 'string'
    if (HEX_DIGITS[character] !== undefined) {
      this.#held = `\\${character}`
      this.#phase = 'hex'
    } else this.json += ESCAPES[character] ?? `\\\\${escapeJson(character)}`
    return true
  }

  #readHex(character: string): boolean {
    if (!/[0-9a-fA-F]/.test(character)) return false
    const digits = this.#held.slice(2) + character
    const isComplete = digits.length === HEX_DIGITS[this.#held.charAt(1)]
    const code = isComplete ? Number.parseInt(digits, 16) : 0
    if (code > 0x10ffff) return false
    if (!isComplete) {
      this.#held += character
      return true
    }
    this.json += code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : String.fromCodePoint(code)
    this.#held = ''
    this.#phase = 'string'
    return true
  }

  #endQuote(character: string): boolean {
    const isEnd = /[,)\]}:]/.test(character)
    if (isSpace(character)) {
      this.#held += character
      return true
    }
    if (isEnd) {
      this.#endString()
      return this.push(character)
    }
    const held = this.#quote + this.#held
    this.#held = ''
    this.#phase = 'string'
    this.json += escapeJson(held)
    return this.push(character)
  }

  #endString(): void {
    this.#held = ''
    this.json += '"'
    if (this.#isKey) {
      this.#isKey = false
      this.#phase = 'keyEnd'
    } else this.#endValue()
  }

  #endValue(): void {
    this.#phase = this.#open.length === 0 ? 'done' : 'next'
  }

  #readNext(character: string): boolean {
    if (isSpace(character)) return true
    const container = this.#open.at(-1)
    if (character === ',') {
      this.#phase = container?.isObject === true ? 'key' : 'value'
      return true
    }
    if (character !== container?.close) return false
    this.#pop()
    return true
  }
}

/** Numbers that Python accepts and JSON does not: `1_000`, `.5`, `1.`, `+1`, `0x1f`. */
function pythonNumber(word: string): string | null {
  if (!/^[-+]?(?:0[xob][\da-f_]+|[\d_]*\.?\d[\d_]*(?:e[-+]?\d+)?|\d[\d_]*\.)$/i.test(word)) return null
  const value = Number(word.replaceAll('_', '').replace(/^\+/, ''))
  return Number.isFinite(value) ? String(value) : null
}

/** A Python literal as JSON; null if the text is not one. */
export function literalAsJson(text: string): string | null {
  const scanner = new LiteralScanner({ keyEnd: ':', quote: null })
  for (const character of text) if (!scanner.push(character)) return null
  return scanner.end() ? scanner.json : null
}
