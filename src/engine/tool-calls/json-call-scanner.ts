/** Scans a call that is a JSON object `{"name": …, "arguments": {…}}`. Members may come in any order; others are skipped. */
import { isSpace } from '../markers.ts'
import type { CallScanner } from './call-scanner.ts'
import { JsonNesting } from './json-nesting.ts'

type Phase = 'object' | 'firstKey' | 'key' | 'inKey' | 'colon' | 'value' | 'inValue' | 'next' | 'done'

const NAME_KEYS: ReadonlySet<string> = new Set(['name', 'tool_name'])
const ARGUMENTS_KEYS: ReadonlySet<string> = new Set(['arguments', 'parameters'])

/** Scans `{"name": …, "arguments": {…}}` and passes the arguments on as they arrive. */
export class JsonCallScanner implements CallScanner {
  name: string | null = null
  #phase: Phase = 'object'
  #key = ''
  /** The string or bare word that is being read, quotes included. */
  #raw = ''
  /** The object or array that is being read is the arguments. */
  #isForwarded = false
  /** Of the string, object or array that is being read. */
  readonly #nesting = new JsonNesting()
  /** Arguments that have not been taken. */
  #arguments = ''
  #hasArguments = false

  get isDone(): boolean {
    return this.#phase === 'done'
  }

  get hasArguments(): boolean {
    return this.#hasArguments
  }

  get isInArguments(): boolean {
    return this.#isForwarded && this.#nesting.depth > 0
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
    this.#raw = ''
    this.#readString('"')
  }

  #readString(character: string): void {
    this.#raw += character
    this.#nesting.push(character)
  }

  #readKey(character: string): boolean {
    this.#readString(character)
    if (this.#nesting.isInString) return true
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
    else if (character === '{' || character === '[') {
      this.#isForwarded = this.#isArguments
      this.#hasArguments ||= this.#isForwarded
      this.#readNested(character)
    } else {
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
    if (this.#nesting.depth > 0) return this.#readNested(character)
    if (this.#nesting.isInString) {
      this.#readString(character)
      return this.#nesting.isInString || this.#endValue()
    }
    if (/[-+.\w]/.test(character)) {
      this.#raw += character
      return true
    }
    return this.#endValue() && this.push(character)
  }

  #readNested(character: string): boolean {
    if (!this.#nesting.push(character)) return false
    if (this.#isForwarded) this.#arguments += character
    if (this.#nesting.depth === 0) this.#phase = 'next'
    return true
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
    // Some models write the arguments as a string that contains JSON, as in OpenAI's API. null stands for no arguments.
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
