/** A call that is the function's name and its arguments as a JSON object. */
import type { CallScanner } from './call-scanner.ts'
import type { NamedBody } from './tool-call-format.ts'

/** Beyond every header: a text that is none is not held back any longer. */
const MAX_HEADER_CHARACTERS = 512

/** Scans a function name followed by a JSON object. */
export class NamedCallScanner implements CallScanner {
  name: string | null = null
  readonly #body: NamedBody
  #header = ''
  /** Closing brackets that the arguments still need, innermost last. */
  readonly #open: string[] = []
  #isInString = false
  #isEscaped = false
  #arguments = ''

  constructor(body: NamedBody) {
    this.#body = body
  }

  get isDone(): boolean {
    return this.name !== null && this.#open.length === 0
  }

  get hasArguments(): boolean {
    return this.name !== null
  }

  get isInArguments(): boolean {
    return this.#open.length > 0
  }

  takeArguments(): string {
    const taken = this.#arguments
    this.#arguments = ''
    return taken
  }

  push(character: string): boolean {
    if (this.name === null) return this.#readHeader(character)
    if (this.#isInString) this.#readString(character)
    else if (character === '"') this.#isInString = true
    else if (character === '{' || character === '[') this.#open.push(character === '{' ? '}' : ']')
    else if (character === '}' || character === ']') {
      if (this.#open.at(-1) !== character) return false
      this.#open.pop()
    }
    this.#arguments += character
    return true
  }

  #readHeader(character: string): boolean {
    if (character !== '{') {
      this.#header += character
      return this.#header.length <= MAX_HEADER_CHARACTERS
    }
    const name = this.#body.header.exec(this.#header)?.groups?.name
    if (name === undefined) return false
    this.name = name
    this.#open.push('}')
    this.#arguments = character
    return true
  }

  #readString(character: string): void {
    if (this.#isEscaped) this.#isEscaped = false
    else if (character === '\\') this.#isEscaped = true
    else if (character === '"') this.#isInString = false
  }
}
