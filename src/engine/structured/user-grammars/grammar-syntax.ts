/** Rules of a caller's grammar, independent of its notation, and their conversion to a grammar that is read from left to right. */
import { inOrder, oneOf, times, automatonExpression } from '../byte-grammar.ts'
import type { Expression, GrammarRules } from '../byte-grammar.ts'
import type { Automaton } from '../patterns/automaton.ts'
import { Unenforceable } from '../unenforceable.ts'

/** Limit on counted repetitions. */
export const MAX_REPETITIONS = 10_000

export type Syntax =
  | { readonly kind: 'name'; readonly name: string; readonly line: number }
  | { readonly kind: 'terminal'; readonly of: Automaton }
  | { readonly kind: 'sequence' | 'choice'; readonly parts: readonly Syntax[] }
  | { readonly kind: 'repeat'; readonly of: Syntax; readonly min: number; readonly max: number }

export interface NamedRule {
  readonly body: Syntax
  readonly line: number
}

/** Named rules of a user's grammar; `root` converts one, and the rules that it needs. */
export class GrammarSyntax {
  readonly #rules: ReadonlyMap<string, NamedRule>

  constructor(rules: ReadonlyMap<string, NamedRule>) {
    this.#rules = rules
  }

  /** The rule of a name with all that it leads to. @throws Unenforceable naming the line */
  root(name: string, grammar: GrammarRules): Expression {
    if (!this.#rules.has(name)) throw new Unenforceable(`no rule named ${name}`)
    const rules = new Map([...this.#rules].map(([own, { body }]) => [own, this.#withoutLeftRecursion(own, body)]))
    this.#requireEnds(rules)
    requireNoLeftRecursion(rules, this.#rules)
    const made = new Map([...rules.keys()].map((own) => [own, grammar.open()]))
    const convert = (node: Syntax): Expression => {
      switch (node.kind) {
        case 'name':
          return made.get(node.name) ?? inOrder()
        case 'terminal':
          return automatonExpression(node.of, 'text')
        case 'sequence':
          return inOrder(...node.parts.map(convert))
        case 'choice':
          return oneOf(...node.parts.map(convert))
        case 'repeat':
          return times(convert(node.of), node.min, node.max)
      }
    }
    for (const [own, body] of rules) grammar.define(made.get(own) ?? grammar.open(), convert(body))
    return made.get(name) ?? inOrder()
  }

  /** `a: a "+" b | b` becomes `a: b ("+" b)*`. */
  #withoutLeftRecursion(name: string, body: Syntax): Syntax {
    const parts = body.kind === 'choice' ? body.parts : [body]
    const isOwn = (part: Syntax) =>
      part.kind === 'sequence' && part.parts[0]?.kind === 'name' && part.parts[0].name === name
    const recursive = parts.filter(isOwn)
    if (recursive.length === 0) return body
    const others = parts.filter((part) => !isOwn(part) && !(part.kind === 'name' && part.name === name))
    const rests = recursive.map((part): Syntax => ({
      kind: 'sequence',
      parts: part.kind === 'sequence' ? part.parts.slice(1) : [],
    }))
    const first: Syntax = { kind: 'choice', parts: others }
    const further: Syntax = { kind: 'repeat', of: { kind: 'choice', parts: rests }, min: 0, max: Infinity }
    return { kind: 'sequence', parts: [first, further] }
  }

  /** @throws unless every rule can match a finite text and every name has a rule */
  #requireEnds(rules: ReadonlyMap<string, Syntax>): void {
    const ending = new Set<string>()
    const ends = (node: Syntax): boolean => {
      switch (node.kind) {
        case 'name':
          if (!rules.has(node.name)) throw new Unenforceable(`a name that no rule has in line ${node.line}`)
          return ending.has(node.name)
        case 'terminal':
          return true
        // `map` first: it visits all parts, to check their names.
        case 'sequence':
          return node.parts.map(ends).every(Boolean)
        case 'choice':
          return node.parts.map(ends).some(Boolean)
        case 'repeat':
          return ends(node.of) || node.min === 0
      }
    }
    // Until nothing changes: a rule can end once the rules that it names can.
    for (let before = -1; before < ending.size;) {
      before = ending.size
      for (const [name, body] of rules) if (ends(body)) ending.add(name)
    }
    for (const [name, { line }] of this.#rules)
      if (!ending.has(name)) throw new Unenforceable(`a rule that never ends in line ${line}`)
  }
}

/** @throws for left recursion through other rules */
function requireNoLeftRecursion(rules: ReadonlyMap<string, Syntax>, lines: ReadonlyMap<string, NamedRule>): void {
  const empty = new Set<string>()
  const isEmpty = (node: Syntax): boolean => {
    switch (node.kind) {
      case 'name':
        return empty.has(node.name)
      case 'terminal':
        return node.of.states[0]?.isEnd === true
      case 'sequence':
        return node.parts.every(isEmpty)
      case 'choice':
        return node.parts.some(isEmpty)
      case 'repeat':
        return node.min === 0 || isEmpty(node.of)
    }
  }
  // Until nothing changes: a rule can be empty once the rules that it names can.
  for (let before = -1; before < empty.size;) {
    before = empty.size
    for (const [name, body] of rules) if (isEmpty(body)) empty.add(name)
  }
  const firstNames = (node: Syntax): string[] => {
    switch (node.kind) {
      case 'name':
        return [node.name]
      case 'terminal':
        return []
      case 'sequence': {
        const stop = node.parts.findIndex((part) => !isEmpty(part))
        return node.parts.slice(0, stop < 0 ? undefined : stop + 1).flatMap(firstNames)
      }
      case 'choice':
        return node.parts.flatMap(firstNames)
      case 'repeat':
        return firstNames(node.of)
    }
  }
  const state = new Map<string, 'open' | 'done'>()
  const visit = (name: string): void => {
    if (state.get(name) === 'done') return
    if (state.get(name) === 'open') {
      const line = lines.get(name)?.line ?? 0
      throw new Unenforceable(`a rule that begins with itself in line ${line} (write it as a repetition)`)
    }
    state.set(name, 'open')
    for (const next of new Set(firstNames(rules.get(name) ?? { kind: 'sequence', parts: [] }))) visit(next)
    state.set(name, 'done')
  }
  for (const name of rules.keys()) visit(name)
}
