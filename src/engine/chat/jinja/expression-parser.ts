/** Parses expressions of a template: Jinja's operators by precedence, filters, tests, calls and literals. */
import { FILTERS, UNSUPPORTED_FILTERS } from './filters.ts'
import type { Token } from './lexer.ts'
import type { Application, BinaryOperator, CallArguments, Comparison, TemplateExpression } from './nodes.ts'
import { TESTS } from './tests.ts'
import type { TokenReader } from './token-reader.ts'

const NO_ARGUMENTS: CallArguments = { positional: [], named: [], list: null, dictionary: null }
const COMPARISONS: ReadonlySet<string> = new Set(['==', '!=', '<', '<=', '>', '>='])

const isName = (token: Token | undefined, value: string) => token?.kind === 'name' && token.value === value

/** Parses expressions from a template's tokens. @throws TemplateFault */
export class ExpressionParser {
  readonly #tokens: TokenReader
  /** Open branches. As in Jinja, an unknown filter in a branch is an error only if the branch is taken. */
  #numBranches = 0

  constructor(tokens: TokenReader) {
    this.#tokens = tokens
  }

  /** Parses an expression that may never be evaluated. */
  inBranch<T>(parse: () => T): T {
    this.#numBranches++
    const parsed = parse()
    this.#numBranches--
    return parsed
  }

  /** An expression, or several with commas between. */
  tuple(takesChoice = true, ends: readonly string[] = [], isBracketed = false): TemplateExpression {
    const items: TemplateExpression[] = []
    let isTuple = false
    while (!this.#isTupleEnd(ends)) {
      items.push(takesChoice ? this.expression() : this.#or())
      if (!this.#tokens.skipOperator(',')) break
      isTuple = true
    }
    const [first] = items
    if (first !== undefined && !isTuple) return first
    if (first === undefined && !isBracketed)
      throw this.#tokens.fault(`expected an expression, found ${this.#tokens.found()}`)
    return { kind: 'tuple', items }
  }

  #isTupleEnd(ends: readonly string[]): boolean {
    const { kind, value } = this.#tokens.current
    if (kind === 'variable_end' || kind === 'block_end' || this.#tokens.isOperator(')')) return true
    return kind === 'name' && ends.includes(value)
  }

  /** One expression, with `if … else` behind it or not. */
  expression(): TemplateExpression {
    let value = this.#or()
    while (this.#tokens.skipName('if')) {
      const whenTrue = value
      value = this.inBranch(() => ({
        kind: 'choice',
        test: this.#or(),
        value: whenTrue,
        otherwise: this.#tokens.skipName('else') ? this.expression() : null,
      }))
    }
    return value
  }

  #or(): TemplateExpression {
    let left = this.#and()
    while (this.#tokens.skipName('or')) left = { kind: 'or', left, right: this.#and() }
    return left
  }

  #and(): TemplateExpression {
    let left = this.#not()
    while (this.#tokens.skipName('and')) left = { kind: 'and', left, right: this.#not() }
    return left
  }

  #not(): TemplateExpression {
    return this.#tokens.skipName('not') ? { kind: 'not', of: this.#not() } : this.#compare()
  }

  #compare(): TemplateExpression {
    const first = this.#sum()
    const rest: (readonly [Comparison, TemplateExpression])[] = []
    for (;;) {
      if (this.#tokens.current.kind === 'operator' && COMPARISONS.has(this.#tokens.current.value))
        rest.push([this.#tokens.next().value as Comparison, this.#sum()])
      else if (this.#tokens.skipName('in')) rest.push(['in', this.#sum()])
      else if (this.#tokens.isName('not') && isName(this.#tokens.following, 'in')) {
        this.#tokens.next()
        this.#tokens.next()
        rest.push(['not in', this.#sum()])
      } else return rest.length === 0 ? first : { kind: 'compare', first, rest }
    }
  }

  #binary(operators: readonly BinaryOperator[], operand: () => TemplateExpression): TemplateExpression {
    let left = operand()
    for (;;) {
      const operator = operators.find((each) => this.#tokens.isOperator(each))
      if (operator === undefined) return left
      this.#tokens.next()
      left = { kind: 'binary', operator, left, right: operand() }
    }
  }

  #sum(): TemplateExpression {
    return this.#binary(['+', '-'], () => this.#concat())
  }

  #concat(): TemplateExpression {
    const first = this.#product()
    const parts = [first]
    while (this.#tokens.skipOperator('~')) parts.push(this.#product())
    return parts.length === 1 ? first : { kind: 'concat', parts }
  }

  #product(): TemplateExpression {
    return this.#binary(['*', '/', '//', '%'], () => this.#binary(['**'], () => this.#unary()))
  }

  #unary(takesFilters = true): TemplateExpression {
    let value: TemplateExpression
    if (this.#tokens.skipOperator('-')) value = { kind: 'negative', of: this.#unary(false) }
    else if (this.#tokens.skipOperator('+')) value = { kind: 'positive', of: this.#unary(false) }
    else value = this.#primary()
    value = this.#postfix(value)
    return takesFilters ? this.filters(value) : value
  }

  #primary(): TemplateExpression {
    const { kind, value } = this.#tokens.current
    if (kind === 'name') {
      this.#tokens.next()
      return NAMED_CONSTANTS.get(value) ?? { kind: 'name', name: value }
    }
    if (kind === 'number') return { kind: 'constant', value: toNumber(this.#tokens.next().value) }
    if (kind === 'string') {
      let text = ''
      while (this.#tokens.current.kind === 'string') text += this.#tokens.next().value
      return { kind: 'constant', value: text }
    }
    if (this.#tokens.skipOperator('(')) {
      const tuple = this.tuple(true, [], true)
      this.#tokens.expectOperator(')')
      return tuple
    }
    if (this.#tokens.skipOperator('[')) return { kind: 'list', items: this.#listUpTo(']', () => this.expression()) }
    if (!this.#tokens.skipOperator('{'))
      throw this.#tokens.fault(`expected an expression, found ${this.#tokens.found()}`)
    const entries = this.#listUpTo('}', () => {
      const key = this.expression()
      this.#tokens.expectOperator(':')
      return [key, this.expression()] as const
    })
    return { kind: 'dict', entries }
  }

  #listUpTo<T>(end: string, item: () => T): readonly T[] {
    const items: T[] = []
    while (!this.#tokens.isOperator(end)) {
      if (items.length > 0) this.#tokens.expectOperator(',')
      if (!this.#tokens.isOperator(end)) items.push(item())
    }
    this.#tokens.expectOperator(end)
    return items
  }

  #postfix(value: TemplateExpression): TemplateExpression {
    for (let of = value; ;) {
      if (this.#tokens.skipOperator('.')) {
        const { kind, value: name } = this.#tokens.next()
        if (kind !== 'name' && kind !== 'number') throw this.#tokens.fault('expected a name or a number behind the dot')
        of = kind === 'name' ? { kind: 'attribute', of, name } : { kind: 'item', of, key: { kind: 'constant', value: toNumber(name) } } // prettier-ignore
      } else if (this.#tokens.skipOperator('[')) of = this.#subscript(of)
      else if (this.#tokens.isOperator('(')) of = { kind: 'call', callee: of, args: this.#arguments() }
      else return of
    }
  }

  #subscript(of: TemplateExpression): TemplateExpression {
    const bounds: (TemplateExpression | null)[] = []
    let isSlice = false
    for (;;) {
      const isEmpty = this.#tokens.isOperator(':') || this.#tokens.isOperator(']')
      bounds.push(isEmpty ? null : this.tuple())
      if (!this.#tokens.skipOperator(':')) break
      isSlice = true
    }
    this.#tokens.expectOperator(']')
    const [key] = bounds
    if (isSlice && bounds.length <= 3) return { kind: 'slice', of, bounds }
    if (isSlice || key === undefined || key === null) throw this.#tokens.fault('expected an index')
    return { kind: 'item', of, key }
  }

  /** The filters, tests and calls after a value. With null there is no value yet, and at least one filter must follow. */
  filters(value: TemplateExpression | null): TemplateExpression {
    let filtered = value
    for (;;) {
      if (this.#tokens.skipOperator('|'))
        filtered = { kind: 'filter', of: filtered, filter: this.application('filter') }
      else if (filtered === null) throw this.#tokens.fault('expected a filter')
      else if (this.#tokens.skipName('is')) filtered = this.#test(filtered)
      else if (this.#tokens.isOperator('(')) filtered = { kind: 'call', callee: filtered, args: this.#arguments() }
      else return filtered
    }
  }

  #test(of: TemplateExpression): TemplateExpression {
    const isNegated = this.#tokens.skipName('not')
    const test: TemplateExpression = { kind: 'test', of, test: this.application('test') }
    return isNegated ? { kind: 'not', of: test } : test
  }

  /** A filter or test by its name, with its arguments. */
  application(what: 'filter' | 'test'): Application {
    const { value: name } = this.#tokens.expect('name', `the name of a ${what}`)
    const known = what === 'filter' ? FILTERS : TESTS
    if (UNSUPPORTED_FILTERS.has(name) && what === 'filter')
      throw this.#tokens.fault(`the filter '${name}' is not supported`)
    if (!known.has(name) && this.#numBranches === 0) throw this.#tokens.fault(`there is no ${what} '${name}'`)
    if (this.#tokens.isOperator('(')) return { name, args: this.#arguments() }
    if (what === 'filter' || !this.#beginsOperand()) return { name, args: NO_ARGUMENTS }
    if (this.#tokens.isName('is')) throw this.#tokens.fault('one test cannot follow another')
    return { name, args: { ...NO_ARGUMENTS, positional: [this.#postfix(this.#primary())] } }
  }

  /** Whether a test's one argument follows it without brackets. */
  #beginsOperand(): boolean {
    const { kind, value } = this.#tokens.current
    if (kind === 'name') return !['else', 'or', 'and'].includes(value)
    return kind === 'string' || kind === 'number' || (kind === 'operator' && ['[', '{'].includes(value))
  }

  #arguments(): CallArguments {
    this.#tokens.expectOperator('(')
    const positional: TemplateExpression[] = []
    const named: (readonly [string, TemplateExpression])[] = []
    let list: TemplateExpression | null = null
    let dictionary: TemplateExpression | null = null
    for (let isFirst = true; !this.#tokens.isOperator(')'); isFirst = false) {
      if (!isFirst) {
        this.#tokens.expectOperator(',')
        if (this.#tokens.isOperator(')')) break
      }
      const { following } = this.#tokens
      if (this.#tokens.skipOperator('*')) list = this.expression()
      else if (this.#tokens.skipOperator('**')) dictionary = this.expression()
      else if (this.#tokens.current.kind === 'name' && following?.kind === 'operator' && following.value === '=') {
        const { value: name } = this.#tokens.next()
        this.#tokens.next()
        named.push([name, this.expression()])
      } else if (named.length > 0) throw this.#tokens.fault('an argument without a name follows one with a name')
      else positional.push(this.expression())
    }
    this.#tokens.expectOperator(')')
    return { positional, named, list, dictionary }
  }
}

const NAMED_CONSTANTS: ReadonlyMap<string, TemplateExpression> = new Map<string, TemplateExpression>([
  ['true', { kind: 'constant', value: true }],
  ['True', { kind: 'constant', value: true }],
  ['false', { kind: 'constant', value: false }],
  ['False', { kind: 'constant', value: false }],
  ['none', { kind: 'constant', value: null }],
  ['None', { kind: 'constant', value: null }],
])

function toNumber(text: string): bigint | number {
  return /^(?:\d+|0[xXbBoO][\da-fA-F]+)$/.test(text) ? BigInt(text) : Number(text)
}
