/** Filters that make numbers or change them. */
import { TemplateFault } from './errors.ts'
import { roundHalfEven } from './numbers.ts'
import { indexOf } from './operators.ts'
import { bindArguments, type Filter } from './runtime.ts'
import { isNumeric, numberOf, plainOf, typeName, Undefined } from './values.ts'
import { stripEnd, stripStart } from './white-space.ts'

/** `round(precision=0, method='common')` */
export const roundFilter: Filter = (value, args) => {
  const { precision = 0n, method = 'common' } = bindArguments('round', ['precision', 'method'], args)
  const plain = plainOf(value)
  if (!isNumeric(plain)) throw new TemplateFault(`type ${typeName(value)} doesn't define __round__ method`)
  const decimals = indexOf(precision)
  const number = numberOf(plain)
  // A whole number stays one.
  if (method === 'common')
    return typeof number === 'bigint' && decimals >= 0 ? number : roundHalfEven(Number(number), decimals)
  if (method !== 'ceil' && method !== 'floor') throw new TemplateFault('method must be common, ceil or floor')
  const unit = 10 ** decimals
  return (method === 'ceil' ? Math.ceil(Number(number) * unit) : Math.floor(Number(number) * unit)) / unit
}

const INTEGERS: Readonly<Record<number, RegExp>> = { 2: /^[01]+$/, 8: /^[0-7]+$/, 10: /^\d+$/, 16: /^[\da-f]+$/ }
const PREFIXES: Readonly<Record<number, string>> = { 2: '0b', 8: '0o', 16: '0x' }

/** As Python's int(text, base); null: it is none. */
function parseInteger(given: string, base: number): bigint | null {
  const [, sign = '', digits = ''] = /^([-+]?)([^]*)$/.exec(stripEnd(stripStart(given)).toLowerCase()) ?? []
  const prefix = PREFIXES[base] ?? ''
  const bare = (prefix !== '' && digits.startsWith(prefix) ? digits.slice(2) : digits).replaceAll(/(?<=[\da-f])_(?=[\da-f])/g, '') // prettier-ignore
  const pattern = INTEGERS[base]
  if (pattern === undefined) throw new TemplateFault('int: expected base 2, 8, 10 or 16')
  if (!pattern.test(bare) || bare.length > 4300) return null
  const value = BigInt(prefix + bare)
  return sign === '-' ? -value : value
}

/** As Python's float(text); null: it is none. */
function parseFloatText(given: string): number | null {
  const trimmed = stripEnd(stripStart(given)).toLowerCase()
  if (/^[-+]?(?:\d(?:_?\d)*(?:\.(?:\d(?:_?\d)*)?)?|\.\d(?:_?\d)*)(?:e[-+]?\d(?:_?\d)*)?$/.test(trimmed)) return Number(trimmed.replaceAll('_', '')) // prettier-ignore
  const [, sign, name] = /^([-+]?)(inf|infinity|nan)$/.exec(trimmed) ?? []
  if (name === undefined) return null
  return name === 'nan' ? NaN : sign === '-' ? -Infinity : Infinity
}

/** `int(default=0, base=10)` */
export const intFilter: Filter = (value, args) => {
  const { default: fallback = 0n, base = 10n } = bindArguments('int', ['default', 'base'], args)
  const plain = plainOf(value)
  if (plain instanceof Undefined) return plain.fail()
  if (typeof plain === 'boolean' || typeof plain === 'bigint') return numberOf(plain)
  const float = typeof plain === 'string' ? (parseInteger(plain, indexOf(base)) ?? parseFloatText(plain)) : plain
  if (typeof float === 'bigint') return float
  return typeof float === 'number' && Number.isFinite(float) ? BigInt(Math.trunc(float)) : fallback
}

/** `float(default=0.0)` */
export const floatFilter: Filter = (value, args) => {
  const { default: fallback = 0 } = bindArguments('float', ['default'], args)
  const plain = plainOf(value)
  if (plain instanceof Undefined) return plain.fail()
  if (isNumeric(plain)) return Number(numberOf(plain))
  return (typeof plain === 'string' ? parseFloatText(plain) : null) ?? fallback
}

/** `abs` */
export const absFilter: Filter = (value) => {
  const plain = plainOf(value)
  if (!isNumeric(plain)) throw new TemplateFault(`bad operand type for abs(): '${typeName(value)}'`)
  const number = numberOf(plain)
  if (typeof number === 'bigint') return number < 0n ? -number : number
  return Math.abs(number)
}
