/**
 * Splits a model's text into content and function calls while it arrives. The result does not depend on where the pieces are cut. Text becomes
 * a call when it names a function that was offered and its arguments have begun, or it is complete; any other text stays content, unchanged.
 * Once a call is recognised, its arguments are passed on as the model writes them, valid JSON or not, as in OpenAI's API.
 */
import { isSpace } from '../markers.ts'
import type { ToolCallDelta } from '../request.ts'
import type { CallScanner } from './call-scanner.ts'
import { JsonCallScanner } from './json-call-scanner.ts'
import { LiteralCallScanner } from './literal-call-scanner.ts'
import { NamedCallScanner } from './named-call-scanner.ts'
import { TaggedCallScanner } from './tagged-call-scanner.ts'
import type { CallBody, ToolCallFormat } from './tool-call-format.ts'

interface ToolCallParserOptions {
  readonly format: ToolCallFormat
  /** The functions that were offered, with the schemas of their arguments. */
  readonly functions: ReadonlyMap<string, unknown>
  /** Creates a call's id from its function and the number of calls before it. */
  readonly newId: (name: string, numBefore: number) => string
}

/** What a piece of text yielded. */
interface ParsedText {
  readonly text: string
  readonly calls: readonly ToolCallDelta[]
}

/**
 * `content`: looks for a call. `opening`: in the markers before a call. `call`: in a call. `after`: after a call, where end markers, a
 * separator or another call may come. `rest`: in arguments that are not JSON, up to the format's end marker.
 */
type Mode = 'content' | 'opening' | 'call' | 'after' | 'rest'

/** Splits a choice's text into content and tool calls while it arrives. */
export class ToolCallParser {
  readonly #options: ToolCallParserOptions
  #mode: Mode = 'content'
  /** White space that is content if content follows, and is dropped beside a call. */
  #spaces = ''
  /** The beginning of a marker. */
  #partial = ''
  /** Everything since the call began, as long as it may still turn out to be content. */
  #raw = ''
  #scanner: CallScanner
  /** Markers before a call: those of all calls, then, from #numOuter on, those of each call. */
  readonly #openers: readonly string[]
  readonly #numOuter: number
  /** Markers after a call. */
  readonly #closers: readonly string[]
  /** How many of the markers before, or after, the call were read. */
  #numRead = 0
  /** Calls that have been announced. */
  #numCalls = 0
  /** The call being read has been announced. */
  #isAnnounced = false
  #numComplete = 0
  #hasContent = false
  #text = ''
  #calls: ToolCallDelta[] = []

  constructor(options: ToolCallParserOptions) {
    const { begin, callBegin, callEnd, end, body } = options.format
    this.#options = options
    this.#scanner = createScanner(body, (name) => options.functions.get(name))
    this.#openers = [...begin, ...callBegin].map((marker) => marker.trim())
    this.#numOuter = begin.length
    this.#closers = [...callEnd, ...end].map((marker) => marker.trim())
  }

  /** Inside a recognised call. */
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

  /** Ends the text: what was held back is content, unless it belongs to a call. */
  flush(): ParsedText {
    if (this.#mode === 'rest') this.#pass(this.#partial)
    else if (this.#mode === 'opening' || (this.#mode === 'call' && !this.#isAnnounced))
      this.#content(this.#raw + this.#partial)
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
      case 'opening':
        return this.#readOpening(character)
      case 'call':
        return this.#readCall(character)
      case 'after':
        return this.#readAfter(character)
      case 'rest':
        return this.#readRest(character)
    }
  }

  #readContent(character: string): void {
    const { isBare } = this.#options.format
    if (isBare && character === '{' && this.#partial === '' && !this.#hasContent && this.#numCalls === 0) {
      this.#beginCall('')
      this.#readCall(character)
      return
    }
    const { released, marker } = this.#match(character, this.#beginnings)
    this.#content(released)
    if (marker !== null) this.#open(marker)
  }

  /** Markers that a call may begin with: the first one of all calls or, if that is missing, the first one of each call. */
  get #beginnings(): readonly string[] {
    return [this.#openers[0], this.#openers[this.#numOuter]].filter((marker) => marker !== undefined)
  }

  #open(marker: string): void {
    this.#raw = marker
    this.#numRead = (marker === this.#openers[0] ? 0 : this.#numOuter) + 1
    if (this.#numRead === this.#openers.length) this.#beginCall(marker)
    else this.#mode = 'opening'
  }

  #readOpening(character: string): void {
    const marker = this.#openers[this.#numRead] ?? ''
    if (isSpace(character) && this.#partial === '') this.#raw += character
    else if (marker.startsWith(this.#partial + character)) {
      this.#partial += character
      if (this.#partial !== marker) return
      this.#raw += marker
      this.#partial = ''
      this.#numRead++
      if (this.#numRead === this.#openers.length) this.#beginCall(this.#raw)
    } else {
      this.#raw += this.#partial
      this.#partial = ''
      this.#giveUp(character)
    }
  }

  #beginCall(raw: string): void {
    const { format, functions } = this.#options
    this.#mode = 'call'
    this.#raw = raw
    this.#scanner = createScanner(format.body, (name) => functions.get(name))
    this.#isAnnounced = false
  }

  #readCall(character: string): void {
    const scanner = this.#scanner
    if (!scanner.push(character)) {
      if (!this.#isAnnounced) this.#giveUp(character)
      else if (scanner.isInArguments) {
        this.#mode = 'rest'
        this.#pass(scanner.takeArguments())
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

  /** Announces the call once it is recognised. False: it is not recognised yet, or is not a call. */
  #announce(): boolean {
    const { name, hasArguments, isDone } = this.#scanner
    const { functions, newId } = this.#options
    if (name === null ? isDone : !functions.has(name)) this.#giveUp('')
    if (this.#mode !== 'call' || name === null || !(hasArguments || isDone)) return false
    this.#isAnnounced = true
    this.#spaces = ''
    this.#raw = ''
    this.#calls.push({
      index: this.#numCalls,
      id: newId(name, this.#numCalls),
      name,
      arguments: hasArguments ? '' : '{}',
    })
    this.#numCalls++
    return true
  }

  /** Passes on more arguments of the call that was announced last. */
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
    this.#numRead = 0
    if (character !== '') this.#step(character)
  }

  /** What looked like a call is content. The character that revealed it may begin another call. */
  #giveUp(character: string): void {
    this.#mode = 'content'
    this.#content(this.#raw)
    this.#raw = ''
    if (character !== '') this.#step(character)
  }

  #readAfter(character: string): void {
    const separator = this.#options.format.separator.trim()
    if (isSpace(character) && this.#partial === '') {
      this.#spaces += character
      return
    }
    const closers = this.#closers.slice(this.#numRead)
    const candidate = this.#partial + character
    this.#partial = ''
    if (closers.includes(candidate)) {
      this.#numRead += closers.indexOf(candidate) + 1
      this.#spaces = ''
      if (this.#numRead === this.#closers.length) this.#mode = 'content'
    } else if (this.#openers.length > 0 && this.#beginnings.includes(candidate)) this.#open(candidate)
    else if (separator !== '' && candidate === separator) this.#openNext(candidate)
    else if ([...closers, ...this.#beginnings].some((marker) => marker.startsWith(candidate))) this.#partial = candidate
    else {
      this.#mode = 'content'
      for (const again of candidate) this.#step(again)
    }
  }

  /** Another call follows the separator. */
  #openNext(separator: string): void {
    this.#numRead = this.#numOuter
    if (this.#numRead === this.#openers.length) return this.#beginCall(separator)
    this.#raw = separator
    this.#mode = 'opening'
  }

  #readRest(character: string): void {
    const [end] = this.#closers.filter((marker) => marker.length > 1)
    if (end === undefined) return this.#pass(character)
    const { released, marker } = this.#match(character, [end])
    this.#pass(released)
    if (marker === null) return
    this.#numComplete++
    this.#mode = 'content'
  }

  /** Looks for the markers. Returns the text that can no longer belong to one, and the marker that is complete. */
  #match(character: string, markers: readonly string[]): { readonly released: string; readonly marker: string | null } {
    const candidate = this.#partial + character
    let start = 0
    while (start < candidate.length && !markers.some((marker) => marker.startsWith(candidate.slice(start)))) start++
    this.#partial = candidate.slice(start)
    const found = markers.includes(this.#partial) ? this.#partial : null
    if (found !== null) this.#partial = ''
    return { released: candidate.slice(0, start), marker: found }
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

/** @param parametersOf the schema of a function's arguments, by its name */
function createScanner(body: CallBody, parametersOf: (name: string) => unknown): CallScanner {
  switch (body.kind) {
    case 'object':
      return new JsonCallScanner()
    case 'named':
      return new NamedCallScanner(body)
    case 'tagged':
      return new TaggedCallScanner(body, parametersOf)
    case 'literal':
      return new LiteralCallScanner(body)
  }
}
