/** Tokens to a template's statements: Jinja's grammar, with the loop controls and the tag `generation` that transformers adds. */
import { TemplateFault } from './errors.ts'
import { FILTERS, UNSUPPORTED_FILTERS } from './filters.ts'
import { tokenize } from './lexer.ts'
import type { Token } from './lexer.ts'
import type {
  Application,
  BinaryOperator,
  Body,
  CallArguments,
  Comparison,
  TemplateExpression,
  Parameter,
  Statement,
  Target,
} from './nodes.ts'
import { TESTS } from './tests.ts'

/** Throws TemplateFault for what is no template, and for what cannot be rendered here, naming it and its line. */
export function parseTemplate(source: string): Body {
  return new Parser(tokenize(source)).parse()
}

const NO_ARGUMENTS: CallArguments = { positional: [], named: [], list: null, dictionary: null }
const COMPARISONS: ReadonlySet<string> = new Set(['==', '!=', '<', '<=', '>', '>='])
/** Tags that read other files. */
const OTHER_FILES: ReadonlySet<string> = new Set(['extends', 'include', 'import', 'from'])

class Parser {
  readonly #tokens: readonly Token[]
  #at = 0
  /** Within a branch that may never be taken, an unknown filter is not yet an error: as in Jinja. */
  #numBranches = 0

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens
  }

  parse(): Body {
    const body = this.#body([])
    if (this.#current.kind !== 'end') throw this.#fault(`unexpected tag '${this.#current.value}'`)
    return body
  }

  get #current(): Token {
    const token = this.#tokens[this.#at]
    if (token === undefined) throw new TemplateFault('unexpected end of the template')
    return token
  }

  #next(): Token {
    const token = this.#current
    this.#at++
    return token
  }

  #isOperator(value: string): boolean {
    return this.#current.kind === 'operator' && this.#current.value === value
  }

  #isName(value: string, ahead = 0): boolean {
    const token = this.#tokens[this.#at + ahead]
    return token?.kind === 'name' && token.value === value
  }

  #skipOperator(value: string): boolean {
    const isThere = this.#isOperator(value)
    if (isThere) this.#at++
    return isThere
  }

  #skipName(value: string): boolean {
    const isThere = this.#isName(value)
    if (isThere) this.#at++
    return isThere
  }

  #expectOperator(value: string): void {
    if (!this.#skipOperator(value)) throw this.#fault(`expected '${value}', found ${this.#found()}`)
  }

  #expect(kind: Token['kind'], what: string): Token {
    if (this.#current.kind !== kind) throw this.#fault(`expected ${what}, found ${this.#found()}`)
    return this.#next()
  }

  #found(): string {
    const { kind, value } = this.#current
    if (kind === 'name' || kind === 'operator') return `'${value}'`
    return { end: 'the end of the template', variable_end: "'}}'", block_end: "'%}'" }[kind as string] ?? `a ${kind}`
  }

  #fault(message: string): TemplateFault {
    return new TemplateFault(`line ${this.#tokens[this.#at]?.line ?? 0}: ${message}`)
  }

  /** Up to one of the tags, whose name is the current token then, or to the end. */
  #body(ends: readonly string[]): Body {
    const body: Statement[] = []
    while (this.#current.kind !== 'end') {
      const token = this.#next()
      if (token.kind === 'data') body.push({ kind: 'text', text: token.value })
      else if (token.kind === 'variable_begin') {
        body.push({ kind: 'output', value: this.#tuple() })
        this.#expect('variable_end', "'}}'")
      } else {
        if (this.#current.kind === 'name' && ends.includes(this.#current.value)) return body
        body.push(...this.#statement())
        this.#expect('block_end', "'%}'")
      }
    }
    if (ends.length > 0) throw this.#fault(`expected ${ends.join(' or ')}, found the end of the template`)
    return body
  }

  /** The body of a tag. @returns the end tag that was found, whose name is read. */
  #bodyOfTag(...ends: string[]): { readonly body: Body; readonly end: string } {
    this.#skipOperator(':')
    this.#expect('block_end', "'%}'")
    const body = this.#body(ends)
    return { body, end: this.#next().value }
  }

  #statement(): readonly Statement[] {
    const { value: tag } = this.#expect('name', 'the name of a tag')
    switch (tag) {
      case 'for':
        return [this.#for()]
      case 'if':
        return [this.#if()]
      case 'set':
        return [this.#set()]
      case 'macro':
        return [this.#macro(this.#expect('name', 'a name').value, 'endmacro')]
      case 'call':
        return [this.#callBlock()]
      case 'filter':
        return [this.#filterBlock()]
      case 'with':
        return [this.#with()]
      case 'print':
        return this.#print()
      case 'block':
        return [this.#block()]
      case 'autoescape':
        return [this.#autoescape()]
      case 'generation':
        return [{ kind: 'scope', body: this.#bodyOfTag('endgeneration').body }]
      case 'break':
      case 'continue':
        return [{ kind: tag }]
      default:
        this.#at--
        throw this.#fault(
          OTHER_FILES.has(tag) ? `the tag '${tag}' reads another file, which a chat template cannot` : `unknown tag '${tag}'`, // prettier-ignore
        )
    }
  }

  #for(): Statement {
    const target = this.#target(['in'])
    if (!this.#skipName('in')) throw this.#fault(`expected 'in', found ${this.#found()}`)
    const of = this.#tuple(false, ['recursive'])
    const test = this.#skipName('if') ? this.#expression() : null
    const isRecursive = this.#skipName('recursive')
    const { body, end } = this.#bodyOfTag('endfor', 'else')
    const otherwise = end === 'else' ? this.#bodyOfTag('endfor').body : []
    return { kind: 'for', target, of, test, isRecursive, body, otherwise }
  }

  #if(): Statement {
    const branches: (readonly [TemplateExpression, Body])[] = []
    this.#numBranches++
    for (let end = 'elif'; end !== 'endif';) {
      if (end === 'else') {
        const { body: otherwise } = this.#bodyOfTag('endif')
        this.#numBranches--
        return { kind: 'if', branches, otherwise }
      }
      const test = this.#tuple(false)
      const branch = this.#bodyOfTag('elif', 'else', 'endif')
      branches.push([test, branch.body])
      ;({ end } = branch)
    }
    this.#numBranches--
    return { kind: 'if', branches, otherwise: [] }
  }

  #set(): Statement {
    const target = this.#target([], true)
    if (this.#skipOperator('=')) return { kind: 'set', target, value: this.#tuple() }
    const filter = this.#isOperator('|') ? this.#filters(null) : null
    return { kind: 'setBlock', target, filter, body: this.#bodyOfTag('endset').body }
  }

  #macro(name: string, end: string): Extract<Statement, { kind: 'macro' }> {
    const parameters = this.#parameters()
    return { kind: 'macro', name, parameters, body: this.#bodyOfTag(end).body }
  }

  #parameters(): readonly Parameter[] {
    const parameters: Parameter[] = []
    this.#expectOperator('(')
    while (!this.#isOperator(')')) {
      if (parameters.length > 0) this.#expectOperator(',')
      const { value: name } = this.#expect('name', 'the name of a parameter')
      parameters.push({ name, fallback: this.#skipOperator('=') ? this.#expression() : null })
    }
    this.#expectOperator(')')
    return parameters
  }

  #callBlock(): Statement {
    const parameters = this.#isOperator('(') ? this.#parameters() : []
    const call = this.#expression()
    if (call.kind !== 'call') throw this.#fault('expected a call')
    const { body } = this.#bodyOfTag('endcall')
    return { kind: 'callBlock', call, macro: { kind: 'macro', name: 'caller', parameters, body } }
  }

  #filterBlock(): Statement {
    let filter: TemplateExpression = { kind: 'filter', of: null, filter: this.#application('filter') }
    if (this.#isOperator('|')) filter = this.#filters(filter)
    return { kind: 'filterBlock', filter, body: this.#bodyOfTag('endfilter').body }
  }

  #with(): Statement {
    const values: (readonly [Target, TemplateExpression])[] = []
    while (this.#current.kind !== 'block_end') {
      if (values.length > 0) this.#expectOperator(',')
      const target = this.#target([])
      this.#expectOperator('=')
      values.push([target, this.#expression()])
    }
    return { kind: 'with', values, body: this.#bodyOfTag('endwith').body }
  }

  #print(): readonly Statement[] {
    const outputs: Statement[] = []
    while (this.#current.kind !== 'block_end') {
      if (outputs.length > 0) this.#expectOperator(',')
      outputs.push({ kind: 'output', value: this.#expression() })
    }
    return outputs
  }

  #block(): Statement {
    const { value: name } = this.#expect('name', "the block's name")
    this.#skipName('scoped')
    this.#skipName('required')
    const { body } = this.#bodyOfTag('endblock')
    this.#skipName(name)
    return { kind: 'scope', body }
  }

  #autoescape(): Statement {
    const value = this.#expression()
    if (value.kind !== 'constant' || value.value !== false) throw this.#fault("the tag 'autoescape' is not supported")
    return { kind: 'scope', body: this.#bodyOfTag('endautoescape').body }
  }

  #target(ends: readonly string[], takesMembers = false): Target {
    const targets: Target[] = []
    let isTuple = false
    while (
      !(this.#current.kind === 'name' && ends.includes(this.#current.value)) &&
      this.#current.kind !== 'block_end'
    ) {
      targets.push(this.#oneTarget(takesMembers))
      if (!this.#skipOperator(',')) break
      isTuple = true
    }
    const [first] = targets
    if (first === undefined) throw this.#fault(`expected a name to assign to, found ${this.#found()}`)
    return isTuple ? { kind: 'tuple', items: targets } : first
  }

  #oneTarget(takesMembers: boolean): Target {
    if (this.#skipOperator('(')) {
      const items: Target[] = []
      while (!this.#isOperator(')')) {
        if (items.length > 0) this.#expectOperator(',')
        if (!this.#isOperator(')')) items.push(this.#oneTarget(takesMembers))
      }
      this.#expectOperator(')')
      const [only] = items
      return items.length === 1 && only !== undefined ? only : { kind: 'tuple', items }
    }
    const { value: name } = this.#expect('name', 'a name to assign to')
    if (!takesMembers || !this.#skipOperator('.')) return { kind: 'name', name }
    return { kind: 'member', namespace: name, name: this.#expect('name', 'a name').value }
  }

  /** An expression, or several with commas between. */
  #tuple(takesChoice = true, ends: readonly string[] = [], isBracketed = false): TemplateExpression {
    const items: TemplateExpression[] = []
    let isTuple = false
    while (!this.#isTupleEnd(ends)) {
      items.push(takesChoice ? this.#expression() : this.#or())
      if (!this.#skipOperator(',')) break
      isTuple = true
    }
    const [first] = items
    if (first !== undefined && !isTuple) return first
    if (first === undefined && !isBracketed) throw this.#fault(`expected an expression, found ${this.#found()}`)
    return { kind: 'tuple', items }
  }

  #isTupleEnd(ends: readonly string[]): boolean {
    const { kind, value } = this.#current
    if (kind === 'variable_end' || kind === 'block_end' || this.#isOperator(')')) return true
    return kind === 'name' && ends.includes(value)
  }

  #expression(): TemplateExpression {
    let value = this.#or()
    while (this.#skipName('if')) {
      this.#numBranches++
      const test = this.#or()
      const otherwise = this.#skipName('else') ? this.#expression() : null
      this.#numBranches--
      value = { kind: 'choice', test, value, otherwise }
    }
    return value
  }

  #or(): TemplateExpression {
    let left = this.#and()
    while (this.#skipName('or')) left = { kind: 'or', left, right: this.#and() }
    return left
  }

  #and(): TemplateExpression {
    let left = this.#not()
    while (this.#skipName('and')) left = { kind: 'and', left, right: this.#not() }
    return left
  }

  #not(): TemplateExpression {
    return this.#skipName('not') ? { kind: 'not', of: this.#not() } : this.#compare()
  }

  #compare(): TemplateExpression {
    const first = this.#sum()
    const rest: (readonly [Comparison, TemplateExpression])[] = []
    for (;;) {
      if (this.#current.kind === 'operator' && COMPARISONS.has(this.#current.value))
        rest.push([this.#next().value as Comparison, this.#sum()])
      else if (this.#skipName('in')) rest.push(['in', this.#sum()])
      else if (this.#isName('not') && this.#isName('in', 1)) {
        this.#at += 2
        rest.push(['not in', this.#sum()])
      } else return rest.length === 0 ? first : { kind: 'compare', first, rest }
    }
  }

  #binary(operators: readonly BinaryOperator[], operand: () => TemplateExpression): TemplateExpression {
    let left = operand()
    for (;;) {
      const operator = operators.find((each) => this.#isOperator(each))
      if (operator === undefined) return left
      this.#at++
      left = { kind: 'binary', operator, left, right: operand() }
    }
  }

  #sum(): TemplateExpression {
    return this.#binary(['+', '-'], () => this.#concat())
  }

  #concat(): TemplateExpression {
    const first = this.#product()
    const parts = [first]
    while (this.#skipOperator('~')) parts.push(this.#product())
    return parts.length === 1 ? first : { kind: 'concat', parts }
  }

  #product(): TemplateExpression {
    return this.#binary(['*', '/', '//', '%'], () => this.#binary(['**'], () => this.#unary()))
  }

  #unary(takesFilters = true): TemplateExpression {
    let value: TemplateExpression
    if (this.#skipOperator('-')) value = { kind: 'negative', of: this.#unary(false) }
    else if (this.#skipOperator('+')) value = { kind: 'positive', of: this.#unary(false) }
    else value = this.#primary()
    value = this.#postfix(value)
    return takesFilters ? this.#filters(value) : value
  }

  #primary(): TemplateExpression {
    const { kind, value } = this.#current
    if (kind === 'name') {
      this.#at++
      return NAMED_CONSTANTS.get(value) ?? { kind: 'name', name: value }
    }
    if (kind === 'number') return { kind: 'constant', value: toNumber(this.#next().value) }
    if (kind === 'string') {
      let text = ''
      while (this.#current.kind === 'string') text += this.#next().value
      return { kind: 'constant', value: text }
    }
    if (this.#skipOperator('(')) {
      const tuple = this.#tuple(true, [], true)
      this.#expectOperator(')')
      return tuple
    }
    if (this.#skipOperator('[')) return { kind: 'list', items: this.#listUpTo(']', () => this.#expression()) }
    if (!this.#skipOperator('{')) throw this.#fault(`expected an expression, found ${this.#found()}`)
    const entries = this.#listUpTo('}', () => {
      const key = this.#expression()
      this.#expectOperator(':')
      return [key, this.#expression()] as const
    })
    return { kind: 'dict', entries }
  }

  #listUpTo<T>(end: string, item: () => T): readonly T[] {
    const items: T[] = []
    while (!this.#isOperator(end)) {
      if (items.length > 0) this.#expectOperator(',')
      if (!this.#isOperator(end)) items.push(item())
    }
    this.#expectOperator(end)
    return items
  }

  #postfix(value: TemplateExpression): TemplateExpression {
    for (let of = value; ;) {
      if (this.#skipOperator('.')) {
        const { kind, value: name } = this.#next()
        if (kind !== 'name' && kind !== 'number') throw this.#fault('expected a name or a number behind the dot')
        of = kind === 'name' ? { kind: 'attribute', of, name } : { kind: 'item', of, key: { kind: 'constant', value: toNumber(name) } } // prettier-ignore
      } else if (this.#skipOperator('[')) of = this.#subscript(of)
      else if (this.#isOperator('(')) of = { kind: 'call', callee: of, args: this.#arguments() }
      else return of
    }
  }

  #subscript(of: TemplateExpression): TemplateExpression {
    const bounds: (TemplateExpression | null)[] = []
    let isSlice = false
    for (;;) {
      const isEmpty = this.#isOperator(':') || this.#isOperator(']')
      bounds.push(isEmpty ? null : this.#tuple())
      if (!this.#skipOperator(':')) break
      isSlice = true
    }
    this.#expectOperator(']')
    const [key] = bounds
    if (isSlice && bounds.length <= 3) return { kind: 'slice', of, bounds }
    if (isSlice || key === undefined || key === null) throw this.#fault('expected an index')
    return { kind: 'item', of, key }
  }

  #filters(value: TemplateExpression | null): TemplateExpression {
    let filtered = value
    for (;;) {
      if (this.#skipOperator('|')) filtered = { kind: 'filter', of: filtered, filter: this.#application('filter') }
      else if (filtered === null) throw this.#fault('expected a filter')
      else if (this.#skipName('is')) filtered = this.#test(filtered)
      else if (this.#isOperator('(')) filtered = { kind: 'call', callee: filtered, args: this.#arguments() }
      else return filtered
    }
  }

  #test(of: TemplateExpression): TemplateExpression {
    const isNegated = this.#skipName('not')
    const test: TemplateExpression = { kind: 'test', of, test: this.#application('test') }
    return isNegated ? { kind: 'not', of: test } : test
  }

  #application(what: 'filter' | 'test'): Application {
    const { value: name } = this.#expect('name', `the name of a ${what}`)
    const known = what === 'filter' ? FILTERS : TESTS
    if (UNSUPPORTED_FILTERS.has(name) && what === 'filter') throw this.#fault(`the filter '${name}' is not supported`)
    if (!known.has(name) && this.#numBranches === 0) throw this.#fault(`there is no ${what} '${name}'`)
    if (this.#isOperator('(')) return { name, args: this.#arguments() }
    if (what === 'filter' || !this.#beginsOperand()) return { name, args: NO_ARGUMENTS }
    if (this.#isName('is')) throw this.#fault('one test cannot follow another')
    return { name, args: { ...NO_ARGUMENTS, positional: [this.#postfix(this.#primary())] } }
  }

  /** Whether a test's one argument follows it without brackets. */
  #beginsOperand(): boolean {
    const { kind, value } = this.#current
    if (kind === 'name') return !['else', 'or', 'and'].includes(value)
    return kind === 'string' || kind === 'number' || (kind === 'operator' && ['[', '{'].includes(value))
  }

  #arguments(): CallArguments {
    this.#expectOperator('(')
    const positional: TemplateExpression[] = []
    const named: (readonly [string, TemplateExpression])[] = []
    let list: TemplateExpression | null = null
    let dictionary: TemplateExpression | null = null
    for (let isFirst = true; !this.#isOperator(')'); isFirst = false) {
      if (!isFirst) {
        this.#expectOperator(',')
        if (this.#isOperator(')')) break
      }
      const next = this.#tokens[this.#at + 1]
      if (this.#skipOperator('*')) list = this.#expression()
      else if (this.#skipOperator('**')) dictionary = this.#expression()
      else if (this.#current.kind === 'name' && next?.kind === 'operator' && next.value === '=') {
        const { value: name } = this.#next()
        this.#at++
        named.push([name, this.#expression()])
      } else if (named.length > 0) throw this.#fault('an argument without a name follows one with a name')
      else positional.push(this.#expression())
    }
    this.#expectOperator(')')
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
