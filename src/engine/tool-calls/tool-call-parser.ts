/**
 * From a model's text to content and calls of functions, while it is written. The result does not depend on where the pieces are cut. What
 * does not become a call stays content, to the letter: a call is one when it names a function that was offered, and its arguments have
 * begun or it is complete. From then on its arguments are passed on as the model writes them, be they JSON or not, as OpenAI's API does.
 */
import type { ToolCallDelta } from '../request.ts'
import type { ToolCallFormat } from './tool-call-format.ts'
import { ToolCallScanner } from './tool-call-scanner.ts'

export interface ToolCallParserOptions {
  readonly format: ToolCallFormat
  /** Functions that were offered. */
  readonly names: ReadonlySet<string>
  /** The id of the next call. */
  readonly newId: () => string
}

/** What a piece of text became. */
export interface ParsedText {
  readonly text: string
  readonly calls: readonly ToolCallDelta[]
}

/**
 * `content`: looks for a call. `list`: between the beginning of a list and its bracket. `call`: in a call. `after`: behind one, where an
 * end, a separator or the list's bracket may come. `rest`: in arguments that are no JSON, up to the format's end.
 */
type Mode = 'content' | 'list' | 'call' | 'after' | 'rest'

export class ToolCallParser {
  readonly #options: ToolCallParserOptions
  #mode: Mode = 'content'
  /** White space that is content if content follows it, and nothing beside a call. */
  #spaces = ''
  /** The beginning of a mark that is looked for. */
  #partial = ''
  /** Everything since the call began, for as long as it may still be content. */
  #raw = ''
  #scanner = new ToolCallScanner()
  /** Calls that have begun to be passed on. */
  #numCalls = 0
  /** The call being read is one of them. */
  #isAnnounced = false
  #numComplete = 0
  #hasContent = false
  #text = ''
  #calls: ToolCallDelta[] = []

  constructor(options: ToolCallParserOptions) {
    this.#options = options
  }

  /** Between the beginning of a call that is one and its end. */
  get isInCall(): boolean {
    return (this.#mode === 'call' && this.#isAnnounced) || this.#mode === 'rest'
  }

  /** Calls whose arguments have ended. */
  get numComplete(): number {
    return this.#numComplete
  }

  push(text: string): ParsedText {
    for (const character of text) this.#step(character)
    return this.#take()
  }

  /** The end: what was held back is content after all, if it does not belong to a call. */
  flush(): ParsedText {
    if (this.#mode === 'rest') this.#pass(this.#partial)
    else if (this.#mode === 'list' || (this.#mode === 'call' && !this.#isAnnounced)) this.#content(this.#raw)
    else this.#content(this.#partial)
    if (this.#numCalls === 0) this.#text += this.#spaces
    this.#spaces = ''
    this.#partial = ''
    this.#raw = ''
    return this.#take()
  }

  #take(): ParsedText {
    const parsed = { text: this.#text, calls: this.#calls }
    this.#text = ''
    this.#calls = []
    return parsed
  }

  #step(character: string): void {
    switch (this.#mode) {
      case 'content':
        return this.#readContent(character)
      case 'list':
        return this.#readList(character)
      case 'call':
        return this.#readCall(character)
      case 'after':
        return this.#readAfter(character)
      case 'rest':
        return this.#readRest(character)
    }
  }

  #readContent(character: string): void {
    const { begin, isBare, isList } = this.#options.format
    if (isBare && character === '{' && this.#partial === '' && !this.#hasContent && this.#numCalls === 0) {
      this.#beginCall('')
      this.#readCall(character)
      return
    }
    const released = this.#match(character, begin)
    if (released === null) {
      if (isList) this.#mode = 'list'
      else this.#beginCall(begin)
      this.#raw = begin
    } else this.#content(released)
  }

  #readList(character: string): void {
    if (isSpace(character)) this.#raw += character
    else if (character === '[') this.#beginCall(`${this.#raw}[`)
    else this.#giveUp(character)
  }

  #beginCall(raw: string): void {
    this.#mode = 'call'
    this.#raw = raw
    this.#scanner = new ToolCallScanner()
    this.#isAnnounced = false
  }

  #readCall(character: string): void {
    const scanner = this.#scanner
    if (!scanner.push(character)) {
      if (!this.#isAnnounced) this.#giveUp(character)
      else if (scanner.isInArguments) {
        this.#mode = 'rest'
        this.#readRest(character)
      } else this.#endCall(character)
      return
    }
    if (!this.#isAnnounced) {
      this.#raw += character
      if (!this.#announce()) return
    }
    this.#pass(scanner.takeArguments())
    if (scanner.isDone) this.#endCall('')
  }

  /** Tells of the call once it is known to be one. False: it is not known yet, or is none. */
  #announce(): boolean {
    const { name, hasArguments, isDone } = this.#scanner
    const { names, newId } = this.#options
    if (name === null ? isDone : !names.has(name)) this.#giveUp('')
    if (this.#mode !== 'call' || name === null || !(hasArguments || isDone)) return false
    this.#isAnnounced = true
    this.#spaces = ''
    this.#raw = ''
    this.#calls.push({ index: this.#numCalls, id: newId(), name, arguments: hasArguments ? '' : '{}' })
    this.#numCalls++
    return true
  }

  /** More of the arguments of the call that was announced last. */
  #pass(piece: string): void {
    if (piece === '') return
    const last = this.#calls.pop()
    if (last !== undefined && last.index === this.#numCalls - 1) {
      this.#calls.push({ ...last, arguments: last.arguments + piece })
      return
    }
    if (last !== undefined) this.#calls.push(last)
    this.#calls.push({ index: this.#numCalls - 1, id: null, name: null, arguments: piece })
  }

  #endCall(character: string): void {
    this.#numComplete++
    this.#mode = 'after'
    if (character !== '') this.#step(character)
  }

  /** What looked like a call is content; the character that showed it may begin another. */
  #giveUp(character: string): void {
    this.#mode = 'content'
    this.#content(this.#raw)
    this.#raw = ''
    if (character !== '') this.#step(character)
  }

  #readAfter(character: string): void {
    const { end, separator, isList } = this.#options.format
    if (isSpace(character) && this.#partial === '') {
      this.#spaces += character
      return
    }
    if (character === separator) return this.#beginCall(separator)
    const candidate = this.#partial + character
    this.#partial = ''
    if (isList ? character === ']' : end !== '' && candidate === end) {
      this.#mode = 'content'
      this.#spaces = ''
    } else if (end.startsWith(candidate)) this.#partial = candidate
    else {
      this.#mode = 'content'
      for (const again of candidate) this.#step(again)
    }
  }

  #readRest(character: string): void {
    const { end } = this.#options.format
    const released = end === '' ? character : this.#match(character, end)
    if (released !== null) return this.#pass(released)
    this.#numComplete++
    this.#mode = 'content'
  }

  /** Looks for a mark: null when it is complete, else what can no longer belong to it. */
  #match(character: string, mark: string): string | null {
    const candidate = this.#partial + character
    let start = 0
    while (!mark.startsWith(candidate.slice(start))) start++
    this.#partial = candidate.slice(start)
    if (this.#partial !== mark) return candidate.slice(0, start)
    this.#partial = ''
    return null
  }

  #content(text: string): void {
    const solid = text.trimEnd()
    if (solid !== '') {
      this.#text += this.#spaces + solid
      this.#spaces = ''
      this.#hasContent = true
    }
    this.#spaces += text.slice(solid.length)
  }
}

const isSpace = (character: string): boolean => /\s/.test(character)
