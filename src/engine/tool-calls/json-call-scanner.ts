/**
 * A call that is a JSON object `{"name": …, "arguments": {…}}`, read character by character, so that its arguments can be passed on while
 * they are written. Members may come in any order; others are passed over.
 */
import type { CallScanner } from './call-scanner.ts'

type Phase = 'object' | 'firstKey' | 'key' | 'inKey' | 'colon' | 'value' | 'inValue' | 'next' | 'done'

const NAME_KEYS: ReadonlySet<string> = new Set(['name', 'tool_name'])
const ARGUMENTS_KEYS: ReadonlySet<string> = new Set(['arguments', 'parameters'])
const isSpace = (character: string): boolean => /\s/.test(character)

/** Scans `{"name": …, "arguments": {…}}` and passes the arguments on as they arrive. */
export class JsonCallScanner implements CallScanner {
  name: string | null = null
  #phase: Phase = 'object'
  #key = ''
  /** The string or bare word that is being read, quotes included. */
  #raw = ''
  /** The object or array that is being read is the arguments. */
  #isPassedOn = false
  /** Closing brackets that the value still needs, innermost last. */
  readonly #open: string[] = []
  #isInString = false
  #isEscaped = false
  /** Arguments that were not taken yet. */
  #arguments = ''
  #hasArguments = false

  get isDone(): boolean {
    return this.#phase === 'done'
  }

  get hasArguments(): boolean {
    return this.#hasArguments
  }

  get isInArguments(): boolean {
    return this.#isPassedOn && this.#open.length > 0
  }

  takeArguments(): string {
    const taken = this.#arguments
    this.#arguments = ''
    return taken
  }

  push(character: string): boolean {
    switch (this.#phase) {
      case 'object':
        return this.#expect(character, { '{': 'firstKey' })
      case 'firstKey':
        return this.#expect(character, { '"': 'inKey', '}': 'done' })
      case 'key':
        return this.#expect(character, { '"': 'inKey' })
      case 'inKey':
        return this.#readKey(character)
      case 'colon':
        return this.#expect(character, { ':': 'value' })
      case 'value':
        return isSpace(character) || this.#beginValue(character)
      case 'inValue':
        return this.#readValue(character)
      case 'next':
        return this.#expect(character, { ',': 'key', '}': 'done' })
      case 'done':
        return false
    }
  }

  #expect(character: string, next: Readonly<Record<string, Phase>>): boolean {
    if (isSpace(character)) return true
    const phase = next[character]
    if (phase === undefined) return false
    this.#phase = phase
    if (phase === 'inKey') this.#beginString()
    return true
  }

  #beginString(): void {
    this.#raw = '"'
    this.#isInString = true
  }

  #readKey(character: string): boolean {
    this.#raw += character
    this.#readString(character)
    if (this.#isInString) return true
    const key = parseString(this.#raw)
    if (key === null) return false
    this.#key = key
    this.#phase = 'colon'
    return true
  }

  #beginValue(character: string): boolean {
    this.#phase = 'inValue'
    this.#raw = ''
    if (this.#isArguments && character !== '{' && character !== '"' && character !== 'n') return false
    if (NAME_KEYS.has(this.#key) && character !== '"') return false
    if (character === '"') this.#beginString()
    else if (character === '{' || character === '[') this.#push(character)
    else {
      this.#raw = character
      return /[-\dtfn]/.test(character)
    }
    return true
  }

  get #isArguments(): boolean {
    return ARGUMENTS_KEYS.has(this.#key) && !this.#hasArguments
  }

  /** Inside an object or array, a string, or a bare word. */
  #readValue(character: string): boolean {
    if (this.#open.length > 0) return this.#readNested(character)
    if (this.#isInString) {
      this.#raw += character
      this.#readString(character)
      return this.#isInString || this.#endValue()
    }
    if (/[-+.\w]/.test(character)) {
      this.#raw += character
      return true
    }
    return this.#endValue() && this.push(character)
  }

  #readNested(character: string): boolean {
    if (this.#isInString) {
      this.#readString(character)
      this.#keep(character)
      return true
    }
    if (character === '"') {
      this.#isInString = true
      this.#keep(character)
    } else if (character === '{' || character === '[') this.#push(character)
    else if (character === '}' || character === ']') {
      if (this.#open.at(-1) !== character) return false
      this.#open.pop()
      this.#keep(character)
      if (this.#open.length === 0) this.#phase = 'next'
    } else this.#keep(character)
    return true
  }

  #push(bracket: string): void {
    if (this.#open.length === 0) {
      this.#isPassedOn = this.#isArguments
      this.#hasArguments ||= this.#isPassedOn
    }
    this.#open.push(bracket === '{' ? '}' : ']')
    this.#keep(bracket)
  }

  #keep(character: string): void {
    if (this.#isPassedOn) this.#arguments += character
  }

  #readString(character: string): void {
    if (this.#isEscaped) this.#isEscaped = false
    else if (character === '\\') this.#isEscaped = true
    else if (character === '"') this.#isInString = false
  }

  /** A string or a bare word has ended. */
  #endValue(): boolean {
    this.#phase = 'next'
    const text = this.#raw.startsWith('"') ? parseString(this.#raw) : null
    if (NAME_KEYS.has(this.#key)) {
      this.name ??= text
      return text !== null
    }
    if (!this.#isArguments) return true
    // Some models write the arguments as a string that holds JSON, as OpenAI's API does; null is no arguments.
    if (text === null) return this.#raw === 'null'
    this.#hasArguments = true
    this.#arguments = text
    return true
  }
}

function parseString(raw: string): string | null {
  try {
    return String(JSON.parse(raw))
  } catch {
    return null
  }
}
