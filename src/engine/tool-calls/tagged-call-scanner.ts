/**
 * A call with a pair of tags around each argument: strings stand in them as they are, everything else as JSON. Which it is says the
 * function's schema. Text between the tags is passed over, as it has no meaning.
 */
import type { CallScanner } from './call-scanner.ts'
import { escaped, literalAsJson } from './literal-scanner.ts'
import { parameterKind } from './parameter-kind.ts'
import type { ParameterKind } from './parameter-kind.ts'
import type { TaggedBody } from './tool-call-format.ts'

const MAX_NAME_CHARACTERS = 256

type Phase = 'name' | 'between' | 'key' | 'valueBegin' | 'value' | 'done'

/** Scans calls with one tag per parameter and gives the arguments out as JSON. */
export class TaggedCallScanner implements CallScanner {
  name: string | null = null
  hasArguments = false
  readonly #tags: TaggedBody
  readonly #parametersOf: (name: string) => unknown
  #phase: Phase = 'name'
  /** What was read since the last tag, and may hold the beginning of the next one. */
  #held = ''
  #kind: ParameterKind = 'mixed'
  /** Of a string that is passed on while it is written: white space at its beginning was looked at. */
  #hasBegun = false
  #arguments = ''

  constructor(body: TaggedBody, parametersOf: (name: string) => unknown) {
    this.#tags = { ...body, keyBegin: body.keyBegin.trim(), nameEnd: body.nameEnd.trim(), end: body.end.trim() }
    this.#parametersOf = parametersOf
  }

  get isDone(): boolean {
    return this.#phase === 'done'
  }

  get isInArguments(): boolean {
    return this.hasArguments && !this.isDone
  }

  takeArguments(): string {
    const taken = this.#arguments
    this.#arguments = ''
    return taken
  }

  push(character: string): boolean {
    this.#held += character
    const { nameEnd, keyBegin, keyEnd, valueBegin, end } = this.#tags
    switch (this.#phase) {
      case 'name':
        if (nameEnd !== '' ? this.#ends(nameEnd) : this.#endsAny([keyBegin, end, '\n'])) return this.#endName()
        return this.#held.length <= MAX_NAME_CHARACTERS
      case 'between':
        if (this.#ends(keyBegin)) this.#begin('key')
        else if (this.#ends(end)) this.#endCall()
        else this.#held = this.#held.slice(-MAX_NAME_CHARACTERS)
        return true
      case 'key':
        if (!this.#ends(keyEnd)) return this.#held.length <= MAX_NAME_CHARACTERS
        this.#endKey()
        return true
      case 'valueBegin': {
        const mark = valueBegin.trim()
        const solid = this.#held.trimStart()
        if (solid === mark) this.#begin('value')
        return mark.startsWith(solid)
      }
      case 'value':
        this.#readValue()
        return true
      case 'done':
        return false
    }
  }

  #ends(mark: string): boolean {
    return this.#held.endsWith(mark)
  }

  #endsAny(marks: readonly string[]): boolean {
    return marks.some((mark) => this.#held.trimStart() !== '' && this.#ends(mark))
  }

  #begin(phase: Phase): void {
    this.#phase = phase
    this.#held = ''
  }

  #endName(): boolean {
    const { nameEnd, keyBegin, end } = this.#tags
    const mark = nameEnd !== '' ? nameEnd : ([keyBegin, end].find((own) => this.#ends(own)) ?? '')
    this.name = this.#held.slice(0, this.#held.length - mark.length).trim()
    if (/\s/.test(this.name) || this.name === '') return false
    this.#begin(mark === keyBegin ? 'key' : 'between')
    if (mark === end) this.#endCall()
    return true
  }

  #endKey(): void {
    const key = this.#held.slice(0, -this.#tags.keyEnd.length).trim()
    this.#arguments += `${this.hasArguments ? ', ' : '{'}${JSON.stringify(key)}: `
    this.hasArguments = true
    this.#kind = parameterKind(this.#parametersOf(this.name ?? ''), key)
    this.#hasBegun = false
    this.#begin(this.#tags.valueBegin.trim() === '' ? 'value' : 'valueBegin')
  }

  #readValue(): void {
    const { valueEnd } = this.#tags
    const mark = valueEnd.trim()
    const isString = this.#kind === 'string'
    if (isString && !this.#hasBegun) {
      // A value on lines of its own begins behind the first line end.
      if (this.#tags.valueBegin === '\n' && this.#held === '\n') {
        this.#held = ''
        this.#hasBegun = true
        this.#arguments += '"'
        return
      }
      this.#hasBegun = true
      this.#arguments += '"'
    }
    if (this.#ends(mark)) {
      const isFramed = valueEnd.startsWith('\n')
      const whole = this.#held.slice(0, this.#held.length - mark.length)
      const value = isFramed && whole.endsWith('\n') ? whole.slice(0, -1) : whole
      if (isString) this.#arguments += `${escaped(value)}"`
      else this.#arguments += valueAsJson(this.#tags.valueBegin === '\n' ? value.replace(/^\n/, '') : value, this.#kind)
      this.#begin('between')
      return
    }
    if (!isString) return
    const kept = numKept(this.#held, valueEnd)
    this.#arguments += escaped(this.#held.slice(0, this.#held.length - kept))
    this.#held = this.#held.slice(this.#held.length - kept)
  }

  #endCall(): void {
    this.#arguments += this.hasArguments ? '}' : ''
    this.#begin('done')
  }
}

/** Characters at the end that may be the beginning of the mark, with the line end before it or without, or half of a character. */
function numKept(text: string, mark: string): number {
  for (const own of [mark, mark.trim()]) {
    let length = Math.min(own.length - 1, text.length)
    while (length > 0 && !text.endsWith(own.slice(0, length))) length--
    if (length > 0) return length
  }
  return 0
}

/** JSON as it is, Python's literals as JSON, and everything else as a string. */
function valueAsJson(text: string, kind: ParameterKind): string {
  const trimmed = text.trim()
  try {
    // Where a value may be a string, one in quotes is a string with quotes.
    if (kind === 'mixed' && /^['"]/.test(trimmed)) return JSON.stringify(text)
    JSON.parse(trimmed)
    return trimmed
  } catch {
    return literalAsJson(trimmed) ?? JSON.stringify(text)
  }
}
