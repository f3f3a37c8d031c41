/** Follows the brackets and strings of JSON, character by character, without parsing the values. */
export class JsonNesting {
  /** Closing brackets that are still missing, innermost last. */
  readonly #open: string[] = []
  #isInString = false
  #isEscaped = false

  /** Brackets that are open. */
  get depth(): number {
    return this.#open.length
  }

  get isInString(): boolean {
    return this.#isInString
  }

  /** Takes the next character. False: it is a closing bracket that does not match. */
  push(character: string): boolean {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false
      else if (character === '\\') this.#isEscaped = true
      else if (character === '"') this.#isInString = false
    } else if (character === '"') this.#isInString = true
    else if (character === '{' || character === '[') this.#open.push(character === '{' ? '}' : ']')
    else if (character === '}' || character === ']') {
      if (this.#open.at(-1) !== character) return false
      this.#open.pop()
    }
    return true
  }
}
