/** Scans a call whose arguments are literals: `f(a=1)`, `f{a:1}`. */
import type { CallScanner } from './call-scanner.ts'
import { LiteralScanner } from './literal-scanner.ts'
import type { LiteralBody } from './tool-call-format.ts'

const MAX_NAME_CHARACTERS = 256

/** Scans calls such as `f(a=1)` and returns the arguments as JSON. */
export class LiteralCallScanner implements CallScanner {
  name: string | null = null
  readonly #body: LiteralBody
  readonly #arguments: LiteralScanner
  #name = ''
  #hasArguments = false

  constructor(body: LiteralBody) {
    this.#body = body
    this.#arguments = new LiteralScanner(body)
  }

  get isDone(): boolean {
    return this.#arguments.isDone
  }

  get hasArguments(): boolean {
    return this.#hasArguments
  }

  get isInArguments(): boolean {
    return this.#hasArguments && this.#arguments.depth > 0
  }

  takeArguments(): string {
    const taken = this.#arguments.json
    this.#arguments.json = ''
    return taken
  }

  push(character: string): boolean {
    if (this.name === null) return this.#readName(character)
    if (!this.#arguments.push(character)) return false
    // Ordinary text contains a name and a bracket too. Only the name of a first argument makes it a call.
    this.#hasArguments ||= this.#arguments.json.length > 1
    return true
  }

  #readName(character: string): boolean {
    if (character !== this.#body.open) {
      this.#name += character
      return /^\s*[^\s()[\]{},"'=]*\s*$/.test(this.#name) && this.#name.length <= MAX_NAME_CHARACTERS
    }
    this.name = this.#name.trim()
    this.#arguments.beginArguments(this.#body.close)
    return this.name !== ''
  }
}
