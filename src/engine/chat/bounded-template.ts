/** Jinja templates that come with models, rendered in bounded time and memory: a model's file may be broken, or hostile. */
import { Environment, Interpreter, Template } from '@huggingface/jinja'

/** Statements and expressions of one rendering: a long conversation takes some ten thousand. */
const MAX_STEPS = 2_000_000
const MAX_OUTPUT_CHARACTERS = 64 * 1024 * 1024
const MAX_RANGE = 100_000

/** The template does what no template for a conversation has to: the model's fault, whoever asked. */
export class TemplateFault extends Error {
  override readonly name = 'TemplateFault'
}

/** The template refuses the conversation, in its own words (`raise_exception`). */
export class TemplateRefusal extends Error {
  override readonly name = 'TemplateRefusal'
}

export class BoundedTemplate {
  readonly #parsed: unknown

  /** Throws for what cannot be parsed. */
  constructor(source: string) {
    this.#parsed = new Template(source).parsed
  }

  /** Throws TemplateRefusal, and TemplateFault for everything else that goes wrong. */
  render(values: Readonly<Record<string, unknown>>): string {
    const environment = new ScopeOf()
    for (const [name, value] of Object.entries({ ...GLOBALS, ...values })) environment.set(name, value)
    try {
      const { value } = new CountingInterpreter(environment).run(this.#parsed)
      return String(value)
    } catch (error) {
      if (error instanceof TemplateRefusal || error instanceof TemplateFault) throw error
      throw new TemplateFault(error instanceof Error ? error.message : String(error), { cause: error })
    }
  }
}

/** What is used of the library, whose types do not resolve from here. */
interface Value {
  readonly type: string
  readonly value: unknown
}
interface Scope {
  set(name: string, value: unknown): unknown
  lookupVariable(name: string): Value
}
interface Evaluator {
  run(program: unknown): Value
  evaluate(statement: unknown, environment: unknown): Value
  evaluateBlock(statements: readonly unknown[], environment: unknown): Value
  applyFilter(operand: Value, filter: unknown, environment: unknown): Value
}
const ScopeOf: new () => Scope = Environment
const EvaluatorOf: new (environment: Scope) => Evaluator = Interpreter

class CountingInterpreter extends EvaluatorOf {
  readonly #iterables = new WeakSet<object>()
  #numSteps = 0
  #numCharacters = 0

  override evaluate(statement: unknown, environment: unknown): Value {
    if (++this.#numSteps > MAX_STEPS) throw new TemplateFault(`it takes more than ${MAX_STEPS} steps`)
    const iterable = isNode(statement) && statement.type === 'For' ? statement.iterable : null
    if (isNode(iterable)) this.#iterables.add(iterable.type === 'SelectExpression' && isNode(iterable.lhs) ? iterable.lhs : iterable) // prettier-ignore
    const found = super.evaluate(statement, environment)
    // As in Python, where a loop over what is not there is none.
    const isNothing = found.type === 'UndefinedValue' && isNode(statement) && this.#iterables.has(statement)
    const value = isNothing ? runtimeValue([]) : found
    if (value.type === 'StringValue') {
      this.#numCharacters += typeof value.value === 'string' ? value.value.length : 0
      if (this.#numCharacters > MAX_OUTPUT_CHARACTERS)
        throw new TemplateFault(`it makes more than ${MAX_OUTPUT_CHARACTERS} characters of text`)
    }
    return value
  }

  /** What is printed is Python's: `None`, `True`. The library prints nothing and `true`. */
  override evaluateBlock(statements: readonly unknown[], environment: unknown): Value {
    let text = ''
    for (const statement of statements) {
      const value = this.evaluate(statement, environment)
      const isPrinted = value.type !== 'UndefinedValue' && (value.type !== 'NullValue' || isExpression(statement))
      if (isPrinted) text += pythonText(value) ?? String(value)
    }
    return runtimeValue(text)
  }

  override applyFilter(operand: Value, filter: unknown, environment: unknown): Value {
    const text =
      isNode(filter) && filter.type === 'Identifier' && filter.value === 'string' ? pythonText(operand) : null
    return text === null ? super.applyFilter(operand, filter, environment) : runtimeValue(text)
  }
}

interface Node {
  readonly type: unknown
  readonly value?: unknown
  /** Of a loop, and of a loop with a condition. */
  readonly iterable?: unknown
  readonly lhs?: unknown
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value
}

const STATEMENTS: ReadonlySet<unknown> = new Set(['Set', 'If', 'For', 'Macro', 'CallStatement', 'FilterStatement', 'Comment', 'Break', 'Continue']) // prettier-ignore

function isExpression(statement: unknown): boolean {
  return isNode(statement) && !STATEMENTS.has(statement.type)
}

/** A value as the library holds it. */
function runtimeValue(value: unknown): Value {
  const scope = new ScopeOf()
  scope.set('value', value)
  return scope.lookupVariable('value')
}

/** What str() makes of the words; null for every other value. */
function pythonText({ type, value }: Value): string | null {
  if (type === 'NullValue') return 'None'
  return type === 'BooleanValue' ? (value === true ? 'True' : 'False') : null
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined || stop === null ? [0, start] : [start, stop]
  if (!Number.isInteger(step) || step === 0) throw new TemplateFault('range() of a step that is none')
  const length = Math.max(0, Math.ceil((to - from) / step))
  if (length > MAX_RANGE) throw new TemplateFault(`range() of more than ${MAX_RANGE} numbers`)
  return Array.from({ length }, (_, i) => from + i * step)
}

const two = (value: number): string => String(value).padStart(2, '0')
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'] // prettier-ignore

/** As C's strftime, in the C locale. */
function strftimeNow(format: string): string {
  const now = new Date()
  const [day, month] = [DAYS[now.getDay()] ?? '', MONTHS[now.getMonth()] ?? '']
  const known: Readonly<Record<string, string>> = {
    Y: String(now.getFullYear()),
    y: two(now.getFullYear() % 100),
    m: two(now.getMonth() + 1),
    d: two(now.getDate()),
    H: two(now.getHours()),
    I: two(now.getHours() % 12 || 12),
    M: two(now.getMinutes()),
    S: two(now.getSeconds()),
    p: now.getHours() < 12 ? 'AM' : 'PM',
    A: day,
    a: day.slice(0, 3),
    B: month,
    b: month.slice(0, 3),
    '%': '%',
  }
  return format.replace(/%-?(.)/g, (whole, name: string) => known[name] ?? whole)
}

const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range,
  strftime_now: strftimeNow,
  raise_exception: (message: unknown) => {
    throw new TemplateRefusal(String(message))
  },
}
