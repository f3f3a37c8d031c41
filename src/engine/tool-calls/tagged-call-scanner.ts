/**
 * Scans a call with a pair of tags around each argument. Strings are written between the tags without quotes, everything else as JSON; the
 * function's schema tells them apart. Text between arguments is skipped.
 */
import { partialLength } from '../markers.ts'
import type { CallScanner } from './call-scanner.ts'
import { escapeJson, literalAsJson } from './literal-scanner.ts'
import { parameterKind } from './parameter-kind.ts'
import type { ParameterKind } from './parameter-kind.ts'
import type { TaggedBody } from './tool-call-format.ts'

const MAX_NAME_CHARACTERS = 256

type Phase = 'name' | 'between' | 'key' | 'valueBegin' | 'value' | 'done'

/** Scans calls with one tag per parameter and returns the arguments as JSON. */
export class TaggedCallScanner implements CallScanner {
  name: string | null = null
  hasArguments = false
  readonly #tags: TaggedBody
  readonly #parametersOf: (name: string) => unknown
  #phase: Phase = 'name'
  /** What was read since the last tag; it may end with the beginning of the next one. */
  #held = ''
  #kind: ParameterKind = 'mixed'
  /** The opening quote of the string has been passed on. */
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
        const marker = valueBegin.trim()
        const solid = this.#held.trimStart()
        if (solid === marker) this.#begin('value')
        return marker.startsWith(solid)
      }
      case 'value':
        this.#readValue()
        return true
      case 'done':
        return false
    }
  }

  #ends(marker: string): boolean {
    return this.#held.endsWith(marker)
  }

  #endsAny(markers: readonly string[]): boolean {
    return markers.some((marker) => this.#held.trimStart() !== '' && this.#ends(marker))
  }

  #begin(phase: Phase): void {
    this.#phase = phase
    this.#held = ''
  }

  #endName(): boolean {
    const { nameEnd, keyBegin, end } = this.#tags
    const marker = nameEnd !== '' ? nameEnd : ([keyBegin, end].find((own) => this.#ends(own)) ?? '')
    this.name = this.#held.slice(0, this.#held.length - marker.length).trim()
    if (/\s/.test(this.name) || this.name === '') return false
    this.#begin(marker === keyBegin ? 'key' : 'between')
    if (marker === end) this.#endCall()
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
    const marker = valueEnd.trim()
    const isString = this.#kind === 'string'
    if (isString && !this.#hasBegun) {
      this.#hasBegun = true
      this.#arguments += '"'
      // A value on lines of its own begins after the first line end.
      if (this.#tags.valueBegin === '\n' && this.#held === '\n') {
        this.#held = ''
        return
      }
    }
    if (this.#ends(marker)) {
      const isFramed = valueEnd.startsWith('\n')
      const whole = this.#held.slice(0, this.#held.length - marker.length)
      const value = isFramed && whole.endsWith('\n') ? whole.slice(0, -1) : whole
      if (isString) this.#arguments += `${escapeJson(value)}"`
      else this.#arguments += valueAsJson(this.#tags.valueBegin === '\n' ? value.replace(/^\n/, '') : value, this.#kind)
      this.#begin('between')
      return
    }
    if (!isString) return
    // What may be the beginning of the end tag, with or without the line end before it, stays.
    const kept = partialLength(this.#held, [valueEnd, marker])
    this.#arguments += escapeJson(this.#held.slice(0, this.#held.length - kept))
    this.#held = this.#held.slice(this.#held.length - kept)
  }

  #endCall(): void {
    this.#arguments += this.hasArguments ? '}' : ''
    this.#begin('done')
  }
}

/** JSON unchanged, Python literals converted to JSON, and everything else as a string. */
function valueAsJson(text: string, kind: ParameterKind): string {
  const trimmed = text.trim()
  try {
    // If the value may be a string, quotes around it are part of the string.
    if (kind === 'mixed' && /^['"]/.test(trimmed)) return JSON.stringify(text)
    JSON.parse(trimmed)
    return trimmed
  } catch {
    return literalAsJson(trimmed) ?? JSON.stringify(text)
  }
}
