/** Numbers as Python writes and computes them. */
import { TemplateFault } from './errors.ts'

/** As Python's repr() of a float: the shortest digits that read back as the same number. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0'
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e')
  const exponent = Number(exponentText)
  if (exponent < -4 || exponent >= 16) {
    const sign = exponent < 0 ? '-' : '+'
    return `${mantissa}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`
  }
  const sign = value < 0 ? '-' : ''
  const digits = mantissa.replace(/[-.]/g, '')
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0')
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`
}

/** The most decimals that toFixed() supports. */
const MAX_DECIMALS = 100

/** A number with a fixed number of decimals. Ties round to even, as in Python. */
export function fixedText(value: number, decimals: number): string {
  if (decimals > MAX_DECIMALS) throw new TemplateFault(`more than ${MAX_DECIMALS} decimals`)
  if (!Number.isFinite(value)) return floatText(value)
  if (Math.abs(value) >= 1e21) {
    const whole = BigInt(value).toString()
    return decimals === 0 ? whole : `${whole}.${'0'.repeat(decimals)}`
  }
  const sign = value < 0 || Object.is(value, -0) ? '-' : ''
  const exact = Math.abs(value).toFixed(MAX_DECIMALS)
  const point = exact.indexOf('.')
  const rest = exact.slice(point + 1 + decimals)
  const digits = exact.slice(0, point) + exact.slice(point + 1, point + 1 + decimals)
  const half = '5'.padEnd(rest.length, '0')
  const roundsUp = rest > half || (rest === half && Number(digits.at(-1)) % 2 === 1)
  const rounded = (BigInt(digits) + (roundsUp ? 1n : 0n)).toString().padStart(decimals + 1, '0')
  return sign + (decimals === 0 ? rounded : `${rounded.slice(0, -decimals)}.${rounded.slice(-decimals)}`)
}

/** As Python's round(value, decimals) of a float. */
export function roundHalfEven(value: number, decimals: number): number {
  if (!Number.isFinite(value)) return value
  if (decimals >= 0) return decimals > 22 ? value : Number(fixedText(value, decimals))
  const unit = 10 ** -decimals
  const scaled = value / unit
  const floor = Math.floor(scaled)
  const isHalf = scaled - floor === 0.5
  return (isHalf ? (floor % 2 === 0 ? floor : floor + 1) : Math.round(scaled)) * unit
}

type Operand = bigint | number

/** Limit on the bits of an integer that arithmetic may produce. */
const MAX_BITS = 1 << 16

function bitsOf(value: bigint): number {
  return value.toString(16).length * 4
}

function bounded(bits: number): void {
  if (bits > MAX_BITS) throw new TemplateFault('a number has too many digits')
}

/** a + b. Integers are bigint, floats are number. */
export function add(a: Operand, b: Operand): Operand {
  return typeof a === 'bigint' && typeof b === 'bigint' ? a + b : Number(a) + Number(b)
}

/** a - b */
export function subtract(a: Operand, b: Operand): Operand {
  return typeof a === 'bigint' && typeof b === 'bigint' ? a - b : Number(a) - Number(b)
}

/** a * b. @throws TemplateFault for an integer that is too large */
export function multiply(a: Operand, b: Operand): Operand {
  if (typeof a !== 'bigint' || typeof b !== 'bigint') return Number(a) * Number(b)
  bounded(bitsOf(a) + bitsOf(b))
  return a * b
}

/** Whether two numbers are equal, even if one is an integer and the other a float. */
export function isSameNumber(a: Operand, b: Operand): boolean {
  if (typeof a === typeof b) return a === b
  const [whole, other] = typeof a === 'bigint' ? [a, Number(b)] : [BigInt(b), Number(a)]
  return Number.isInteger(other) && BigInt(other) === whole
}

function nonZero(divisor: Operand): void {
  if (isSameNumber(divisor, 0n)) throw new TemplateFault('division by zero')
}

/** a / b, always a float. @throws TemplateFault for division by zero */
export function divide(a: Operand, b: Operand): number {
  nonZero(b)
  return Number(a) / Number(b)
}

/** a // b, rounded towards minus infinity. @throws TemplateFault for division by zero */
export function floorDivide(a: Operand, b: Operand): Operand {
  nonZero(b)
  if (typeof a !== 'bigint' || typeof b !== 'bigint') return Math.floor(Number(a) / Number(b))
  const quotient = a / b
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient
}

/** a % b, with the sign of the divisor. @throws TemplateFault for division by zero */
export function modulo(a: Operand, b: Operand): Operand {
  nonZero(b)
  if (typeof a === 'bigint' && typeof b === 'bigint') {
    const rest = a % b
    return rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest
  }
  const [x, y] = [Number(a), Number(b)]
  const rest = x % y
  if (rest === 0) return y < 0 ? -0 : 0
  return rest < 0 !== y < 0 ? rest + y : rest
}

/** a ** b. @throws TemplateFault for an integer that is too large */
export function power(a: Operand, b: Operand): Operand {
  if (typeof a !== 'bigint' || typeof b !== 'bigint') return Number(a) ** Number(b)
  if (b < 0n) {
    nonZero(a)
    return Number(a) ** Number(b)
  }
  bounded(bitsOf(a) * Number(b))
  return a ** b
}
