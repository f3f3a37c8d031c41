/** Parses ECMAScript regular expressions into trees. */
import {
  ANY_BUT_LINE_END,
  anyCase,
  codePoints,
  complement,
  DIGIT,
  EVERY,
  singleton,
  WHITE_SPACE,
  unicodeProperty,
  WORD,
} from './code-points.ts'
import type { CodePoints } from './code-points.ts'
import { Unenforceable } from '../unenforceable.ts'

export type Regex =
  | { readonly kind: 'set'; readonly set: CodePoints }
  | { readonly kind: 'sequence'; readonly parts: readonly Regex[] }
  | { readonly kind: 'choice'; readonly parts: readonly Regex[] }
  /** `max` may be Infinity. */
  | { readonly kind: 'repeat'; readonly of: Regex; readonly min: number; readonly max: number }
  | { readonly kind: 'start' }
  | { readonly kind: 'end' }
  /** What follows, to the end of the text, begins with `ahead`, or does not. */
  | { readonly kind: 'look'; readonly ahead: Regex; readonly isNegated: boolean }

export const EMPTY: Regex = { kind: 'sequence', parts: [] }
export const ANYTHING: Regex = { kind: 'repeat', of: { kind: 'set', set: EVERY }, min: 0, max: Infinity }

/** Limit on the characters of a pattern with its repetitions expanded. Longer ones would take minutes to compile. */
const MAX_POSITIONS = 20_000
const MAX_DEPTH = 200

/** One character of the set. */
export function set(codes: CodePoints): Regex {
  return { kind: 'set', set: codes }
}

/** The parts one after the other. */
export function sequence(...parts: readonly Regex[]): Regex {
  return parts.length === 1 ? (parts[0] ?? EMPTY) : { kind: 'sequence', parts }
}

/** Any one of the parts. */
export function choice(...parts: readonly Regex[]): Regex {
  return parts.length === 1 ? (parts[0] ?? EMPTY) : { kind: 'choice', parts }
}

/** `min` to `max` repetitions. `max` may be Infinity. */
export function repeat(of: Regex, min: number, max: number): Regex {
  return { kind: 'repeat', of, min, max }
}

/** `change` is applied to each character. */
export function literal(text: string, change = (codes: CodePoints) => codes): Regex {
  return sequence(...Array.from(text, (character) => set(change(singleton(character.codePointAt(0) ?? 0)))))
}

interface RegexFlags {
  /** Letters match in upper and lower case. */
  readonly isAnyCase: boolean
  /** `.` matches line ends too. */
  readonly isDotAll: boolean
}

const NO_FLAGS: RegexFlags = { isAnyCase: false, isDotAll: false }

/** @throws Unenforceable */
export function parseRegex(pattern: string, flags: Partial<RegexFlags> = {}): Regex {
  const parsed = new Parser(pattern, { ...NO_FLAGS, ...flags }).parse()
  checkSize(parsed)
  return parsed
}

function checkSize(tree: Regex): void {
  if (positions(tree) > MAX_POSITIONS)
    throw new Unenforceable(`repetitions that make it longer than ${MAX_POSITIONS} characters`)
}

/** Characters of a tree, repetitions written out. */
export function positions(node: Regex): number {
  switch (node.kind) {
    case 'sequence':
    case 'choice':
      return node.parts.reduce((sum, part) => sum + positions(part), 0)
    case 'repeat':
      return positions(node.of) * Math.max(1, node.min, Number.isFinite(node.max) ? node.max : 0)
    case 'look':
      return positions(node.ahead)
    default:
      return 1
  }
}

/** Bounds on the characters of the texts that a tree matches as a whole; what its look-aheads ask for is ignored. */
export function lengthsOf(node: Regex): { readonly least: number; readonly most: number } {
  switch (node.kind) {
    case 'set':
      return { least: 1, most: 1 }
    case 'sequence': {
      const parts = node.parts.map(lengthsOf)
      const total = (bound: 'least' | 'most') => parts.reduce((sum, part) => sum + part[bound], 0)
      return { least: total('least'), most: total('most') }
    }
    case 'choice': {
      const parts = node.parts.map(lengthsOf)
      return { least: Math.min(...parts.map(({ least }) => least)), most: Math.max(...parts.map(({ most }) => most)) }
    }
    case 'repeat': {
      const { least, most } = lengthsOf(node.of)
      return { least: least * node.min, most: most === 0 || node.max === 0 ? 0 : most * node.max }
    }
    default:
      return { least: 0, most: 0 }
  }
}

const CONTROLS: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, '0': 0x00 }

class Parser {
  readonly #characters: readonly string[]
  #at = 0
  #depth = 0
  #flags: RegexFlags

  constructor(pattern: string, flags: RegexFlags) {
    this.#characters = Array.from(pattern)
    this.#flags = flags
  }

  parse(): Regex {
    const whole = this.#choice()
    if (this.#at < this.#characters.length) throw new Unenforceable('a closing parenthesis without an opening one')
    return whole
  }

  get #next(): string | undefined {
    return this.#characters[this.#at]
  }

  #take(expected: string): boolean {
    if (!this.#follows(expected)) return false
    this.#at += expected.length
    return true
  }

  #follows(expected: string): boolean {
    for (let i = 0; i < expected.length; i++) if (this.#characters[this.#at + i] !== expected[i]) return false
    return true
  }

  #choice(): Regex {
    if (++this.#depth > MAX_DEPTH) throw new Unenforceable(`groups nested deeper than ${MAX_DEPTH}`)
    const parts = [this.#sequence()]
    while (this.#take('|')) parts.push(this.#sequence())
    this.#depth--
    return choice(...parts)
  }

  #sequence(): Regex {
    const parts: Regex[] = []
    for (let next = this.#next; next !== undefined && next !== '|' && next !== ')'; next = this.#next)
      parts.push(this.#quantified(this.#atom()))
    // Flags leave nothing behind; an anchor after them still stands at the beginning.
    return sequence(...parts.filter((part) => part !== EMPTY))
  }

  #quantified(atom: Regex): Regex {
    let [min, max] = [1, 1]
    const next = this.#next
    if (next === '*' || next === '+' || next === '?') {
      this.#at++
      min = next === '+' ? 1 : 0
      max = next === '?' ? 1 : Infinity
    } else if (next === '{') {
      const end = this.#characters.indexOf('}', this.#at)
      const inner = end < 0 || end - this.#at > 24 ? '' : this.#characters.slice(this.#at + 1, end).join('')
      const counts = /^(\d+)(,?)(\d*)$/.exec(inner)
      if (counts === null) throw new Unenforceable('"{" that begins no repetition (write "\\{")')
      this.#at = end + 1
      min = Number(counts[1])
      max = counts[2] === '' ? min : counts[3] === '' ? Infinity : Number(counts[3])
      if (max < min) throw new Unenforceable('a repetition whose end comes before its beginning')
    } else return atom
    if (atom.kind === 'start' || atom.kind === 'end' || atom.kind === 'look')
      throw new Unenforceable('a repetition of an anchor or a look-ahead')
    // A lazy quantifier changes what is found first, but not which texts match.
    this.#take('?')
    if (this.#next === '*' || this.#next === '+' || this.#next === '{')
      throw new Unenforceable('a repetition of a repetition')
    return repeat(atom, min, max)
  }

  #atom(): Regex {
    const character = this.#next ?? ''
    this.#at++
    switch (character) {
      case '(':
        return this.#group()
      case '[':
        return set(this.#class())
      case '.':
        return set(this.#flags.isDotAll ? EVERY : ANY_BUT_LINE_END)
      case '^':
        return { kind: 'start' }
      case '$':
        return { kind: 'end' }
      case '\\': {
        // The anchors of Python and Rust.
        if (this.#take('A')) return { kind: 'start' }
        if (this.#take('z') || this.#take('Z')) return { kind: 'end' }
        return set(this.#cased(this.#escape(false)))
      }
      case '*':
      case '+':
      case '?':
        throw new Unenforceable('a repetition of nothing')
      default:
        return set(this.#cased(singleton(character.codePointAt(0) ?? 0)))
    }
  }

  #cased(codes: CodePoints): CodePoints {
    return this.#flags.isAnyCase ? anyCase(codes) : codes
  }

  /** `(?i)`, for the rest of the group around it, and `(?i:…)`; null: it is neither. */
  #flagged(): Regex | null {
    const found = /^\?([is]*)(?:-([is]+))?([:)])/.exec(this.#characters.slice(this.#at, this.#at + 8).join(''))
    if (found === null || found[0] === '?)') return null
    const [whole, on = '', off = '', end] = found
    this.#at += whole.length
    const before = this.#flags
    const flag = (name: string, was: boolean) => (on.includes(name) || was) && !off.includes(name)
    this.#flags = { isAnyCase: flag('i', before.isAnyCase), isDotAll: flag('s', before.isDotAll) }
    if (end === ')') return EMPTY
    const inner = this.#choice()
    this.#flags = before
    if (!this.#take(')')) throw new Unenforceable('an opening parenthesis without a closing one')
    return inner
  }

  #group(): Regex {
    const flagged = this.#flagged()
    if (flagged !== null) return flagged
    const before = this.#flags
    const group = this.#plainGroup()
    this.#flags = before
    return group
  }

  #plainGroup(): Regex {
    let look: { readonly isNegated: boolean } | null = null
    if (this.#take('?=')) look = { isNegated: false }
    else if (this.#take('?!')) look = { isNegated: true }
    else if (this.#follows('?<=') || this.#follows('?<!')) throw new Unenforceable('a look-behind')
    else if (this.#take('?P<') || this.#take('?<')) {
      while (this.#next !== undefined && this.#next !== '>') this.#at++
      this.#at++
    } else if (this.#follows('?')) throw new Unenforceable('a group of this kind')
    const inner = this.#choice()
    if (!this.#take(')')) throw new Unenforceable('an opening parenthesis without a closing one')
    return look === null ? inner : { kind: 'look', ahead: inner, ...look }
  }

  #class(): CodePoints {
    const isNegated = this.#take('^')
    const ranges: (readonly [number, number])[] = []
    while (this.#next !== ']') {
      if (this.#next === undefined) throw new Unenforceable('a class without end')
      // ECMAScript reads it as single characters and the bracket after it as text, which nobody means.
      if (/^\[([:.=])\^?[a-z]+\1\]/.test(this.#characters.slice(this.#at, this.#at + 16).join('')))
        throw new Unenforceable('a class inside brackets and colons (write \\p{…}, \\d, \\w, \\s or a range)')
      const low = this.#member()
      if (this.#next === '-' && this.#characters[this.#at + 1] !== ']' && this.#at + 1 < this.#characters.length) {
        const lowCode = single(low)
        this.#at++
        const highCode = single(this.#member())
        if (lowCode === null || highCode === null) throw new Unenforceable('a range whose end is a class')
        if (highCode < lowCode) throw new Unenforceable('a range whose end comes before its beginning')
        ranges.push([lowCode, highCode])
      } else ranges.push(...low)
    }
    this.#at++
    const found = this.#cased(codePoints(ranges))
    return isNegated ? complement(found) : found
  }

  #member(): CodePoints {
    const character = this.#next ?? ''
    this.#at++
    return character === '\\' ? this.#escape(true) : singleton(character.codePointAt(0) ?? 0)
  }

  #escape(isInClass: boolean): CodePoints {
    const name = this.#next
    if (name === undefined) throw new Unenforceable('"\\" at its end')
    this.#at++
    switch (name) {
      case 'd':
        return DIGIT
      case 'D':
        return complement(DIGIT)
      case 'w':
        return WORD
      case 'W':
        return complement(WORD)
      case 's':
        return WHITE_SPACE
      case 'S':
        return complement(WHITE_SPACE)
      case 'x':
        return singleton(this.#hex(2, 2))
      case 'u':
        return singleton(this.#unicode())
      case 'p':
      case 'P':
        return this.#property(name === 'P')
      case 'c': {
        const letter = this.#next ?? ''
        this.#at++
        if (!/^[A-Za-z]$/.test(letter)) throw new Unenforceable('an escape of this name')
        return singleton(letter.charCodeAt(0) % 32)
      }
      case 'b':
        if (isInClass) return singleton(0x08)
        throw new Unenforceable('"\\b", a word boundary')
    }
    const control = CONTROLS[name]
    if (control !== undefined && !(name === '0' && /\d/.test(this.#next ?? ''))) return singleton(control)
    if (/\d/.test(name)) throw new Unenforceable('a reference to a group')
    if (/[\p{L}\p{N}]/u.test(name)) throw new Unenforceable('an escape of this name')
    return singleton(name.codePointAt(0) ?? 0)
  }

  #hex(least: number, most: number): number {
    const digits = /^[0-9a-fA-F]*/.exec(this.#characters.slice(this.#at, this.#at + most).join(''))?.[0] ?? ''
    if (digits.length < least) throw new Unenforceable('an escape with too few hexadecimal digits')
    this.#at += digits.length
    return Number.parseInt(digits, 16)
  }

  #unicode(): number {
    if (this.#take('{')) {
      const code = this.#hex(1, 6)
      if (!this.#take('}') || code > 0x10ffff) throw new Unenforceable('an escape of no character')
      return code
    }
    const high = this.#hex(4, 4)
    if (high < 0xd800 || high > 0xdbff || !this.#take('\\u')) return high
    const low = this.#hex(4, 4)
    return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
  }

  #property(isNegated: boolean): CodePoints {
    const end = this.#characters.indexOf('}', this.#at)
    const name = this.#take('{') && end > this.#at ? this.#characters.slice(this.#at, end).join('') : ''
    const found = /^[\w=]{1,64}$/.test(name) ? unicodeProperty(name) : null
    if (found === null) throw new Unenforceable('"\\p" of a property that is not known')
    this.#at = end + 1
    return isNegated ? complement(found) : found
  }
}

function single(codes: CodePoints): number | null {
  const [[from, to] = [0, 1]] = codes
  return codes.length === 1 && from === to ? from : null
}

/** Whether a match depends on the text after it. */
export function looksAhead(node: Regex): boolean {
  return containsKind(node, 'look', false) || containsKind(node, 'end', false)
}

/** Whether the pattern matches the empty text. */
export function isNullable(node: Regex): boolean {
  switch (node.kind) {
    case 'set':
      return false
    case 'sequence':
      return node.parts.every(isNullable)
    case 'choice':
      return node.parts.some(isNullable)
    case 'repeat':
      return node.min === 0 || isNullable(node.of)
    default:
      return true
  }
}

/** Whether the tree contains a node of this kind. @param withinLooks also search in look-aheads */
export function containsKind(node: Regex, kind: Regex['kind'], withinLooks: boolean): boolean {
  if (node.kind === kind) return true
  const inner = (part: Regex) => containsKind(part, kind, withinLooks)
  if (node.kind === 'sequence' || node.kind === 'choice') return node.parts.some(inner)
  if (node.kind === 'repeat') return inner(node.of)
  return node.kind === 'look' && withinLooks && inner(node.ahead)
}
