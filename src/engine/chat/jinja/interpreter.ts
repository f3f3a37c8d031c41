/** Renders a parsed template. */
import { TemplateFault } from './errors.ts'
import { FILTERS } from './filters.ts'
import { GLOBALS } from './globals.ts'
import { loopVariable } from './loop-variable.ts'
import { methodOf } from './methods.ts'
import type { Application, Body, CallArguments, Comparison, TemplateExpression, ForStatement, MacroStatement, Statement, Target } from './nodes.ts' // prettier-ignore
import { applyBinary, applyComparison, indexOf, applySign, sliceOf } from './operators.ts'
import { Budget, call } from './runtime.ts'
import type { Runtime } from './runtime.ts'
import { TESTS } from './tests.ts'
import {
  Callable,
  Dict,
  equals,
  HostObject,
  isList,
  isNumeric,
  isTrue,
  itemsByIndex,
  itemsOf,
  Namespace,
  plainOf,
  reprOf,
  PyGenerator,
  textOf,
  Tuple,
  typeName,
  Undefined,
} from './values.ts'
import type { Arguments, Value } from './values.ts'

/** Variables by name. Those of the enclosing scope can be read. */
class Scope {
  readonly #values = new Map<string, Value>()
  readonly #around: Scope | null

  constructor(around: Scope | null) {
    this.#around = around
  }

  get(name: string): Value | undefined {
    return this.#values.get(name) ?? (this.#values.has(name) ? null : this.#around?.get(name))
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value)
  }
}

type Signal = 'break' | 'continue' | null

/** The text of a template. @throws TemplateFault and TemplateRefusal */
export function renderTemplate(body: Body, variables: ReadonlyMap<string, Value>): string {
  const globals = new Scope(null)
  for (const [name, value] of [...GLOBALS, ...variables]) globals.set(name, value)
  return new Interpreter().render(body, new Scope(globals))
}

class Interpreter implements Runtime {
  readonly budget = new Budget()

  render(body: Body, scope: Scope): string {
    const output: string[] = []
    this.#run(body, scope, output)
    return output.join('')
  }

  filter(name: string, value: Value, args: Arguments): Value {
    const filter = FILTERS.get(name)
    if (filter === undefined) throw new TemplateFault(`there is no filter '${name}'`)
    this.budget.step()
    return filter(value, args, this)
  }

  test(name: string, value: Value, { positional, named }: Arguments): boolean {
    if (name === 'filter' || name === 'test') return (name === 'filter' ? FILTERS : TESTS).has(textOf(value))
    const test = TESTS.get(name)
    if (test === undefined) throw new TemplateFault(`there is no test '${name}'`)
    this.budget.step()
    return test(value, [...positional, ...named.values()])
  }

  /** value.name: the attribute of that name, else the item. */
  attribute(of: Value, name: string): Value {
    const own = this.#own(of, name)
    if (own !== undefined) return own
    const member = this.#member(of, name)
    return member === undefined ? this.#missing(of, name) : member
  }

  /** The attribute, for which no item stands in. */
  ownAttribute(of: Value, name: string): Value {
    const own = this.#own(of, name)
    return own === undefined ? this.#missing(of, name) : own
  }

  /** value[key]: the item, else the attribute of that name. */
  item(of: Value, key: Value): Value {
    const found = this.#member(of, key)
    if (found !== undefined) return found
    const own = typeof key === 'string' ? this.#own(of, key) : undefined
    return own === undefined ? this.#missing(of, key) : own
  }

  #own(of: Value, name: string): Value | undefined {
    if (of instanceof Undefined) return of.fail()
    if (of instanceof Namespace) return of.values.get(name)
    if (of instanceof HostObject) return Object.hasOwn(of.attributes, name) ? of.attributes[name] : undefined
    if (of instanceof Tuple && of.names.includes(name)) return of.items[of.names.indexOf(name)]
    if (of instanceof Callable) return name === 'name' ? of.name : undefined
    return methodOf(of, name, this)
  }

  #member(of: Value, key: Value): Value | undefined {
    if (of instanceof Undefined) return of.fail()
    if (of instanceof Dict) return isHashable(key) ? (of.get(key) ?? (of.has(key) ? null : undefined)) : undefined
    const items = itemsByIndex(of)
    const plain = plainOf(key)
    if (items === null || !isNumeric(plain) || typeof plain === 'number') return undefined
    const index = indexOf(plain)
    return items[index < 0 ? index + items.length : index]
  }

  #missing(of: Value, key: Value): Undefined {
    const what = typeof key === 'string' || isNumeric(plainOf(key)) ? reprOf(key) : 'such'
    return new Undefined(`'${typeName(of)} object' has no attribute ${what}`)
  }

  #run(body: Body, scope: Scope, output: string[]): Signal {
    for (const statement of body) {
      const signal = this.#statement(statement, scope, output)
      if (signal !== null) return signal
    }
    return null
  }

  #write(text: string, output: string[]): void {
    this.budget.spend(text.length)
    output.push(text)
  }

  #statement(statement: Statement, scope: Scope, output: string[]): Signal {
    this.budget.step()
    switch (statement.kind) {
      case 'text':
        this.#write(statement.text, output)
        return null
      case 'output':
        this.#write(textOf(this.#evaluate(statement.value, scope)), output)
        return null
      case 'set':
        this.#assign(statement.target, this.#evaluate(statement.value, scope), scope)
        return null
      case 'setBlock': {
        const text = this.render(statement.body, new Scope(scope))
        this.#assign(statement.target, this.#filtered(statement.filter, text, scope), scope)
        return null
      }
      case 'if': {
        const taken = statement.branches.find(([test]) => isTrue(this.#evaluate(test, scope)))
        return this.#run(taken?.[1] ?? statement.otherwise, scope, output)
      }
      case 'for':
        this.#loop(statement, this.#evaluate(statement.of, scope), scope, output, 0)
        return null
      case 'macro':
        scope.set(statement.name, this.#macro(statement, scope))
        return null
      case 'callBlock': {
        const { call: called, macro } = statement
        if (called.kind === 'call') {
          const args = this.#arguments(called.args, scope)
          const named = new Map([...args.named, ['caller', this.#macro(macro, scope)] as const])
          this.#write(textOf(call(this.#evaluate(called.callee, scope), { ...args, named })), output)
        }
        return null
      }
      case 'filterBlock':
        this.#write(
          textOf(this.#filtered(statement.filter, this.render(statement.body, new Scope(scope)), scope)),
          output,
        )
        return null
      case 'with': {
        const inner = new Scope(scope)
        for (const [target, value] of statement.values) this.#assign(target, this.#evaluate(value, scope), inner)
        return this.#run(statement.body, inner, output)
      }
      case 'scope':
        return this.#run(statement.body, new Scope(scope), output)
      case 'break':
      case 'continue':
        return statement.kind
    }
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    switch (target.kind) {
      case 'name':
        scope.set(target.name, value)
        return
      case 'member': {
        const namespace = scope.get(target.namespace)
        if (!(namespace instanceof Namespace))
          throw new TemplateFault('cannot assign attribute on non-namespace object')
        namespace.values.set(target.name, value)
        return
      }
      case 'tuple': {
        const items = itemsOf(value)
        if (items.length !== target.items.length)
          throw new TemplateFault(`expected ${target.items.length} values to unpack, found ${items.length}`)
        for (const [i, each] of target.items.entries()) this.#assign(each, items[i] ?? null, scope)
      }
    }
  }

  #loop(statement: ForStatement, of: Value, scope: Scope, output: string[], depth: number): void {
    const { target, test, body, otherwise, isRecursive } = statement
    const items = itemsOf(of).filter((item) => {
      if (test === null) return true
      const inner = new Scope(scope)
      this.#assign(target, item, inner)
      return isTrue(this.#evaluate(test, inner))
    })
    const recurse = (args: Arguments): Value => {
      const parts: string[] = []
      this.#loop(statement, args.positional[0] ?? null, scope, parts, depth + 1)
      return parts.join('')
    }
    let changed: readonly Value[] | null = null
    const hasChanged = new Callable('changed', ({ positional }) => {
      const isNew = changed === null || !equals(positional, changed)
      changed = positional
      return isNew
    })
    for (const [i, item] of items.entries()) {
      this.budget.step()
      const inner = new Scope(scope)
      inner.set('loop', loopVariable(items, i, depth, hasChanged, isRecursive ? recurse : null))
      this.#assign(target, item, inner)
      if (this.#run(body, inner, output) === 'break') break
    }
    if (items.length === 0) this.#run(otherwise, new Scope(scope), output)
  }

  #macro({ name, parameters, body }: MacroStatement, around: Scope): Callable {
    return new Callable(name, ({ positional, named }) => {
      const scope = new Scope(around)
      const others = new Map(named)
      for (const [i, { name: parameter, fallback }] of parameters.entries()) {
        const given = positional[i] ?? (i < positional.length ? null : others.get(parameter))
        others.delete(parameter)
        if (given !== undefined) scope.set(parameter, given)
        else if (fallback === null) scope.set(parameter, new Undefined(`parameter '${parameter}' was not provided`))
        else scope.set(parameter, this.#evaluate(fallback, scope))
      }
      scope.set('caller', others.get('caller') ?? new Undefined('No caller defined'))
      others.delete('caller')
      scope.set('varargs', new Tuple(positional.slice(parameters.length)))
      scope.set('kwargs', new Dict(others))
      return this.render(body, scope)
    })
  }

  #filtered(filter: TemplateExpression | null, text: string, scope: Scope): Value {
    if (filter === null) return text
    if (filter.kind !== 'filter') throw new TemplateFault('expected filters')
    return this.#apply(filter.filter, this.#filtered(filter.of, text, scope), scope)
  }

  #apply({ name, args }: Application, value: Value, scope: Scope): Value {
    return this.filter(name, value, this.#arguments(args, scope))
  }

  #arguments({ positional, named, list, dictionary }: CallArguments, scope: Scope): Arguments {
    const given = positional.map((each) => this.#evaluate(each, scope))
    if (list !== null) given.push(...itemsOf(this.#evaluate(list, scope)))
    const byName = new Map(named.map(([name, value]) => [name, this.#evaluate(value, scope)] as const))
    if (dictionary !== null) {
      const more = this.#evaluate(dictionary, scope)
      if (!(more instanceof Dict)) throw new TemplateFault('argument after ** must be a mapping')
      for (const [key, value] of more.entries()) byName.set(textOf(key), value)
    }
    return { positional: given, named: byName }
  }

  #evaluate(expression: TemplateExpression, scope: Scope): Value {
    this.budget.step()
    switch (expression.kind) {
      case 'constant':
        return expression.value
      case 'name':
        return scope.get(expression.name) ?? this.#unnamed(expression.name, scope)
      case 'list':
        return expression.items.map((item) => this.#evaluate(item, scope))
      case 'tuple':
        return new Tuple(expression.items.map((item) => this.#evaluate(item, scope)))
      case 'dict':
        return new Dict(
          expression.entries.map(([key, value]) => [this.#evaluate(key, scope), this.#evaluate(value, scope)] as const),
        )
      case 'choice': {
        const { test, value, otherwise } = expression
        if (isTrue(this.#evaluate(test, scope))) return this.#evaluate(value, scope)
        return otherwise === null ? new Undefined('the inline if-expression evaluated to false') : this.#evaluate(otherwise, scope) // prettier-ignore
      }
      case 'and': {
        const left = this.#evaluate(expression.left, scope)
        return isTrue(left) ? this.#evaluate(expression.right, scope) : left
      }
      case 'or': {
        const left = this.#evaluate(expression.left, scope)
        return isTrue(left) ? left : this.#evaluate(expression.right, scope)
      }
      case 'not':
        return !isTrue(this.#evaluate(expression.of, scope))
      case 'negative':
      case 'positive':
        return applySign(this.#evaluate(expression.of, scope), expression.kind === 'negative')
      case 'binary': {
        const { operator, left, right } = expression
        return applyBinary(operator, this.#evaluate(left, scope), this.#evaluate(right, scope), this.budget)
      }
      case 'concat': {
        const text = expression.parts.map((part) => textOf(this.#evaluate(part, scope))).join('')
        this.budget.spend(text.length)
        return text
      }
      case 'compare':
        return this.#compare(expression.first, expression.rest, scope)
      case 'attribute':
        return this.attribute(this.#evaluate(expression.of, scope), expression.name)
      case 'item':
        return this.item(this.#evaluate(expression.of, scope), this.#evaluate(expression.key, scope))
      case 'slice': {
        const bounds = expression.bounds.map((bound) => bound && this.#evaluate(bound, scope))
        return sliceOf(this.#evaluate(expression.of, scope), bounds, this.budget)
      }
      case 'call':
        return call(this.#evaluate(expression.callee, scope), this.#arguments(expression.args, scope))
      case 'filter': {
        const value = expression.of === null ? '' : this.#evaluate(expression.of, scope)
        return this.#apply(expression.filter, value, scope)
      }
      case 'test': {
        const { name, args } = expression.test
        return this.test(name, this.#evaluate(expression.of, scope), this.#arguments(args, scope))
      }
    }
  }

  #unnamed(name: string, scope: Scope): Value {
    return scope.get(name) === null ? null : new Undefined(`'${name}' is undefined`)
  }

  #compare(
    first: TemplateExpression,
    rest: readonly (readonly [Comparison, TemplateExpression])[],
    scope: Scope,
  ): boolean {
    let left = this.#evaluate(first, scope)
    for (const [operator, operand] of rest) {
      const right = this.#evaluate(operand, scope)
      if (!applyComparison(operator, left, right)) return false
      left = right
    }
    return true
  }
}

function isHashable(key: Value): boolean {
  return !isList(key) && !(key instanceof Dict) && !(key instanceof PyGenerator)
}
