/** Patterns of JSON numbers within bounds, digit by digit, exact for bounds of any size. */
import type { Automaton, AutomatonState } from '../patterns/automaton.ts'
import { choice, EMPTY, literal, repeat, sequence, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'

export interface Bound {
  readonly value: number
  readonly isExclusive: boolean
}

/** Digits that a double keeps in any case. Near a bound that is excluded, more could round up to it. */
const MAX_DIGITS = 15
/** Digits before the point if nothing bounds them: enough for every 64-bit integer. */
const MAX_WHOLE_DIGITS = 20
/** Digits after the point if more cannot round to a value that is excluded: what it takes to write any double. */
const MAX_PLACES = 17
const DIGIT = digits(0, 9)
const POINT = literal('.')
/** Limit on the remainders that an automaton counts. */
const MAX_MULTIPLE = 2000

/** Integers from `low` to `high`; null: unbounded. @throws Unenforceable for a range that holds none */
export function integers(low: Bound | null, high: Bound | null): Regex {
  const least =
    low === null ? null : BigInt(Math.ceil(low.value)) + (low.isExclusive && Number.isInteger(low.value) ? 1n : 0n)
  const most =
    high === null ? null : BigInt(Math.floor(high.value)) - (high.isExclusive && Number.isInteger(high.value) ? 1n : 0n)
  const [from, to] = [least ?? -unbounded(most), most ?? unbounded(least)]
  if (from > to) throw new Unsatisfiable('bounds that leave no integer')
  const parts: Regex[] = []
  if (from < 0n) parts.push(sequence(literal('-'), naturals(to < 0n ? -to : 1n, -from)))
  if (to >= 0n) parts.push(naturals(from > 0n ? from : 0n, to))
  return choice(...parts)
}

/** A bound for an unbounded side, beyond the bound of the other side. */
function unbounded(other: bigint | null): bigint {
  const length = other === null ? 0 : abs(other).toString().length + 1
  const bound = 10n ** BigInt(Math.max(MAX_WHOLE_DIGITS, length)) - 1n
  const largest = BigInt(Number.MAX_VALUE)
  return bound < largest ? bound : largest
}

function abs(value: bigint): bigint {
  return value < 0n ? -value : value
}

/** Decimal notations of from … to, neither negative. */
function naturals(from: bigint, to: bigint): Regex {
  const parts: Regex[] = []
  for (let low = from; low <= to;) {
    const length = low.toString().length
    const longest = 10n ** BigInt(length) - 1n
    const high = longest < to ? longest : to
    parts.push(sameLengthNaturals(low.toString(), high.toString()))
    low = high + 1n
  }
  return choice(...parts)
}

function sameLengthNaturals(low: string, high: string): Regex {
  const [a, b] = [Number(low[0]), Number(high[0])]
  const length = low.length - 1
  if (length === 0) return digits(a, b)
  const [lowRest, highRest] = [low.slice(1), high.slice(1)]
  if (a === b) return sequence(digits(a, a), sameLengthNaturals(lowRest, highRest))
  const isLowFree = /^0*$/.test(lowRest)
  const isHighFree = /^9*$/.test(highRest)
  const parts: Regex[] = []
  if (!isLowFree) parts.push(sequence(digits(a, a), sameLengthNaturals(lowRest, '9'.repeat(length))))
  const [first, last] = [isLowFree ? a : a + 1, isHighFree ? b : b - 1]
  if (first <= last) parts.push(sequence(digits(first, last), repeat(DIGIT, length, length)))
  if (!isHighFree) parts.push(sequence(digits(b, b), sameLengthNaturals('0'.repeat(length), highRest)))
  return choice(...parts)
}

function digits(from: number, to: number): Regex {
  return set([[0x30 + from, 0x30 + to]])
}

/** The powers of ten that may be written as exponents. */
const MAX_EXPONENT = 300

/** Numbers from `low` to `high`; null: unbounded. As decimals, or with exponents. @throws Unenforceable for a range that holds none */
export function numbers(low: Bound | null, high: Bound | null): Regex {
  const negative = high !== null && high.value < 0 ? negated(high) : null
  const parts = [
    low === null || low.value < 0 ? signed(exponentials(negative, low === null ? null : negated(low))) : null,
    high === null || high.value > 0 ? exponentials(low !== null && low.value > 0 ? low : null, high) : null,
  ]
  return choice(decimals(low, high), ...parts.filter((part) => part !== null))
}

function signed(magnitude: Regex | null): Regex | null {
  return magnitude === null ? null : sequence(literal('-'), magnitude)
}

/**
 * Positive numbers with an exponent, in scientific notation; null where there are none. An exponent is allowed if all numbers with it are within the
 * bounds: e if low ≤ 10^e and 10^(e + 1) ≤ high. With as few digits as here, no number below a power of ten rounds up to it.
 */
function exponentials(low: Bound | null, high: Bound | null): Regex | null {
  const isAllowed = (exponent: number) => {
    const [least, beyond] = [Number(`1e${exponent}`), Number(`1e${exponent + 1}`)]
    if (low !== null && (low.isExclusive ? least <= low.value : least < low.value)) return false
    return high === null || beyond <= high.value
  }
  const allowed: number[] = []
  for (let exponent = -MAX_EXPONENT; exponent <= MAX_EXPONENT; exponent++)
    if (isAllowed(exponent)) allowed.push(exponent)
  const [first, last] = [allowed[0], allowed.at(-1)]
  if (first === undefined || last === undefined) return null
  // Writers pad exponents to two digits.
  const padded = (from: number, to: number) => sequence(repeat(literal('0'), 0, 1), naturals(BigInt(from), BigInt(to)))
  const exponents: Regex[] = []
  if (first < 0) exponents.push(sequence(literal('-'), padded(Math.max(1, -last), -first)))
  if (last >= 0) exponents.push(sequence(repeat(literal('+'), 0, 1), padded(Math.max(0, first), last)))
  const fraction = sequence(POINT, repeat(DIGIT, 1, MAX_DIGITS - 1))
  const mark = set([[0x45, 0x45], [0x65, 0x65]]) // prettier-ignore
  return sequence(digits(1, 9), repeat(fraction, 0, 1), mark, choice(...exponents))
}

/** Numbers from `low` to `high`, without exponents; null: unbounded. @throws Unenforceable for a range that holds none */
export function decimals(low: Bound | null, high: Bound | null): Regex {
  const parts: Regex[] = []
  const zero: Bound = { value: 0, isExclusive: false }
  if (low === null || low.value < 0) {
    const nearest: Bound = high === null || high.value >= 0 ? { value: 0, isExclusive: true } : negated(high)
    const found = magnitudes(nearest, low === null ? null : negated(low))
    if (found !== null) parts.push(sequence(literal('-'), found))
  }
  if (high === null || high.value >= 0) {
    const found = magnitudes(low === null || low.value < 0 ? zero : low, high)
    if (found !== null) parts.push(found)
  }
  if (parts.length === 0) throw new Unsatisfiable('bounds that leave no number')
  return choice(...parts)
}

function negated({ value, isExclusive }: Bound): Bound {
  return { value: -value, isExclusive }
}

/** A bound that is not negative, as decimal notation has it. */
interface Decimal {
  readonly whole: bigint
  /** Without zeros at its end. */
  readonly fraction: string
  readonly isExclusive: boolean
}

function decimalOf({ value, isExclusive }: Bound): Decimal {
  const [mantissa = '0', exponent = '0'] = String(Math.abs(value)).split('e')
  const [whole = '0', fraction = ''] = mantissa.split('.')
  const shift = Number(exponent)
  const all = whole + fraction
  const point = whole.length + shift
  const padded = point <= 0 ? '0'.repeat(1 - point) + all : all.padEnd(point, '0')
  const at = Math.max(1, point)
  return { whole: BigInt(padded.slice(0, at)), fraction: padded.slice(at).replace(/0+$/, ''), isExclusive }
}

/** Numbers that are not negative; null where there are none. */
function magnitudes(low: Bound, high: Bound | null): Regex | null {
  const from = decimalOf(low)
  const to = high === null ? { whole: unbounded(from.whole), fraction: '', isExclusive: false } : decimalOf(high)
  if (from.whole > to.whole) return null
  const whole = (value: bigint) => literal(value.toString())
  // Nothing with few places rounds to zero, so an excluded zero does not matter.
  const isRoundingSafe = !(to.isExclusive || (low.isExclusive && low.value !== 0))
  const most = (value: bigint, fraction: string) => {
    const wholeDigits = value === 0n ? 0 : value.toString().length
    return Math.max(1, fraction.length + 1, isRoundingSafe ? MAX_PLACES : MAX_DIGITS - wholeDigits)
  }
  const parts: Regex[] = []
  const add = (value: bigint, fractions: Regex | null) => {
    if (fractions !== null) parts.push(sequence(whole(value), fractions))
  }
  if (from.whole === to.whole) {
    add(from.whole, fractionsBetween(from, to, Math.max(most(from.whole, from.fraction), to.fraction.length + 1)))
  } else {
    add(from.whole, fractionsBetween(from, null, most(from.whole, from.fraction)))
    const places = most(to.whole, '')
    if (to.whole - from.whole > 1n)
      parts.push(sequence(naturals(from.whole + 1n, to.whole - 1n), fractionsBetween(null, null, places) ?? EMPTY))
    add(to.whole, fractionsBetween(null, to, most(to.whole, to.fraction)))
  }
  return parts.length === 0 ? null : choice(...parts)
}

/** The fraction after a whole number, point included, within bounds with the same whole number; null: there is none. */
function fractionsBetween(low: Decimal | null, high: Decimal | null, places: number): Regex | null {
  /** Digits from place i on; isLow, isHigh: so far they equal the bound's. */
  const from = (i: number, isLow: boolean, isHigh: boolean, mayEnd: boolean): Regex | null => {
    if (!isLow && !isHigh) return repeat(DIGIT, mayEnd ? 0 : 1, places - i)
    const parts: Regex[] = mayEnd && ends(i, isLow, isHigh) ? [EMPTY] : []
    const first = isLow ? Number(low?.fraction[i] ?? 0) : 0
    const last = isHigh ? Number(high?.fraction[i] ?? 0) : 9
    if (i >= places) return parts.length === 0 ? null : choice(...parts)
    for (let digit = first; digit <= last; digit++) {
      const isAtEdge = (isLow && digit === first) || (isHigh && digit === last)
      const end = isAtEdge ? digit : isHigh ? last - 1 : last
      const rest = from(i + 1, isLow && digit === first, isHigh && digit === last, true)
      if (rest !== null) parts.push(sequence(digits(digit, end), rest))
      digit = end
    }
    return parts.length === 0 ? null : choice(...parts)
  }
  const ends = (i: number, isLow: boolean, isHigh: boolean): boolean =>
    !(isLow && low !== null && ((low.fraction[i] ?? '') !== '' || low.isExclusive)) &&
    !(isHigh && high !== null && (high.fraction[i] ?? '') === '' && high.isExclusive)
  const places1 = from(0, low !== null, high !== null, false)
  const parts: Regex[] = ends(0, low !== null, high !== null) ? [EMPTY] : []
  if (places1 !== null) parts.push(sequence(POINT, places1))
  return parts.length === 0 ? null : choice(...parts)
}

/** The multiples of a positive number in decimal notation. @throws Unenforceable for one with too many remainders to count */
export function multiples(of: number): Automaton {
  const { whole, fraction } = decimalOf({ value: of, isExclusive: false })
  const places = fraction.length
  const numZeros = fraction === '' ? (/0*$/.exec(whole.toString())?.[0].length ?? 0) : 0
  if (numZeros > 0) return withZeros(multiples(Number(whole / 10n ** BigInt(numZeros))), numZeros)
  const divisor = whole * 10n ** BigInt(places) + BigInt(fraction === '' ? '0' : fraction)
  if (divisor * BigInt(places + 1) > MAX_MULTIPLE)
    throw new Unenforceable(`"multipleOf" of more than ${MAX_MULTIPLE} remainders`)
  const count = Number(divisor)
  // 0: at the beginning. 1: behind the sign. 2: behind a zero. Then the remainders, for each number of places behind the point.
  const at = (place: number, remainder: number) => 3 + place * count + remainder
  const pointAt = 3 + (places + 1) * count
  const digit = (value: number) => [[0x30 + value, 0x30 + value] as const]
  const scale = (place: number) => 10 ** (places - place)
  const step = (remainder: number, value: number) => (remainder * 10 + value) % count
  const states: AutomatonState[] = []
  const wholes = Array.from({ length: 9 }, (_, i) => ({ set: digit(i + 1), state: at(0, step(0, i + 1)) }))
  const zero = { set: digit(0), state: 2 }
  states.push({ isEnd: false, next: [{ set: [[0x2d, 0x2d]], state: 1 }, zero, ...wholes] })
  states.push({ isEnd: false, next: places === 0 ? wholes : [zero, ...wholes] })
  states.push({ isEnd: true, next: places === 0 ? [] : [{ set: [[0x2e, 0x2e]], state: pointAt }] })
  for (let place = 0; place <= places; place++) {
    for (let remainder = 0; remainder < count; remainder++) {
      const next = place > 0 && place === places ? [] : Array.from({ length: 10 }, (_, value) => ({ set: digit(value), state: at(place, step(remainder, value)) })) // prettier-ignore
      const behind = place > 0 ? next.map(({ set: of10, state }) => ({ set: of10, state: state + count })) : next
      const point = place === 0 && places > 0 ? [{ set: [[0x2e, 0x2e] as const], state: pointAt + remainder }] : []
      states.push({ isEnd: (remainder * scale(place)) % count === 0, next: [...behind, ...point] })
    }
  }
  if (places > 0) {
    for (let remainder = 0; remainder < count; remainder++)
      states.push({
        isEnd: false,
        next: Array.from({ length: 10 }, (_, value) => ({ set: digit(value), state: at(1, step(remainder, value)) })),
      })
  }
  return { states }
}

/** The integers that an automaton accepts, each with further zeros at its end; zero stays as it is. */
function withZeros({ states }: Automaton, numZeros: number): Automaton {
  const first = states.length
  const zero = [[0x30, 0x30] as const]
  const chain = Array.from({ length: numZeros }, (_, i) => ({
    isEnd: i === numZeros - 1,
    next: i === numZeros - 1 ? [] : [{ set: zero, state: first + i + 1 }],
  }))
  const isZero = (i: number) => i === 2
  const longer = states.map((state, i) => (state.isEnd && !isZero(i) ? { isEnd: false, next: [...state.next, { set: zero, state: first }] } : state)) // prettier-ignore
  return { states: [...longer, ...chain] }
}
