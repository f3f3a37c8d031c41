/** Splits a template into tokens, with trim_blocks and lstrip_blocks as in transformers. */
import { TemplateFault } from './errors.ts'
import { SPACE, stripEnd } from './white-space.ts'

type TokenKind =
  'data' | 'variable_begin' | 'variable_end' | 'block_begin' | 'block_end' | 'name' | 'string' | 'number' | 'operator' | 'end' // prettier-ignore

export interface Token {
  readonly kind: TokenKind
  readonly value: string
  readonly line: number
}

const S = `[${SPACE}]*`

const BEGIN = new RegExp(`\\{%([-+]?)${S}raw${S}(?:-%\\}${S}|%\\})|(\\{\\{|\\{%|\\{#)([-+]?)`, 'g')
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${S}|#\\}\\n?`, 'g')
const RAW_END = new RegExp(`\\{%([-+]?)${S}endraw${S}(?:\\+%\\}|-%\\}${S}|%\\}\\n?)`, 'g')
const VARIABLE_END = new RegExp(`-\\}\\}${S}|\\}\\}`, 'y')
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${S}|%\\}\\n?`, 'y')
const WHITESPACE = new RegExp(`[${SPACE}]+`, 'y')
const FLOAT = /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/y
const INTEGER = /0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\da-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*/y
const NAME = /[\p{L}\p{Nl}_][\p{L}\p{M}\p{N}\p{Pc}]*/uy
const STRING = /'(?:[^'\\]|\\[^])*'|"(?:[^"\\]|\\[^])*"/y
const OPERATOR = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]/y
const CLOSERS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' }

/** The tokens of a template. @throws TemplateFault naming the line */
export function tokenize(source: string): Token[] {
  return new Lexer(source).tokenize()
}

class Lexer {
  readonly #source: string
  readonly #tokens: Token[] = []
  #at = 0
  #line = 1
  /** The last thing read ended a line, or nothing has been read. */
  #isLineStart = true

  constructor(source: string) {
    const lines = source.replaceAll(/\r\n?/g, '\n')
    this.#source = lines.endsWith('\n') ? lines.slice(0, -1) : lines
  }

  tokenize(): Token[] {
    for (;;) {
      BEGIN.lastIndex = this.#at
      const begin = BEGIN.exec(this.#source)
      if (begin === null) {
        this.#push('data', this.#source.slice(this.#at))
        this.#push('end', '')
        return this.#tokens
      }
      const [text, rawSign, opener, openSign] = begin
      const data = this.#source.slice(this.#at, begin.index)
      this.#push('data', this.#strip(data, rawSign ?? openSign ?? '', opener === '{{'))
      this.#move(data + text)
      if (opener === undefined) this.#readRaw()
      else if (opener === '{#') this.#move(this.#upTo(COMMENT_END, 'comment').all)
      else this.#readTag(opener === '{{')
    }
  }

  /** Strips data before a tag: `-` removes all white space; without `+`, a tag that is first in its line removes its indentation. */
  #strip(data: string, sign: string, isVariable: boolean): string {
    if (sign === '-') return stripEnd(data)
    if (sign === '+' || isVariable) return data
    const lineStart = data.lastIndexOf('\n') + 1
    return (lineStart > 0 || this.#isLineStart) && stripEnd(data.slice(lineStart)) === ''
      ? data.slice(0, lineStart)
      : data
  }

  #readRaw(): void {
    const { all, before, sign } = this.#upTo(RAW_END, 'raw')
    this.#push('data', this.#strip(before, sign, false))
    this.#move(all)
  }

  #upTo(pattern: RegExp, what: string): { readonly all: string; readonly before: string; readonly sign: string } {
    pattern.lastIndex = this.#at
    const end = pattern.exec(this.#source)
    if (end === null) throw this.#fault(`the end of a ${what} is missing`)
    const before = this.#source.slice(this.#at, end.index)
    return { all: before + end[0], before, sign: end[1] ?? '' }
  }

  #readTag(isVariable: boolean): void {
    this.#push(isVariable ? 'variable_begin' : 'block_begin', '')
    const open: string[] = []
    for (;;) {
      const end = open.length > 0 ? null : this.#match(isVariable ? VARIABLE_END : BLOCK_END)
      if (end !== null) {
        this.#push(isVariable ? 'variable_end' : 'block_end', '')
        this.#move(end)
        return
      }
      const space = this.#match(WHITESPACE)
      if (space === null) this.#readToken(open)
      else this.#move(space)
    }
  }

  #readToken(open: string[]): void {
    const number = this.#match(FLOAT) ?? this.#match(INTEGER)
    if (number !== null) return this.#take('number', number, number.replaceAll('_', ''))
    const name = this.#match(NAME)
    if (name !== null) return this.#take('name', name, name)
    const string = this.#match(STRING)
    if (string !== null) return this.#take('string', string, unescaped(string.slice(1, -1)))
    const operator = this.#match(OPERATOR)
    if (operator === null) {
      const found = this.#at >= this.#source.length ? 'the end of the template' : 'a character that begins nothing'
      throw this.#fault(`expected the rest of a tag, found ${found}`)
    }
    const closer = CLOSERS[operator]
    if (closer !== undefined) open.push(closer)
    else if (')]}'.includes(operator) && open.pop() !== operator) throw this.#fault(`unexpected '${operator}'`)
    this.#take('operator', operator, operator)
  }

  #match(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at
    return pattern.exec(this.#source)?.[0] ?? null
  }

  #take(kind: TokenKind, text: string, value: string): void {
    this.#push(kind, value)
    this.#move(text)
  }

  #push(kind: TokenKind, value: string): void {
    if (kind === 'data' && value === '') return
    this.#tokens.push({ kind, value, line: this.#line })
  }

  #move(text: string): void {
    this.#at += text.length
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) this.#line++
    this.#isLineStart = text.endsWith('\n')
  }

  #fault(message: string): TemplateFault {
    return new TemplateFault(`line ${this.#line}: ${message}`)
  }
}

const SIMPLE: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
}

/** Resolves Python's escapes. Unknown ones stay unchanged. */
function unescaped(text: string): string {
  return text.replaceAll(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([^]))/g,
    (whole, ...groups) => {
      const [byte, unit, point, octal, simple] = groups as (string | undefined)[]
      const digits = byte ?? unit ?? point
      if (digits !== undefined) return String.fromCodePoint(Math.min(Number.parseInt(digits, 16), 0x10ffff))
      if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8))
      return SIMPLE[simple ?? ''] ?? whole
    },
  )
}
