/**
 * JSON text while its bytes arrive. Encoding, nesting and the number of values are checked chunk by chunk. A body that would take long to
 * parse is refused before it is parsed, and the check never blocks the thread for longer than one chunk.
 */
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

/**
 * Checks and collects JSON text that arrives in pieces. @throws ApiError for invalid UTF-8, or for more nesting or
 * values than allowed
 */
export class JsonText {
  readonly #where: string
  readonly #parts: string[] = []
  readonly #decoder = new TextDecoder('utf-8', { fatal: true })
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
    this.#decode()
    return this.#parts.splice(0).join('')
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

  /** @param chunk absent: the end, which must not be inside a character */
  #decode(chunk?: Uint8Array): void {
    try {
      this.#parts.push(this.#decoder.decode(chunk, { stream: chunk !== undefined }))
    } catch {
      throw invalidRequest(`${this.#where}: expected UTF-8 text`)
    }
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
