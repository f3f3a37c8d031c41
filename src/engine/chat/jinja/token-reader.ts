/** The tokens of a template, read one after the other: what comes next, what has to come, and faults that name the line. */
import { TemplateFault } from './errors.ts'
import { tokenize } from './lexer.ts'
import type { Token } from './lexer.ts'

/** Reads the tokens of a template in order. @throws TemplateFault naming the line, what was expected and found */
export class TokenReader {
  readonly #tokens: readonly Token[]
  #at = 0

  constructor(source: string) {
    this.#tokens = tokenize(source)
  }

  /** The token that comes next. @throws TemplateFault at the end */
  get current(): Token {
    const token = this.#tokens[this.#at]
    if (token === undefined) throw new TemplateFault('unexpected end of the template')
    return token
  }

  /** Reads a token. */
  next(): Token {
    const token = this.current
    this.#at++
    return token
  }

  /** Whether the next token is this operator. */
  isOperator(value: string): boolean {
    return this.current.kind === 'operator' && this.current.value === value
  }

  /** Whether the next token is this name. */
  isName(value: string): boolean {
    return this.current.kind === 'name' && this.current.value === value
  }

  /** The token behind the current one. */
  get following(): Token | undefined {
    return this.#tokens[this.#at + 1]
  }

  /** Reads the operator if it comes next. @returns whether it did */
  skipOperator(value: string): boolean {
    const isThere = this.isOperator(value)
    if (isThere) this.#at++
    return isThere
  }

  /** Reads the name if it comes next. @returns whether it did */
  skipName(value: string): boolean {
    const isThere = this.isName(value)
    if (isThere) this.#at++
    return isThere
  }

  /** Reads the operator that has to come. */
  expectOperator(value: string): void {
    if (!this.skipOperator(value)) throw this.fault(`expected '${value}', found ${this.found()}`)
  }

  /** Reads a token of the kind that has to come. @param what it is called in the fault */
  expect(kind: Token['kind'], what: string): Token {
    if (this.current.kind !== kind) throw this.fault(`expected ${what}, found ${this.found()}`)
    return this.next()
  }

  /** What comes next, for a message. */
  found(): string {
    const { kind, value } = this.current
    if (kind === 'name' || kind === 'operator') return `'${value}'`
    return { end: 'the end of the template', variable_end: "'}}'", block_end: "'%}'" }[kind as string] ?? `a ${kind}`
  }

  /** A fault that names the current line. */
  fault(message: string): TemplateFault {
    return new TemplateFault(`line ${this.#tokens[this.#at]?.line ?? 0}: ${message}`)
  }

  /** Makes the token that was read last the current one again. */
  back(): void {
    this.#at--
  }
}
