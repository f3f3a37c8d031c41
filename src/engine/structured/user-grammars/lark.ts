/** Parses grammars in Lark's notation (https://lark-parser.readthedocs.io/en/stable/grammar.html). */
import { intersect } from '../patterns/automaton.ts'
import { anyCase, codePoints } from '../patterns/code-points.ts'
import { MAX_REPETITIONS, type NamedRule, type Syntax } from './grammar-syntax.ts'
import { fullMatch } from '../patterns/regex-anchors.ts'
import { literal, parseRegex, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { Unenforceable } from '../unenforceable.ts'

/** The terminals that `%import common.NAME` can import. */
const COMMON: ReadonlyMap<string, string> = new Map([
  ['DIGIT', '[0-9]'],
  ['HEXDIGIT', '[0-9a-fA-F]'],
  ['INT', '[0-9]+'],
  ['SIGNED_INT', '[+-]?[0-9]+'],
  ['DECIMAL', '[0-9]+\\.[0-9]*|\\.[0-9]+'],
  ['FLOAT', '[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\\.[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?'],
  ['NUMBER', '(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?'],
  ['SIGNED_FLOAT', '[+-]?(?:[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\\.[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?)'],
  ['SIGNED_NUMBER', '[+-]?(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?'],
  ['LCASE_LETTER', '[a-z]'],
  ['UCASE_LETTER', '[A-Z]'],
  ['LETTER', '[A-Za-z]'],
  ['WORD', '[A-Za-z]+'],
  ['CNAME', '[_A-Za-z][_A-Za-z0-9]*'],
  ['ESCAPED_STRING', '"(?:[^"\\\\\\n]|\\\\.)*"'],
  ['WS_INLINE', '[ \\t]+'],
  ['WS', '[ \\t\\f\\r\\n]+'],
  ['NEWLINE', '(?:\\r?\\n)+'],
  ['CR', '\\r'],
  ['LF', '\\n'],
])
const RULE = /^[ \t]*[?!]?(_?[A-Za-z]\w*)(?:\.-?\d+)?[ \t]*:(?!:)/

/** Whether a grammar is written in Lark's notation rather than EBNF. */
export function isLark(text: string): boolean {
  return !text.includes('::=') && text.split('\n').some((line) => RULE.test(line))
}

interface Token {
  readonly kind: 'name' | 'string' | 'regex' | 'number' | 'mark'
  readonly text: string
  readonly line: number
}

interface LarkRule {
  readonly name: string
  readonly line: number
  readonly tokens: Token[]
}

/** Parses a grammar into its rules and terminals. @throws Unenforceable naming the line */
export function parseLark(text: string): {
  readonly rules: ReadonlyMap<string, NamedRule>
  readonly warnings: readonly string[]
} {
  const { rules, imports, isIgnoring } = read(text)
  const named = new Map<string, NamedRule>()
  for (const [name, pattern] of imports) named.set(name, { body: terminal(parseRegex(pattern)), line: 1 })
  for (const { name, line, tokens } of rules) named.set(name, { body: new Expansion(tokens, line).parse(), line })
  const warnings = isIgnoring ? ['"%ignore": what is ignored is never written'] : []
  return { rules: named, warnings }
}

function read(text: string) {
  const rules: LarkRule[] = []
  const imports = new Map<string, string>()
  let isIgnoring = false
  for (const [i, line] of text.split('\n').entries()) {
    const directive = /^\s*%(\w+)\s*(.*)$/.exec(line)
    const begun = RULE.exec(line)
    if (directive !== null) {
      if (directive[1] === 'import') addImports(directive[2] ?? '', i + 1, imports)
      else if (directive[1] === 'ignore') isIgnoring = true
      // Options of the llguidance engine, which do not change the language.
      else if (directive[1] === 'llguidance') continue
      else throw new Unenforceable(`a directive that is not known in line ${i + 1}`)
    } else if (begun !== null && !(rules.at(-1) && isOpen(rules.at(-1)?.tokens ?? []))) {
      rules.push({ name: begun[1] ?? '', line: i + 1, tokens: tokenize(line.slice(begun[0].length), i + 1) })
    } else {
      const tokens = tokenize(line, i + 1)
      if (tokens.length > 0 && rules.length === 0) throw new Unenforceable(`no rule at its beginning in line ${i + 1}`)
      rules.at(-1)?.tokens.push(...tokens)
    }
  }
  return { rules, imports, isIgnoring }
}

function isOpen(tokens: readonly Token[]): boolean {
  const depth = tokens.reduce((sum, { kind, text }) => sum + (kind !== 'mark' ? 0 : '(['.includes(text) ? 1 : ')]'.includes(text) ? -1 : 0), 0) // prettier-ignore
  return depth > 0
}

function addImports(what: string, line: number, imports: Map<string, string>): void {
  const one = /^common\.(\w+)(?:\s*->\s*(\w+))?\s*(?:\/\/.*)?$/.exec(what)
  const many = /^common\s*\(([\w\s,]+)\)\s*(?:\/\/.*)?$/.exec(what)
  const wanted = one !== null ? [[one[1] ?? '', one[2] ?? one[1] ?? '']] : (many?.[1] ?? '').split(',').map((name) => [name.trim(), name.trim()]) // prettier-ignore
  for (const [name = '', alias = ''] of wanted) {
    const pattern = COMMON.get(name)
    if (pattern === undefined)
      throw new Unenforceable(`"%import" of what is not among the known terminals of "common" in line ${line}`)
    imports.set(alias, pattern)
  }
}

const TOKEN =
  /\s+|(?<comment>\/\/.*|#.*)|(?<string>"(?:\\.|[^"\\])*"i?)|(?<regex>\/(?!\/)(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\])+\/[a-z]*)|(?<name>_?[A-Za-z]\w*)|(?<number>\d+)|(?<mark>\.\.|->|[()[\]|*+?~])/y

function tokenize(text: string, line: number): Token[] {
  const tokens: Token[] = []
  for (let at = 0; at < text.length;) {
    TOKEN.lastIndex = at
    const found = TOKEN.exec(text)
    if (found === null) throw new Unenforceable(`a character that Lark's notation does not have here in line ${line}`)
    at += found[0].length
    const { string, regex, name, number, mark } = found.groups ?? {}
    if (string !== undefined) tokens.push({ kind: 'string', text: string, line })
    else if (regex !== undefined) tokens.push({ kind: 'regex', text: regex, line })
    else if (name !== undefined) tokens.push({ kind: 'name', text: name, line })
    else if (number !== undefined) tokens.push({ kind: 'number', text: number, line })
    else if (mark !== undefined) tokens.push({ kind: 'mark', text: mark, line })
  }
  return tokens
}

/** Parses the right side of one rule. */
class Expansion {
  readonly #tokens: readonly Token[]
  #line: number
  #at = 0

  constructor(tokens: readonly Token[], line: number) {
    this.#tokens = tokens
    this.#line = line
  }

  parse(): Syntax {
    const body = this.#choice()
    if (this.#at < this.#tokens.length) throw this.#error('a bracket without its other half')
    return body
  }

  #error(what: string): Unenforceable {
    return new Unenforceable(`${what} in line ${this.#tokens[this.#at]?.line ?? this.#line}`)
  }

  #isMark(text: string): boolean {
    const token = this.#tokens[this.#at]
    return token?.kind === 'mark' && token.text === text
  }

  #take(text: string): boolean {
    const found = this.#isMark(text)
    if (found) this.#at++
    return found
  }

  #choice(): Syntax {
    const parts = [this.#sequence()]
    while (this.#take('|')) parts.push(this.#sequence())
    return parts.length === 1 ? (parts[0] ?? EMPTY) : { kind: 'choice', parts }
  }

  #sequence(): Syntax {
    const parts: Syntax[] = []
    while (this.#at < this.#tokens.length && !['|', ')', ']', '->'].some((mark) => this.#isMark(mark)))
      parts.push(this.#repeated(this.#atom()))
    // The alias of an alternative only names a node of Lark's parse tree.
    if (this.#take('->')) this.#at++
    return { kind: 'sequence', parts }
  }

  #repeated(of: Syntax): Syntax {
    if (this.#take('*')) return { kind: 'repeat', of, min: 0, max: Infinity }
    if (this.#take('+')) return { kind: 'repeat', of, min: 1, max: Infinity }
    if (this.#take('?')) return { kind: 'repeat', of, min: 0, max: 1 }
    if (!this.#take('~')) return of
    const min = this.#number()
    const max = this.#take('..') ? this.#number() : min
    if (max < min) throw this.#error('a repetition that ends before it begins')
    if (max > MAX_REPETITIONS) throw this.#error(`a repetition ~n..m of more than ${MAX_REPETITIONS}`)
    return { kind: 'repeat', of, min, max }
  }

  #number(): number {
    const token = this.#tokens[this.#at]
    if (token?.kind !== 'number') throw this.#error('a count is expected')
    this.#at++
    return Number(token.text)
  }

  #atom(): Syntax {
    const token = this.#tokens[this.#at]
    if (token === undefined) throw this.#error('something to match is expected')
    this.#line = token.line
    if (this.#take('(')) return this.#closed(')')
    if (this.#take('[')) return { kind: 'repeat', of: this.#closed(']'), min: 0, max: 1 }
    this.#at++
    switch (token.kind) {
      case 'string': {
        const value = stringOf(token.text)
        if (this.#take('..')) return this.#range(value)
        return terminal(token.text.endsWith('i') ? literal(value, anyCase) : literal(value))
      }
      case 'regex':
        return this.#pattern(token.text)
      case 'name':
        return { kind: 'name', name: token.text, line: token.line }
      default:
        throw this.#error('something to match is expected')
    }
  }

  #closed(mark: string): Syntax {
    const inner = this.#choice()
    if (!this.#take(mark)) throw this.#error('a bracket without its other half')
    return inner
  }

  #range(low: string): Syntax {
    const token = this.#tokens[this.#at]
    const high = token?.kind === 'string' ? stringOf(token.text) : ''
    this.#at++
    const [from, to] = [low.codePointAt(0) ?? 1, high.codePointAt(0) ?? 0]
    if (from > to || Array.from(low + high).length !== 2)
      throw this.#error('a range between two characters is expected')
    return terminal(set(codePoints([[from, to]])))
  }

  #pattern(text: string): Syntax {
    const end = text.lastIndexOf('/')
    const flags = text.slice(end + 1)
    if (/[^ims]/.test(flags)) throw this.#error('a flag of a pattern that is not known')
    try {
      return terminal(parseRegex(text.slice(1, end), { isAnyCase: flags.includes('i'), isDotAll: flags.includes('s') }))
    } catch (error) {
      if (error instanceof Unenforceable) throw this.#error(error.message)
      throw error
    }
  }
}

const EMPTY: Syntax = { kind: 'sequence', parts: [] }

function terminal(pattern: Regex): Syntax {
  const automaton = intersect([fullMatch(pattern)])
  if (automaton === null) throw new Unenforceable('a pattern that nothing matches')
  return { kind: 'terminal', of: automaton }
}

function stringOf(token: string): string {
  const inner = token.slice(1, token.lastIndexOf('"'))
  return inner.replace(/\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))/gs, (_, x?: string, u?: string, name = '') => {
    const hex = x ?? u
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    return { n: '\n', r: '\r', t: '\t', f: '\f', v: '\v' }[String(name)] ?? String(name)
  })
}
