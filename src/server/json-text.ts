/**
 * JSON text while its bytes arrive. Encoding, nesting and the number of values are checked chunk by chunk. A body that would take long to
 * parse is refused before it is parsed, and the check never blocks the thread for longer than one chunk.
 */
import { isUtf8 } from 'node:buffer'
import { invalidRequest } from './errors.ts'

/** Recursive code handles parsed values. Deeper values could overflow the stack. */
const MAX_DEPTH = 128
/** Parsing and validating this many values takes about 50 ms, whatever they are. */
const MAX_VALUES = 2 ** 19
const MAX_CONTAINERS = 2 ** 17
/** An object with different keys costs far more than a list of as many values. */
const MAX_KEYS = 2 ** 17

const [QUOTE, BACKSLASH, OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]
const [TAB, LINE_FEED, CARRIAGE_RETURN, SPACE, COMMA, COLON] = [0x09, 0x0a, 0x0d, 0x20, 0x2c, 0x3a]
const BYTE_ORDER_MARK = '\uFEFF'

/**
 * Checks and collects JSON text that arrives in pieces. @throws ApiError for invalid UTF-8, or for more nesting or
 * values than allowed
 */
export class JsonText {
  readonly #where: string
  readonly #parts: string[] = []
  /** Bytes of a character that is not complete yet. */
  #pending: Uint8Array = new Uint8Array(0)
  #depth = 0
  #numContainers = 0
  #numCommas = 0
  #numKeys = 0
  #isInString = false
  /** The last byte of the string is a backslash that escapes the next one. */
  #isEscaped = false
  #isBlank = true

  /** @param where for messages: `body`, or a line of it. */
  constructor(where: string) {
    this.#where = where
  }

  /** Only white space has arrived. */
  get isBlank(): boolean {
    return this.#isBlank
  }

  /** Adds bytes. @throws ApiError 400 for invalid UTF-8, too deep nesting or too many values */
  write(chunk: Uint8Array): void {
    this.#isBlank &&= chunk.every(
      (byte) => byte === SPACE || byte === LINE_FEED || byte === CARRIAGE_RETURN || byte === TAB,
    )
    this.#decode(chunk)
    this.#count(chunk)
  }

  /** The whole text. Call it once, after the last byte. @throws ApiError 400 if it ends inside a character */
  join(): string {
    if (this.#pending.length > 0) throw this.#notUtf8()
    const text = this.#parts.splice(0).join('')
    return text.startsWith(BYTE_ORDER_MARK) ? text.slice(1) : text
  }

  /** Parses the text of join(). @throws ApiError 400 if it is not JSON */
  parse(text: string): unknown {
    try {
      return JSON.parse(text)
    } catch (error) {
      // The parser's message quotes the body.
      const position = /position (\d+)/.exec(String(error))?.[1]
      throw invalidRequest(
        `${this.#where}: expected JSON, found something else${position ? ` at character ${position}` : ''}`,
      )
    }
  }

  #notUtf8() {
    return invalidRequest(`${this.#where}: expected UTF-8 text`)
  }

  #decode(chunk: Uint8Array): void {
    const bytes = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk])
    const end = endOfCharacters(bytes)
    const whole = bytes.subarray(0, end)
    if (!isUtf8(whole)) throw this.#notUtf8()
    this.#parts.push(Buffer.from(whole.buffer, whole.byteOffset, whole.byteLength).toString('utf8'))
    this.#pending = bytes.slice(end)
  }

  /** Counts on bytes: no byte of a multi-byte character is one of JSON's own. */
  #count(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) {
      if (this.#isInString) {
        i = this.#endOfString(bytes, i)
        continue
      }
      switch (bytes[i]) {
        case QUOTE:
          this.#isInString = true
          break
        case COMMA:
          this.#numCommas++
          break
        case COLON:
          this.#numKeys++
          break
        case CLOSE_ARRAY:
        case CLOSE_OBJECT:
          this.#depth--
          break
        case OPEN_ARRAY:
        case OPEN_OBJECT:
          this.#numContainers++
          if (++this.#depth > MAX_DEPTH) throw this.#tooLarge(`${MAX_DEPTH} levels of nesting`)
      }
    }
    if (this.#numContainers > MAX_CONTAINERS) throw this.#tooLarge(`${MAX_CONTAINERS} arrays and objects`)
    if (this.#numKeys > MAX_KEYS) throw this.#tooLarge(`${MAX_KEYS} object keys`)
    if (this.#numContainers + this.#numCommas > MAX_VALUES) throw this.#tooLarge(`${MAX_VALUES} values`)
  }

  #tooLarge(bound: string) {
    return invalidRequest(`${this.#where}: expected at most ${bound}, found more`)
  }

  /** The position of the closing quote, or the end of the chunk. Goes byte by byte, because searching for quotes is slow if all are escaped. */
  #endOfString(bytes: Uint8Array, start: number): number {
    for (let i = start; i < bytes.length; i++) {
      const byte = bytes[i]
      if (this.#isEscaped) this.#isEscaped = false
      else if (byte === BACKSLASH) this.#isEscaped = true
      else if (byte === QUOTE) {
        this.#isInString = false
        return i
      }
    }
    return bytes.length
  }
}

/** Where the last complete character ends: at most three bytes before the end. */
function endOfCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0
    if ((byte & 0xc0) === 0x80) continue
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return length > back ? bytes.length - back : bytes.length
  }
  return bytes.length
}
