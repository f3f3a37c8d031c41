/** Global functions of templates. */
import { TemplateFault, TemplateRefusal } from './errors.ts'
import { indexOf } from './operators.ts'
import { bindArguments } from './runtime.ts'
import { Callable, Dict, HostObject, itemsOf, Namespace, textOf } from './values.ts'
import type { Arguments, Value } from './values.ts'

/** As jinja2's sandbox. */
const MAX_RANGE = 100_000

function range({ positional }: Arguments): Value {
  const [first, second, third = 1n] = positional
  if (first === undefined) throw new TemplateFault('range expected at least 1 argument, got 0')
  const [from, to] = second === undefined ? [0, indexOf(first)] : [indexOf(first), indexOf(second)]
  const step = indexOf(third)
  if (step === 0) throw new TemplateFault('range() arg 3 must not be zero')
  const length = Math.max(0, Math.ceil((to - from) / step))
  if (length > MAX_RANGE) throw new TemplateFault(`range() of more than ${MAX_RANGE} numbers`)
  return Array.from({ length }, (_, i) => BigInt(from + i * step))
}

function dict({ positional: [given], named }: Arguments): Dict {
  const entries = given === undefined ? [] : given instanceof Dict ? given.entries() : itemsOf(given).map(pairOf)
  return new Dict([...entries, ...named])
}

function pairOf(value: Value): readonly [Value, Value] {
  const [key = null, item = null] = itemsOf(value)
  return [key, item]
}

function namespace(args: Arguments): Namespace {
  return new Namespace(
    new Map(
      dict(args)
        .entries()
        .map(([key, value]) => [textOf(key), value]),
    ),
  )
}

/** Returns its separator at every call but the first. */
function joiner(args: Arguments): Callable {
  const { sep = ', ' } = bindArguments('joiner', ['sep'], args)
  let isUsed = false
  return new Callable('joiner', () => {
    const separator = isUsed ? sep : ''
    isUsed = true
    return separator
  })
}

function cycler({ positional }: Arguments): HostObject {
  if (positional.length === 0) throw new TemplateFault('at least one item has to be provided')
  let at = 0
  const current = (): Value => positional[at] ?? null
  return new HostObject('Cycler', {
    get current() {
      return current()
    },
    next: new Callable('next', () => {
      const value = current()
      at = (at + 1) % positional.length
      return value
    }),
    reset: new Callable('reset', () => {
      at = 0
      return null
    }),
  })
}

const two = (value: number): string => String(value).padStart(2, '0')
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'] // prettier-ignore

function dayOfYear(date: Date): number {
  const startOfYear = Date.UTC(date.getFullYear(), 0, 1)
  return Math.round((Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - startOfYear) / 86_400_000) + 1
}

/** As C's strftime, in the C locale. */
function strftime(format: string, now: Date): string {
  const [day, month] = [DAYS[now.getDay()] ?? '', MONTHS[now.getMonth()] ?? '']
  const date = `${two(now.getMonth() + 1)}/${two(now.getDate())}/${two(now.getFullYear() % 100)}`
  const time = `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`
  const known: Readonly<Record<string, string>> = {
    Y: String(now.getFullYear()),
    y: two(now.getFullYear() % 100),
    m: two(now.getMonth() + 1),
    d: two(now.getDate()),
    e: String(now.getDate()).padStart(2),
    H: two(now.getHours()),
    I: two(now.getHours() % 12 || 12),
    M: two(now.getMinutes()),
    S: two(now.getSeconds()),
    f: `${String(now.getMilliseconds()).padStart(3, '0')}000`,
    j: String(dayOfYear(now)).padStart(3, '0'),
    p: now.getHours() < 12 ? 'AM' : 'PM',
    A: day,
    a: day.slice(0, 3),
    B: month,
    b: month.slice(0, 3),
    h: month.slice(0, 3),
    w: String(now.getDay()),
    u: String(now.getDay() || 7),
    D: date,
    x: date,
    F: `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`,
    T: time,
    X: time,
    R: time.slice(0, 5),
    Z: '',
    z: '',
    n: '\n',
    t: '\t',
    '%': '%',
  }
  return format.replace(/%(-?)([^])/g, (whole, minus: string, name: string) => {
    const text = known[name]
    if (text === undefined) return whole
    return minus === '' ? text : text.replace(/^[0 ]+(?=\d)/, '')
  })
}

export const GLOBALS: ReadonlyMap<string, Value> = new Map<string, Value>(
  Object.entries({
    range,
    dict,
    namespace,
    joiner,
    cycler,
    strftime_now: (args: Arguments) =>
      strftime(textOf(bindArguments('strftime_now', ['format'], args).format ?? null), new Date()),
    raise_exception: (args: Arguments): never => {
      throw new TemplateRefusal(textOf(bindArguments('raise_exception', ['message'], args).message ?? null))
    },
  }).map(([name, run]) => [name, new Callable(name, run)]),
)
