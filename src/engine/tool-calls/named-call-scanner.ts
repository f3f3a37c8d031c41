/** Scans a call that is the function's name followed by its arguments as a JSON object. */
import type { CallScanner } from './call-scanner.ts'
import { JsonNesting } from './json-nesting.ts'
import type { NamedBody } from './tool-call-format.ts'

/** Longer than any header. Text that exceeds it is not a call and is no longer held back. */
const MAX_HEADER_CHARACTERS = 512

/** Scans a function name followed by a JSON object. */
export class NamedCallScanner implements CallScanner {
  name: string | null = null
  readonly #body: NamedBody
  readonly #nesting = new JsonNesting()
  #header = ''
  #arguments = ''

  constructor(body: NamedBody) {
    this.#body = body
  }

  get isDone(): boolean {
    return this.name !== null && !this.isInArguments
  }

  get hasArguments(): boolean {
    return this.name !== null
  }

  get isInArguments(): boolean {
    return this.#nesting.depth > 0
  }

  takeArguments(): string {
    const taken = this.#arguments
    this.#arguments = ''
    return taken
  }

  push(character: string): boolean {
    if (this.name === null && !this.#readHeader(character)) return false
    if (this.name === null) return true
    if (!this.#nesting.push(character)) return false
    this.#arguments += character
    return true
  }

  /** False: what was read cannot be the header of a call. */
  #readHeader(character: string): boolean {
    if (character !== '{') {
      this.#header += character
      return this.#header.length <= MAX_HEADER_CHARACTERS
    }
    this.name = this.#body.header.exec(this.#header)?.groups?.name ?? null
    return this.name !== null
  }
}
