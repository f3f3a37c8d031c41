/** Operators, slices and the like, as Python has them. */
import { TemplateFault } from './errors.ts'
import type { BinaryOperator, Comparison } from './nodes.ts'
import { add, divide, floorDivide, modulo, multiply, power, subtract } from './numbers.ts'
import type { Budget } from './runtime.ts'
import { percentFormat } from './text-format.ts'
import {
  compare,
  Dict,
  equals,
  isList,
  isNumeric,
  itemsByIndex,
  itemsOf,
  numberOf,
  plainOf,
  PyGenerator,
  Tuple,
  typeName,
  Undefined,
} from './values.ts'
import type { Value } from './values.ts'

const ARITHMETIC = { '+': add, '-': subtract, '*': multiply, '/': divide, '//': floorDivide, '%': modulo, '**': power }

/** Result of a binary operator with Python's rules for types. @throws TemplateFault */
export function applyBinary(operator: BinaryOperator, left: Value, right: Value, budget: Budget): Value {
  const [a, b] = [plainOf(left), plainOf(right)]
  if (isNumeric(a) && isNumeric(b)) return ARITHMETIC[operator](numberOf(a), numberOf(b))
  if (a instanceof Undefined) return a.fail()
  if (operator === '%' && typeof a === 'string') return percentFormat(a, right, budget)
  if (b instanceof Undefined) return b.fail()
  if (operator === '+') {
    if (typeof a === 'string' && typeof b === 'string') {
      budget.spend(a.length + b.length)
      return a + b
    }
    if (isList(a) && isList(b)) return joined(a, b, budget)
    if (a instanceof Tuple && b instanceof Tuple) return new Tuple(joined(a.items, b.items, budget))
  }
  if (operator === '*') {
    if (isNumeric(b)) return repeated(a, b, budget)
    if (isNumeric(a)) return repeated(b, a, budget)
  }
  throw new TemplateFault(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`)
}

function joined(a: readonly Value[], b: readonly Value[], budget: Budget): readonly Value[] {
  budget.step(a.length + b.length)
  return [...a, ...b]
}

function repeated(value: Value, times: boolean | bigint | number, budget: Budget): Value {
  const count = numberOf(times)
  if (typeof count === 'number') throw new TemplateFault("can't multiply sequence by non-int of type 'float'")
  const n = Number(count < 0n ? 0n : count)
  if (typeof value === 'string') {
    budget.spend(value.length * n)
    return value.repeat(n)
  }
  const items = isList(value) ? value : value instanceof Tuple ? value.items : null
  if (items === null) throw new TemplateFault(`unsupported operand type(s) for *: '${typeName(value)}' and 'int'`)
  budget.step(items.length * n)
  const all = Array.from({ length: n }, () => items).flat()
  return isList(value) ? all : new Tuple(all)
}

/** `item in container`. @throws TemplateFault if it is no container */
export function contains(container: Value, item: Value): boolean {
  if (typeof container === 'string') {
    if (typeof item === 'string') return container.includes(item)
    if (item instanceof Undefined) return item.fail()
    throw new TemplateFault(`'in <string>' requires string as left operand, not ${typeName(item)}`)
  }
  if (container instanceof Dict) return container.has(item)
  if (
    isList(container) ||
    container instanceof Tuple ||
    container instanceof PyGenerator ||
    container instanceof Undefined
  )
    return itemsOf(container).some((each) => equals(each, item))
  throw new TemplateFault(`argument of type '${typeName(container)}' is not iterable`)
}

/** A whole number, as indexes and counts are. */
export function indexOf(value: Value): number {
  const plain = plainOf(value)
  if (typeof plain === 'boolean' || typeof plain === 'bigint') return Number(plain)
  if (plain instanceof Undefined) return plain.fail()
  throw new TemplateFault(`'${typeName(plain)}' object cannot be interpreted as an integer`)
}

/** value[from:to:step], null where a bound was left out. */
export function sliceOf(value: Value, bounds: readonly (Value | null)[], budget: Budget): Value {
  const items = itemsByIndex(value)
  if (items === null) {
    if (value instanceof Undefined) return value.fail()
    throw new TemplateFault(`'${typeName(value)}' object is not subscriptable by a slice`)
  }
  const bound = (i: number): number | null => {
    const given = bounds[i] ?? null
    return given === null ? null : indexOf(given)
  }
  const step = bound(2) ?? 1
  if (step === 0) throw new TemplateFault('slice step cannot be zero')
  const picked = pick(items.length, bound(0), bound(1), step)
  budget.step(picked.length)
  const parts = picked.map((i) => items[i] ?? null)
  if (typeof value === 'string') {
    if (step === 1 && typeof items === 'string') return items.slice(picked[0] ?? 0, (picked.at(-1) ?? -1) + 1)
    return parts.join('')
  }
  return isList(value) ? parts : new Tuple(parts)
}

function pick(length: number, from: number | null, to: number | null, step: number): readonly number[] {
  const clamp = (index: number, low: number, high: number): number =>
    Math.min(Math.max(index < 0 ? index + length : index, low), high)
  const picked: number[] = []
  if (step > 0) {
    const end = clamp(to ?? length, 0, length)
    for (let i = clamp(from ?? 0, 0, length); i < end; i += step) picked.push(i)
  } else {
    const end = to === null ? -1 : clamp(to, -1, length - 1)
    for (let i = clamp(from ?? length - 1, -1, length - 1); i > end; i += step) picked.push(i)
  }
  return picked
}

/** In ascending order, equal ones as they were. */
export function sorted<T>(items: readonly T[], keyOf: (item: T) => Value, isReversed = false): T[] {
  const keyed = items.map((item) => ({ item, key: keyOf(item) }))
  const ordered = keyed.toSorted((a, b) => (isReversed ? compare(b.key, a.key, '<') : compare(a.key, b.key, '<')))
  return ordered.map(({ item }) => item)
}

/** `left operator right` as a truth value. @throws TemplateFault for values without an order */
export function applyComparison(operator: Comparison, left: Value, right: Value): boolean {
  switch (operator) {
    case '==':
      return equals(left, right)
    case '!=':
      return !equals(left, right)
    case 'in':
      return contains(right, left)
    case 'not in':
      return !contains(right, left)
    case '<':
      return compare(left, right, operator) < 0
    case '<=':
      return compare(left, right, operator) <= 0
    case '>':
      return compare(left, right, operator) > 0
    case '>=':
      return compare(left, right, operator) >= 0
  }
}

/** `+value` or `-value`. @throws TemplateFault for what is no number */
export function applySign(value: Value, isNegative: boolean): Value {
  const plain = plainOf(value)
  if (plain instanceof Undefined) return plain.fail()
  if (!isNumeric(plain)) throw new TemplateFault(`bad operand type for a sign: '${typeName(value)}'`)
  const number = numberOf(plain)
  return isNegative ? -number : number
}
