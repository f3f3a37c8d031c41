/** String formatting: the operator `%`, and str.format. */
import { TemplateFault } from './errors.ts'
import { fixedText, floatText } from './numbers.ts'
import type { Budget } from './runtime.ts'
import { Dict, isList, isNumeric, numberOf, numCodePoints, plainOf, reprOf, textOf, Tuple, typeName, Undefined } from './values.ts' // prettier-ignore
import type { Arguments, Value } from './values.ts'

/** How one value is shown. */
interface Layout {
  readonly fill: string
  /** `=` pads between sign and digits; '' uses the default of the type. */
  readonly align: '' | '<' | '>' | '^' | '='
  readonly sign: '' | '+' | '-' | ' '
  /** With 0x and the like. */
  readonly isAlternate: boolean
  readonly width: number
  readonly grouping: '' | ',' | '_'
  readonly precision: number | null
  readonly type: string
}

const MAX_WIDTH = 1 << 16

const PERCENT = /%(?:\(([^)]*)\))?([-#0 +]*)(\d+|\*)?(?:\.(\d+|\*))?[hlL]?([^])?/g

/** text % values */
export function percentFormat(text: string, values: Value, budget: Budget): string {
  const list = values instanceof Tuple ? values.items : [values]
  let at = 0
  const next = (): Value => {
    const value = list[at++]
    if (value === undefined) throw new TemplateFault('not enough arguments for format string')
    return value
  }
  const formatted = text.replaceAll(PERCENT, (_, key, flags = '', width, precision, type) => {
    if (type === '%') return '%'
    if (type === undefined) throw new TemplateFault('incomplete format')
    const size = (given: string | undefined): number | null => {
      if (given === undefined) return null
      return Math.min(given === '*' ? Number(numberOf(numeric(next()))) : Number(given), MAX_WIDTH)
    }
    const [minWidth, decimals] = [size(width) ?? 0, size(precision)]
    const value = key === undefined ? next() : memberOf(values, key)
    const isLeft = flags.includes('-')
    const isNumber = 'dioxXeEfFgGu'.includes(type)
    const layout: Layout = {
      fill: flags.includes('0') && !isLeft && isNumber ? '0' : ' ',
      align: isLeft ? '<' : flags.includes('0') && isNumber ? '=' : '>',
      sign: flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '-',
      isAlternate: flags.includes('#'),
      width: minWidth,
      grouping: '',
      precision: decimals,
      type: type === 'i' || type === 'u' ? 'd' : type,
    }
    return padded(percentValue(value, layout), layout)
  })
  if (at < list.length && values instanceof Tuple)
    throw new TemplateFault('not all arguments converted during string formatting')
  if (at === 0 && !(values instanceof Tuple) && !(values instanceof Dict) && !isList(values) && !/%\(/.test(text))
    throw new TemplateFault('not all arguments converted during string formatting')
  budget.spend(formatted.length)
  return formatted
}

function memberOf(values: Value, key: string): Value {
  if (!(values instanceof Dict)) throw new TemplateFault('format requires a mapping')
  const value = values.get(key)
  if (value === undefined) throw new TemplateFault(`no value '${key}' to format`)
  return value
}

function percentValue(value: Value, layout: Layout): string {
  const { type, precision } = layout
  const cut = (text: string): string => (precision === null ? text : [...text].slice(0, precision).join(''))
  if (type === 's') return cut(textOf(value))
  if (type === 'r' || type === 'a') return cut(reprOf(value))
  if (type === 'c') return typeof value === 'string' ? value : String.fromCodePoint(Number(numberOf(numeric(value))))
  if ('doxX'.includes(type)) {
    const number = numberOf(numeric(value))
    const whole = typeof number === 'number' ? BigInt(Math.trunc(number)) : number
    return numberText(whole, { ...layout, precision: null }).padStart(precision ?? 0, '0')
  }
  if ('eEfFgG'.includes(type)) return numberText(Number(numberOf(numeric(value))), layout)
  throw new TemplateFault(`unsupported format character '${type}'`)
}

function numeric(value: Value): boolean | bigint | number {
  const plain = plainOf(value)
  if (isNumeric(plain)) return plain
  throw new TemplateFault(`%d format: a real number is required, not ${typeName(value)}`)
}

/** text.format(...) */
export function braceFormat(
  text: string,
  args: Arguments,
  lookUp: { attribute(of: Value, name: string): Value; item(of: Value, key: Value): Value },
  budget: Budget,
): string {
  let numAutomatic = 0
  const field = (name: string): Value => {
    const [, first = '', rest = ''] = /^([^.[]*)([^]*)$/.exec(name) ?? []
    let value = first === '' ? args.positional[numAutomatic++] : /^\d+$/.test(first) ? args.positional[Number(first)] : args.named.get(first) // prettier-ignore
    if (value === undefined) throw new TemplateFault(`no argument for the field {${first}} of a format`)
    for (const [, attribute, key = ''] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]/g)) {
      value = attribute === undefined ? lookUp.item(value, /^\d+$/.test(key) ? BigInt(key) : key) : lookUp.attribute(value, attribute) // prettier-ignore
    }
    return value
  }
  const nested = (spec: string): string => spec.replaceAll(/\{([^{}]*)\}/g, (_, name: string) => textOf(field(name)))
  const formatted = text.replaceAll(
    /\{\{|\}\}|\{([^{}!:]*)(?:!([rsa]))?(?::((?:[^{}]|\{[^{}]*\})*))?\}|[{}]/g,
    (whole, name, conversion, spec) => {
      if (whole === '{{' || whole === '}}') return whole.slice(1)
      if (name === undefined) throw new TemplateFault(`single '${whole}' in a format`)
      const value = field(name)
      const shown = conversion === undefined ? value : conversion === 's' ? textOf(value) : reprOf(value)
      return formatValue(shown, nested(spec ?? ''))
    },
  )
  budget.spend(formatted.length)
  return formatted
}

const SPEC = /^(?:([^])?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/u

/** As Python's format(value, spec). */
function formatValue(value: Value, spec: string): string {
  if (spec === '') return textOf(value)
  const [, fill, align, sign, alternate, zero, width, grouping, precision, type] = SPEC.exec(spec) ?? []
  if (!SPEC.test(spec)) throw new TemplateFault('an invalid format specification')
  const layout: Layout = {
    fill: fill ?? (zero === undefined ? ' ' : '0'),
    align: (align ?? (zero === undefined ? '' : '=')) as Layout['align'],
    sign: (sign ?? '-') as Layout['sign'],
    isAlternate: alternate !== undefined,
    width: Math.min(Number(width ?? 0), MAX_WIDTH),
    grouping: (grouping ?? '') as Layout['grouping'],
    precision: precision === undefined ? null : Number(precision),
    type: type ?? '',
  }
  const plain = plainOf(value)
  if (typeof plain === 'string') {
    const text = layout.precision === null ? plain : [...plain].slice(0, layout.precision).join('')
    return padded(text, { ...layout, align: layout.align === '' ? '<' : layout.align })
  }
  if (!isNumeric(plain) || (typeof plain === 'boolean' && layout.type === '')) {
    throw new TemplateFault(`a format specification for ${plain instanceof Undefined ? plain.reason : typeName(plain)}`)
  }
  return padded(numberText(numberOf(plain), layout), { ...layout, align: layout.align === '' ? '>' : layout.align })
}

/** Digits with their sign, not yet padded. */
function numberText(value: bigint | number, layout: Layout): string {
  const isNegative = value < 0 || Object.is(value, -0)
  const sign = isNegative ? '-' : layout.sign === '-' ? '' : layout.sign
  const digits = typeof value === 'bigint' && !'eEfFgG%'.includes(layout.type || 'd') ? wholeDigits(value < 0n ? -value : value, layout) : floatDigits(Math.abs(Number(value)), layout) // prettier-ignore
  return sign + grouped(digits, layout)
}

function wholeDigits(value: bigint, { type, isAlternate }: Layout): string {
  const bases: Readonly<Record<string, readonly [number, string]>> = { x: [16, '0x'], X: [16, '0X'], o: [8, '0o'], b: [2, '0b'] } // prettier-ignore
  const base = bases[type]
  if (base === undefined) return value.toString()
  const digits = value.toString(base[0])
  return (isAlternate ? base[1] : '') + (type === 'X' ? digits.toUpperCase() : digits)
}

function floatDigits(value: number, { type, precision }: Layout): string {
  if (type === '' && precision === null) return floatText(value)
  if (type === '%') return `${fixedText(value * 100, precision ?? 6)}%`
  if (type === 'f' || type === 'F') return fixedText(value, precision ?? 6)
  if (!Number.isFinite(value)) return floatText(value)
  if (type === 'e' || type === 'E') return withCase(exponential(value, precision ?? 6), type)
  const significant = Math.max(precision ?? 6, 1)
  const exponent = Number(value.toExponential(Math.min(significant - 1, 100)).split('e')[1])
  const isShort = value === 0 || (exponent >= -4 && exponent < significant)
  const text = isShort ? fixedText(value, Math.max(significant - 1 - (value === 0 ? 0 : exponent), 0)) : exponential(value, significant - 1) // prettier-ignore
  const [mantissa = '', power] = text.split('e')
  const short = mantissa.includes('.') ? mantissa.replace(/\.?0+$/, '') : mantissa
  return withCase(power === undefined ? short : `${short}e${power}`, type)
}

const withCase = (text: string, type: string): string => (/[A-Z]/.test(type) ? text.toUpperCase() : text)

function exponential(value: number, decimals: number): string {
  const [mantissa = '', exponent = '0'] = value.toExponential(Math.min(decimals, 100)).split('e')
  const power = Number(exponent)
  return `${mantissa}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`
}

function grouped(digits: string, { grouping }: Layout): string {
  if (grouping === '') return digits
  const [, whole = '', rest = ''] = /^(\d*)([^]*)$/.exec(digits) ?? []
  return whole.replaceAll(/\B(?=(?:\d{3})+$)/g, grouping) + rest
}

function padded(text: string, { fill, align, width }: Layout): string {
  const missing = width - numCodePoints(text)
  if (missing <= 0) return text
  if (align === '<') return text + fill.repeat(missing)
  if (align === '^') return fill.repeat(Math.floor(missing / 2)) + text + fill.repeat(Math.ceil(missing / 2))
  const [, sign = '', digits = ''] = align === '=' ? (/^([-+ ]?(?:0[xXob])?)([^]*)$/.exec(text) ?? []) : ['', '', text]
  return sign + fill.repeat(missing) + digits
}
