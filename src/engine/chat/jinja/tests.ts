/** Tests: what follows `is`. */
import { TemplateFault } from './errors.ts'
import { contains } from './operators.ts'
import { isSameNumber, modulo } from './numbers.ts'
import { Callable, compare, Dict, equals, HostObject, isList, isNumeric, numberOf, plainOf, PyGenerator, textOf, Tuple, Undefined } from './values.ts' // prettier-ignore
import type { Value } from './values.ts'

type Test = (value: Value, args: readonly Value[]) => boolean

const isIterable = (value: Value): boolean =>
  typeof value === 'string' ||
  isList(value) ||
  [Tuple, Dict, PyGenerator, Undefined].some((kind) => value instanceof kind)

/** As jinja2: it has a length and items. */
const isSequence = (value: Value): boolean =>
  typeof value === 'string' || isList(value) || value instanceof Tuple || value instanceof Dict || value instanceof Undefined // prettier-ignore

const compared =
  (operator: string, test: (order: number) => boolean): Test =>
  (value, [other = null]) =>
    test(compare(value, other, operator))

const equal: Test = (value, [other = null]) => equals(value, other)
const unequal: Test = (value, [other = null]) => !equals(value, other)
const less = compared('<', (order) => order < 0)
const lessOrEqual = compared('<=', (order) => order <= 0)
const greater = compared('>', (order) => order > 0)
const greaterOrEqual = compared('>=', (order) => order >= 0)

function remainder(value: Value, divisor: Value): bigint | number {
  const [a, b] = [plainOf(value), plainOf(divisor)]
  if (!isNumeric(a) || !isNumeric(b)) throw new TemplateFault('divisibleby: expected numbers')
  return modulo(numberOf(a), numberOf(b))
}

export const TESTS: ReadonlyMap<string, Test> = new Map<string, Test>([
  ['boolean', (value) => typeof value === 'boolean'],
  ['callable', (value) => value instanceof Callable || (value instanceof HostObject && value.call !== null)],
  ['defined', (value) => !(value instanceof Undefined)],
  ['undefined', (value) => value instanceof Undefined],
  ['divisibleby', (value, [divisor = null]) => isSameNumber(remainder(value, divisor), 0n)],
  ['even', (value) => isSameNumber(remainder(value, 2n), 0n)],
  ['odd', (value) => isSameNumber(remainder(value, 2n), 1n)],
  ['escaped', () => false],
  ['false', (value) => value === false],
  ['true', (value) => value === true],
  ['none', (value) => value === null],
  ['integer', (value) => typeof plainOf(value) === 'bigint'],
  ['float', (value) => typeof plainOf(value) === 'number'],
  ['number', (value) => isNumeric(plainOf(value))],
  ['string', (value) => typeof value === 'string'],
  ['mapping', (value) => value instanceof Dict],
  ['sequence', isSequence],
  ['iterable', isIterable],
  ['lower', (value) => isCased(textOf(value), (text) => text.toLowerCase())],
  ['upper', (value) => isCased(textOf(value), (text) => text.toUpperCase())],
  ['sameas', (value, [other = null]) => Object.is(plainOf(value), plainOf(other))],
  ['in', (value, [container = null]) => contains(container, value)],
  ['eq', equal],
  ['equalto', equal],
  ['==', equal],
  ['ne', unequal],
  ['!=', unequal],
  ['lt', less],
  ['lessthan', less],
  ['<', less],
  ['le', lessOrEqual],
  ['<=', lessOrEqual],
  ['gt', greater],
  ['greaterthan', greater],
  ['>', greater],
  ['ge', greaterOrEqual],
  ['>=', greaterOrEqual],
])

function isCased(text: string, map: (text: string) => string): boolean {
  return /\p{Lu}|\p{Ll}/u.test(text) && map(text) === text
}
