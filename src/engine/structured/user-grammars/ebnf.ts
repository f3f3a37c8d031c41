/** Parses EBNF in the notation of llama.cpp (GBNF) and XGrammar: `root ::= "a" rule [0-9]+ ("b" | "c")? # comment`. */
import { intersect } from '../patterns/automaton.ts'
import { codePoints, complement, EVERY } from '../patterns/code-points.ts'
import type { CodePoints } from '../patterns/code-points.ts'
import { MAX_REPETITIONS, type NamedRule, type Syntax } from './grammar-syntax.ts'
import { literal, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { Unenforceable } from '../unenforceable.ts'

interface Token {
  readonly kind: 'name' | 'string' | 'class' | 'count' | 'mark'
  readonly text: string
  readonly line: number
}

const TOKEN =
  /(?<space>\s+|#[^\n]*)|(?<string>"(?:\\[^\n]|[^"\\\n])*")|(?<class>\[\^?(?:\\[^\n]|[^\\\]\n])*\])|(?<name>[A-Za-z_][\w-]*)|(?<count>\{\s*\d*\s*,?\s*\d*\s*\})|(?<mark>::=|[()|*+?.])/y
const MAX_DEPTH = 200

/** Parses a grammar into its rules. @throws Unenforceable naming the line */
export function parseEbnf(source: string): ReadonlyMap<string, NamedRule> {
  const rules = new Map<string, NamedRule>()
  const tokens = tokenize(source)
  let at = 0
  const fail = (what: string): never => {
    throw new Unenforceable(`${what} in line ${tokens[Math.min(at, tokens.length - 1)]?.line ?? 1}`)
  }
  const isMark = (text: string, offset = 0) =>
    tokens[at + offset]?.kind === 'mark' && tokens[at + offset]?.text === text
  const choice = (depth: number): Syntax => {
    if (depth > MAX_DEPTH) fail(`groups nested deeper than ${MAX_DEPTH}`)
    const parts = [sequence(depth)]
    while (isMark('|')) {
      at++
      parts.push(sequence(depth))
    }
    return parts.length === 1 ? (parts[0] ?? { kind: 'sequence', parts: [] }) : { kind: 'choice', parts }
  }
  const sequence = (depth: number): Syntax => {
    const parts: Syntax[] = []
    // A name followed by "::=" begins the next rule.
    while (at < tokens.length && !isMark('|') && !isMark(')') && !(tokens[at]?.kind === 'name' && isMark('::=', 1)))
      parts.push(repeated(element(depth)))
    return { kind: 'sequence', parts }
  }
  const element = (depth: number): Syntax => {
    const token = tokens[at]
    if (token === undefined) return fail('something to match is expected')
    if (isMark('(')) {
      at++
      const inner = choice(depth + 1)
      if (!isMark(')')) fail('an opening parenthesis without a closing one')
      at++
      return inner
    }
    if (token.kind === 'string') {
      at++
      return terminal(literal(stringOf(token)))
    }
    if (token.kind === 'class' || isMark('.')) {
      at++
      return terminal(set(token.kind === 'class' ? classOf(token) : EVERY))
    }
    if (token.kind !== 'name') return fail('something to match is expected')
    at++
    return { kind: 'name', name: token.text, line: token.line }
  }
  const repeated = (of: Syntax): Syntax => {
    let node = of
    for (;;) {
      const token = tokens[at]
      if (token?.kind === 'count') {
        const [, least = '', comma = '', most = ''] = /^\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}$/.exec(token.text) ?? []
        const min = Number(least)
        const max = comma === '' ? min : most === '' ? Infinity : Number(most)
        if (max < min) fail('a repetition that ends before it begins')
        if ((max > MAX_REPETITIONS && max !== Infinity) || min > MAX_REPETITIONS)
          fail(`a repetition {n,m} of more than ${MAX_REPETITIONS}`)
        node = { kind: 'repeat', of: node, min, max }
      } else if (isMark('*')) node = { kind: 'repeat', of: node, min: 0, max: Infinity }
      else if (isMark('+')) node = { kind: 'repeat', of: node, min: 1, max: Infinity }
      else if (isMark('?')) node = { kind: 'repeat', of: node, min: 0, max: 1 }
      else return node
      at++
    }
  }
  while (at < tokens.length) {
    const name = tokens[at]
    if (name?.kind !== 'name' || !isMark('::=', 1)) return fail('a rule, as in name ::= "text", is expected')
    at += 2
    rules.set(name.text, { body: choice(0), line: name.line })
  }
  return rules
}

function tokenize(source: string): Token[] {
  const tokens: Token[] = []
  let line = 1
  for (let at = 0; at < source.length;) {
    TOKEN.lastIndex = at
    const found = TOKEN.exec(source)
    if (found === null) throw new Unenforceable(`a string, a class or a character that cannot be read in line ${line}`)
    const { string, class: klass, name, count, mark } = found.groups ?? {}
    const [text] = found
    if (string !== undefined) tokens.push({ kind: 'string', text, line })
    else if (klass !== undefined) tokens.push({ kind: 'class', text, line })
    else if (name !== undefined) tokens.push({ kind: 'name', text, line })
    else if (count !== undefined) tokens.push({ kind: 'count', text, line })
    else if (mark !== undefined) tokens.push({ kind: 'mark', text, line })
    for (const character of text) if (character === '\n') line++
    at += text.length
  }
  return tokens
}

function terminal(of: Regex): Syntax {
  const automaton = intersect([of])
  if (automaton === null) throw new Unenforceable('a class of no characters')
  return { kind: 'terminal', of: automaton }
}

const ESCAPE = /\\x[0-9a-fA-F]{1,2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\.|[^\\]/gsu
const CONTROLS: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, b: 0x08, a: 0x07, e: 0x1b, '0': 0 } // prettier-ignore

function stringOf({ text, line }: Token): string {
  return (text.slice(1, -1).match(ESCAPE) ?? []).map((token) => String.fromCodePoint(codeOf(token, line))).join('')
}

function classOf({ text, line }: Token): CodePoints {
  const isNegated = text.startsWith('[^')
  const members = text.slice(isNegated ? 2 : 1, -1).match(ESCAPE) ?? []
  const ranges: [number, number][] = []
  for (let i = 0; i < members.length; i++) {
    const low = codeOf(members[i] ?? '', line)
    const hasEnd = members[i + 1] === '-' && members[i + 2] !== undefined
    const high = hasEnd ? codeOf(members[i + 2] ?? '', line) : low
    if (hasEnd) i += 2
    if (high < low) throw new Unenforceable(`a range whose end comes before its beginning in line ${line}`)
    ranges.push([low, high])
  }
  const named = codePoints(ranges)
  return isNegated ? complement(named) : named
}

function codeOf(token: string, line: number): number {
  if (!token.startsWith('\\') || token.length === 1) return token.codePointAt(0) ?? 0
  const hex = /^\\[xuU]([0-9a-fA-F]+)$/.exec(token)?.[1]
  const code = hex === undefined ? CONTROLS[token.slice(1)] : Number.parseInt(hex, 16)
  if (code !== undefined && code <= 0x10ffff) return code
  if (code !== undefined || /[\p{L}\p{N}]/u.test(token.slice(1)))
    throw new Unenforceable(`an escape that is not known in line ${line}`)
  return token.codePointAt(1) ?? 0
}
