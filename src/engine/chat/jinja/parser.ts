/** Parses the statements of a template: Jinja's grammar, with the loop controls and the tag `generation` of transformers. */
import { ExpressionParser } from './expression-parser.ts'
import type { Body, Parameter, Statement, Target, TemplateExpression } from './nodes.ts'
import { TokenReader } from './token-reader.ts'

/** Parses a template. @throws TemplateFault for invalid or unsupported syntax, naming the line */
export function parseTemplate(source: string): Body {
  return new StatementParser(new TokenReader(source)).parse()
}

/** Tags that read other files. */
const OTHER_FILES: ReadonlySet<string> = new Set(['extends', 'include', 'import', 'from'])

class StatementParser {
  readonly #tokens: TokenReader
  readonly #expressions: ExpressionParser

  constructor(tokens: TokenReader) {
    this.#tokens = tokens
    this.#expressions = new ExpressionParser(tokens)
  }

  parse(): Body {
    const body = this.#body([])
    if (this.#tokens.current.kind !== 'end') throw this.#tokens.fault(`unexpected tag '${this.#tokens.current.value}'`)
    return body
  }

  /** Parses up to one of the tags, whose name becomes the current token, or to the end. */
  #body(ends: readonly string[]): Body {
    const body: Statement[] = []
    while (this.#tokens.current.kind !== 'end') {
      const token = this.#tokens.next()
      if (token.kind === 'data') body.push({ kind: 'text', text: token.value })
      else if (token.kind === 'variable_begin') {
        body.push({ kind: 'output', value: this.#expressions.tuple() })
        this.#tokens.expect('variable_end', "'}}'")
      } else {
        if (this.#tokens.current.kind === 'name' && ends.includes(this.#tokens.current.value)) return body
        body.push(...this.#statement())
        this.#tokens.expect('block_end', "'%}'")
      }
    }
    if (ends.length > 0) throw this.#tokens.fault(`expected ${ends.join(' or ')}, found the end of the template`)
    return body
  }

  /** The body of a tag. @returns the end tag that was found, whose name is read. */
  #bodyOfTag(...ends: string[]): { readonly body: Body; readonly end: string } {
    this.#tokens.skipOperator(':')
    this.#tokens.expect('block_end', "'%}'")
    const body = this.#body(ends)
    return { body, end: this.#tokens.next().value }
  }

  #statement(): readonly Statement[] {
    const { value: tag } = this.#tokens.expect('name', 'the name of a tag')
    switch (tag) {
      case 'for':
        return [this.#for()]
      case 'if':
        return [this.#expressions.inBranch(() => this.#if())]
      case 'set':
        return [this.#set()]
      case 'macro':
        return [this.#macro(this.#tokens.expect('name', 'a name').value, 'endmacro')]
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
        this.#tokens.back()
        throw this.#tokens.fault(
          OTHER_FILES.has(tag) ? `the tag '${tag}' reads another file, which a chat template cannot` : `unknown tag '${tag}'`, // prettier-ignore
        )
    }
  }

  #for(): Statement {
    const target = this.#target(['in'])
    if (!this.#tokens.skipName('in')) throw this.#tokens.fault(`expected 'in', found ${this.#tokens.found()}`)
    const of = this.#expressions.tuple(false, ['recursive'])
    const test = this.#tokens.skipName('if') ? this.#expressions.expression() : null
    const isRecursive = this.#tokens.skipName('recursive')
    const { body, end } = this.#bodyOfTag('endfor', 'else')
    const otherwise = end === 'else' ? this.#bodyOfTag('endfor').body : []
    return { kind: 'for', target, of, test, isRecursive, body, otherwise }
  }

  #if(): Statement {
    const branches: (readonly [TemplateExpression, Body])[] = []
    for (let end = 'elif'; end !== 'endif';) {
      if (end === 'else') return { kind: 'if', branches, otherwise: this.#bodyOfTag('endif').body }
      const test = this.#expressions.tuple(false)
      const branch = this.#bodyOfTag('elif', 'else', 'endif')
      branches.push([test, branch.body])
      ;({ end } = branch)
    }
    return { kind: 'if', branches, otherwise: [] }
  }

  #set(): Statement {
    const target = this.#target([], true)
    if (this.#tokens.skipOperator('=')) return { kind: 'set', target, value: this.#expressions.tuple() }
    const filter = this.#tokens.isOperator('|') ? this.#expressions.filters(null) : null
    return { kind: 'setBlock', target, filter, body: this.#bodyOfTag('endset').body }
  }

  #macro(name: string, end: string): Extract<Statement, { kind: 'macro' }> {
    const parameters = this.#parameters()
    return { kind: 'macro', name, parameters, body: this.#bodyOfTag(end).body }
  }

  #parameters(): readonly Parameter[] {
    const parameters: Parameter[] = []
    this.#tokens.expectOperator('(')
    while (!this.#tokens.isOperator(')')) {
      if (parameters.length > 0) this.#tokens.expectOperator(',')
      const { value: name } = this.#tokens.expect('name', 'the name of a parameter')
      parameters.push({ name, fallback: this.#tokens.skipOperator('=') ? this.#expressions.expression() : null })
    }
    this.#tokens.expectOperator(')')
    return parameters
  }

  #callBlock(): Statement {
    const parameters = this.#tokens.isOperator('(') ? this.#parameters() : []
    const call = this.#expressions.expression()
    if (call.kind !== 'call') throw this.#tokens.fault('expected a call')
    const { body } = this.#bodyOfTag('endcall')
    return { kind: 'callBlock', call, macro: { kind: 'macro', name: 'caller', parameters, body } }
  }

  #filterBlock(): Statement {
    let filter: TemplateExpression = { kind: 'filter', of: null, filter: this.#expressions.application('filter') }
    if (this.#tokens.isOperator('|')) filter = this.#expressions.filters(filter)
    return { kind: 'filterBlock', filter, body: this.#bodyOfTag('endfilter').body }
  }

  #with(): Statement {
    const values: (readonly [Target, TemplateExpression])[] = []
    while (this.#tokens.current.kind !== 'block_end') {
      if (values.length > 0) this.#tokens.expectOperator(',')
      const target = this.#target([])
      this.#tokens.expectOperator('=')
      values.push([target, this.#expressions.expression()])
    }
    return { kind: 'with', values, body: this.#bodyOfTag('endwith').body }
  }

  #print(): readonly Statement[] {
    const outputs: Statement[] = []
    while (this.#tokens.current.kind !== 'block_end') {
      if (outputs.length > 0) this.#tokens.expectOperator(',')
      outputs.push({ kind: 'output', value: this.#expressions.expression() })
    }
    return outputs
  }

  #block(): Statement {
    const { value: name } = this.#tokens.expect('name', "the block's name")
    this.#tokens.skipName('scoped')
    this.#tokens.skipName('required')
    const { body } = this.#bodyOfTag('endblock')
    this.#tokens.skipName(name)
    return { kind: 'scope', body }
  }

  #autoescape(): Statement {
    const value = this.#expressions.expression()
    if (value.kind !== 'constant' || value.value !== false)
      throw this.#tokens.fault("the tag 'autoescape' is not supported")
    return { kind: 'scope', body: this.#bodyOfTag('endautoescape').body }
  }

  #target(ends: readonly string[], takesMembers = false): Target {
    const targets: Target[] = []
    let isTuple = false
    while (
      !(this.#tokens.current.kind === 'name' && ends.includes(this.#tokens.current.value)) &&
      this.#tokens.current.kind !== 'block_end'
    ) {
      targets.push(this.#oneTarget(takesMembers))
      if (!this.#tokens.skipOperator(',')) break
      isTuple = true
    }
    const [first] = targets
    if (first === undefined) throw this.#tokens.fault(`expected a name to assign to, found ${this.#tokens.found()}`)
    return isTuple ? { kind: 'tuple', items: targets } : first
  }

  #oneTarget(takesMembers: boolean): Target {
    if (this.#tokens.skipOperator('(')) {
      const items: Target[] = []
      while (!this.#tokens.isOperator(')')) {
        if (items.length > 0) this.#tokens.expectOperator(',')
        if (!this.#tokens.isOperator(')')) items.push(this.#oneTarget(takesMembers))
      }
      this.#tokens.expectOperator(')')
      const [only] = items
      return items.length === 1 && only !== undefined ? only : { kind: 'tuple', items }
    }
    const { value: name } = this.#tokens.expect('name', 'a name to assign to')
    if (!takesMembers || !this.#tokens.skipOperator('.')) return { kind: 'name', name }
    return { kind: 'member', namespace: name, name: this.#tokens.expect('name', 'a name').value }
  }
}
