/**
 * Grammars of bytes: expressions and rules, and the network of states into which they are compiled. A network is plain data, so that it can be sent
 * to the thread that hosts matchers.
 */
import { intersect } from './patterns/automaton.ts'
import type { Automaton } from './patterns/automaton.ts'
import { difference, intersection, singleton, utf8 } from './patterns/code-points.ts'
import type { CodePoints } from './patterns/code-points.ts'
import { looksAhead, positions } from './patterns/regex.ts'
import type { Regex } from './patterns/regex.ts'
import { Unenforceable } from './unenforceable.ts'

/** How characters are written: unchanged, or as in a JSON string. */
export type Encoding = 'text' | 'json'

export type Expression =
  | { readonly kind: 'text'; readonly text: string }
  /** A special token, which text cannot imitate. */
  | { readonly kind: 'token'; readonly text: string }
  | { readonly kind: 'character'; readonly set: CodePoints; readonly encoding: Encoding }
  | { readonly kind: 'sequence' | 'choice'; readonly parts: readonly Expression[] }
  /** `max` may be Infinity. */
  | { readonly kind: 'repeat'; readonly of: Expression; readonly min: number; readonly max: number }
  | { readonly kind: 'rule'; readonly rule: number }
  | { readonly kind: 'automaton'; readonly automaton: Automaton; readonly encoding: Encoding }

export const NOTHING: Expression = { kind: 'sequence', parts: [] }

/** Exactly this text, as UTF-8. */
export function text(value: string): Expression {
  return { kind: 'text', text: value }
}

/** A pattern without look-aheads, converted directly instead of through an automaton. @throws Unenforceable for others */
function regexExpression(node: Regex, encoding: Encoding): Expression {
  switch (node.kind) {
    case 'set':
      return character(node.set, encoding)
    case 'sequence':
      return inOrder(...node.parts.map((part) => regexExpression(part, encoding)))
    case 'choice':
      return oneOf(...node.parts.map((part) => regexExpression(part, encoding)))
    case 'repeat':
      return times(regexExpression(node.of, encoding), node.min, node.max)
    default:
      throw new Unenforceable('rules that are too large together')
  }
}

/** Limit on the characters of a pattern that is compiled to an automaton. More would take seconds. */
export const MAX_AUTOMATON_CHARACTERS = 2000

/** The texts that a pattern matches as a whole, as an automaton if that is not too large; null: there are none. @throws Unenforceable */
export function patternExpression(pattern: Regex, encoding: Encoding): Expression | null {
  if (positions(pattern) > MAX_AUTOMATON_CHARACTERS && !looksAhead(pattern)) return regexExpression(pattern, encoding)
  try {
    const automaton = intersect([pattern])
    return automaton === null ? null : automatonExpression(automaton, encoding)
  } catch (error) {
    if (!(error instanceof Unenforceable) || looksAhead(pattern)) throw error
    return regexExpression(pattern, encoding)
  }
}

/** A text in which some parts are special tokens. */
export function textWithTokens(value: string, specialTokens: readonly string[]): Expression {
  const found = specialTokens.filter((token) => token !== '' && value.includes(token))
  const [token] = found.toSorted((a, b) => value.indexOf(a) - value.indexOf(b) || b.length - a.length)
  if (token === undefined) return text(value)
  const at = value.indexOf(token)
  const behind = value.slice(at + token.length)
  return inOrder(text(value.slice(0, at)), { kind: 'token', text: token }, textWithTokens(behind, specialTokens))
}

/** Precedes special tokens among the bytes of text. UTF-8 never contains it. */
export const SPECIAL_BYTE = 0xff

/** The bytes of a special token in a grammar. */
export function specialBytes(token: string): Uint8Array {
  return Buffer.concat([Buffer.of(SPECIAL_BYTE), Buffer.from(token)])
}

/** One character of the set. */
export function character(set: CodePoints, encoding: Encoding): Expression {
  return { kind: 'character', set, encoding }
}

/** The parts one after the other. */
export function inOrder(...parts: readonly Expression[]): Expression {
  return { kind: 'sequence', parts }
}

/** Any one of the parts. */
export function oneOf(...parts: readonly Expression[]): Expression {
  return { kind: 'choice', parts }
}

/** `min` to `max` repetitions. `max` may be Infinity. */
export function times(of: Expression, min: number, max: number): Expression {
  return { kind: 'repeat', of, min, max }
}

/** The parts in order, or nothing. */
export function optional(...parts: readonly Expression[]): Expression {
  return times(inOrder(...parts), 0, 1)
}

/** The texts that an automaton accepts. */
export function automatonExpression(automaton: Automaton, encoding: Encoding): Expression {
  return { kind: 'automaton', automaton, encoding }
}

/**
 * States from 0. Edges of state s are those from first[s] up to first[s + 1]: of bytes (from, to, target), free moves (target), and calls of
 * a rule (its first state, and the state to go on in behind it). A state that ends its rule returns to its caller.
 */
export interface Network {
  readonly start: number
  readonly byteFirst: Int32Array<ArrayBuffer>
  readonly byteEdges: Int32Array<ArrayBuffer>
  readonly freeFirst: Int32Array<ArrayBuffer>
  readonly freeEdges: Int32Array<ArrayBuffer>
  readonly callFirst: Int32Array<ArrayBuffer>
  readonly callEdges: Int32Array<ArrayBuffer>
  /** 1: the end of a rule. */
  readonly ends: Uint8Array<ArrayBuffer>
}

const MAX_STATES = 400_000
/** Characters that a JSON string must escape, and U+007F. Those without a short escape occur only where no other character is allowed. */
const UNSAFE: CodePoints = [[0, 0x1f], [0x22, 0x22], [0x5c, 0x5c], [0x7f, 0x7f]] // prettier-ignore
const ESCAPES: readonly (readonly [code: number, letter: string])[] = [[0x08, 'b'], [0x09, 't'], [0x0a, 'n'], [0x0c, 'f'], [0x0d, 'r'], [0x22, '"'], [0x5c, '\\']] // prettier-ignore

/** Rules by number. A recursive rule is opened before it is defined. */
export class GrammarRules {
  readonly #bodies: (Expression | null)[] = []

  /** Creates a rule that is defined later. */
  open(): { readonly kind: 'rule'; readonly rule: number } {
    this.#bodies.push(null)
    return { kind: 'rule', rule: this.#bodies.length - 1 }
  }

  define({ rule }: { readonly rule: number }, body: Expression): void {
    this.#bodies[rule] = body
  }

  /** Creates a rule that several places can share. */
  rule(body: Expression): Expression {
    const made = this.open()
    this.define(made, body)
    return made
  }

  /** Compiles the rules. @throws Unenforceable if the network is too large */
  network(root: Expression): Network {
    return new NetworkBuilder(this.#bodies).build(root)
  }
}

interface State {
  readonly bytes: number[]
  readonly free: number[]
  readonly calls: number[]
}

class NetworkBuilder {
  readonly #bodies: readonly (Expression | null)[]
  readonly #states: State[] = []
  readonly #ends = new Set<number>()
  /** The first state of each rule that is called. */
  readonly #starts = new Map<number, number>()
  readonly #open: number[] = []
  readonly #ending = new Set<number>()

  constructor(bodies: readonly (Expression | null)[]) {
    this.#bodies = bodies
  }

  /** @throws Unenforceable for a grammar without a finite text */
  build(root: Expression): Network {
    this.#findEnding()
    if (!this.#canEnd(root)) throw new Unenforceable('no output that it allows is finite')
    const start = this.#state()
    const end = this.#state()
    this.#ends.add(end)
    this.#add(root, start, end)
    for (let rule = this.#open.pop(); rule !== undefined; rule = this.#open.pop()) {
      const body = this.#bodies[rule]
      const ruleEnd = this.#state()
      this.#ends.add(ruleEnd)
      if (body !== null && body !== undefined) this.#add(body, this.#starts.get(rule) ?? 0, ruleEnd)
    }
    return this.#flat(start)
  }

  /** Finds the rules with a finite text. Others are dropped, because a sequence could never leave them. */
  #findEnding(): void {
    for (let hasGrown = true; hasGrown;) {
      hasGrown = false
      // Inner rules are created after the rules that contain them.
      for (let rule = this.#bodies.length - 1; rule >= 0; rule--) {
        const body = this.#bodies[rule]
        if (this.#ending.has(rule) || body === null || body === undefined || !this.#canEnd(body)) continue
        this.#ending.add(rule)
        hasGrown = true
      }
    }
  }

  #canEnd(node: Expression): boolean {
    switch (node.kind) {
      case 'sequence':
        return node.parts.every((part) => this.#canEnd(part))
      case 'choice':
        return node.parts.some((part) => this.#canEnd(part))
      case 'repeat':
        return node.min === 0 || this.#canEnd(node.of)
      case 'rule':
        return this.#ending.has(node.rule)
      default:
        return true
    }
  }

  #state(): number {
    if (this.#states.length >= MAX_STATES) throw new Unenforceable('it takes a grammar that is too large')
    this.#states.push({ bytes: [], free: [], calls: [] })
    return this.#states.length - 1
  }

  #add(node: Expression, from: number, to: number): void {
    switch (node.kind) {
      case 'text':
        return this.#bytes(Buffer.from(node.text), from, to)
      case 'token':
        return this.#bytes(specialBytes(node.text), from, to)
      case 'character':
        return this.#character(node.set, node.encoding, from, to)
      case 'sequence': {
        let at = from
        for (const [i, part] of node.parts.entries()) {
          const next = i === node.parts.length - 1 ? to : this.#state()
          this.#add(part, at, next)
          at = next
        }
        if (node.parts.length === 0) this.#states[from]?.free.push(to)
        return
      }
      case 'choice':
        for (const part of node.parts) if (this.#canEnd(part)) this.#add(part, from, to)
        return
      case 'repeat':
        return this.#repeat(node, from, to)
      case 'rule': {
        let start = this.#starts.get(node.rule)
        if (start === undefined) {
          start = this.#state()
          this.#starts.set(node.rule, start)
          this.#open.push(node.rule)
        }
        this.#states[from]?.calls.push(start, to)
        return
      }
      case 'automaton': {
        const states = node.automaton.states.map(() => this.#state())
        this.#states[from]?.free.push(states[0] ?? to)
        for (const [i, { isEnd, next }] of node.automaton.states.entries()) {
          const own = states[i] ?? 0
          if (isEnd) this.#states[own]?.free.push(to)
          for (const { set, state } of next) this.#character(set, node.encoding, own, states[state] ?? 0)
        }
      }
    }
  }

  #repeat({ of, min, max }: { of: Expression; min: number; max: number }, from: number, to: number): void {
    if (!this.#canEnd(of)) {
      this.#states[from]?.free.push(to)
      return
    }
    let at = from
    for (let i = 0; i < min; i++) {
      const next = this.#state()
      this.#add(of, at, next)
      at = next
    }
    if (max === Infinity) {
      // A separate state, so that the part before the loop cannot be entered again.
      const loop = this.#state()
      this.#states[at]?.free.push(loop)
      this.#add(of, loop, loop)
      this.#states[loop]?.free.push(to)
      return
    }
    for (let i = min; i < max; i++) {
      this.#states[at]?.free.push(to)
      const next = this.#state()
      this.#add(of, at, next)
      at = next
    }
    this.#states[at]?.free.push(to)
  }

  #character(set: CodePoints, encoding: Encoding, from: number, to: number): void {
    for (const bytes of utf8(encoding === 'json' ? difference(set, UNSAFE) : set)) this.#path(bytes, from, to)
    if (encoding === 'text') return
    const escaped = ESCAPES.filter(([code]) => intersection(set, singleton(code)).length > 0)
    if (escaped.length === 0) return this.#controls(set, from, to)
    const behind = this.#state()
    this.#states[from]?.bytes.push(0x5c, 0x5c, behind)
    for (const [, letter] of escaped) this.#states[behind]?.bytes.push(letter.charCodeAt(0), letter.charCodeAt(0), to)
  }

  /** Control characters as `\\u001f`, if the set has no others. A set without any way out would end the text in the middle. */
  #controls(set: CodePoints, from: number, to: number): void {
    if (difference(set, UNSAFE).length > 0) return
    for (const [low, high] of set)
      for (let code = low; code <= high; code++)
        this.#bytes(Buffer.from(`\\u${code.toString(16).padStart(4, '0')}`), from, to)
  }

  #bytes(bytes: Uint8Array, from: number, to: number): void {
    const path = Array.from(bytes, (byte) => [byte, byte] as const)
    this.#path(path, from, to)
  }

  #path(bytes: readonly (readonly [from: number, to: number])[], from: number, to: number): void {
    let at = from
    for (const [i, [low, high]] of bytes.entries()) {
      const next = i === bytes.length - 1 ? to : this.#state()
      this.#states[at]?.bytes.push(low, high, next)
      at = next
    }
    if (bytes.length === 0) this.#states[from]?.free.push(to)
  }

  #flat(start: number): Network {
    const flatten = (lists: readonly number[][], width: number) => {
      const first = new Int32Array(lists.length + 1)
      for (const [i, list] of lists.entries()) first[i + 1] = (first[i] ?? 0) + list.length / width
      return { first, edges: Int32Array.from(lists.flat()) }
    }
    const bytes = flatten(this.#states.map((state) => state.bytes), 3) // prettier-ignore
    const free = flatten(this.#states.map((state) => state.free), 1) // prettier-ignore
    const calls = flatten(this.#states.map((state) => state.calls), 2) // prettier-ignore
    const ends = new Uint8Array(this.#states.length)
    for (const end of this.#ends) ends[end] = 1
    return { start, byteFirst: bytes.first, byteEdges: bytes.edges, freeFirst: free.first, freeEdges: free.edges, callFirst: calls.first, callEdges: calls.edges, ends } // prettier-ignore
  }
}
