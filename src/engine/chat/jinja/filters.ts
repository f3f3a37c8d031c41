/** Filters, as jinja2's own and transformers' `tojson`. */
import { TemplateFault } from './errors.ts'
import { jsonText } from './json.ts'
import { stripTags } from './markup.ts'
import { absFilter, floatFilter, intFilter, roundFilter } from './number-filters.ts'
import { applyBinary, indexOf, sorted } from './operators.ts'
import { bindArguments, call } from './runtime.ts'
import type { Budget, Filter, Runtime } from './runtime.ts'
import { capitalize, splitLines, replaceText, strip } from './string-methods.ts'
import { percentFormat } from './text-format.ts'
import {
  compare,
  Dict,
  equals,
  isNumeric,
  isTrue,
  itemsOf,
  lengthOf,
  numCodePoints,
  plainOf,
  PyGenerator,
  textOf,
  Tuple,
  typeName,
  Undefined,
} from './values.ts'
import type { Arguments, Value } from './values.ts'

/** Filters of jinja2 for web pages, which no chat template needs, and `random`, which would make prompts differ. */
export const UNSUPPORTED_FILTERS: ReadonlySet<string> = new Set(['random', 'urlize', 'xmlattr', 'pprint', 'wordwrap', 'filesizeformat']) // prettier-ignore

/** How a filter reads an item: the item itself, an attribute, or a path of attributes. */
function lookUp(attribute: Value | undefined, runtime: Runtime, fallback?: Value): (item: Value) => Value {
  if (attribute === undefined || attribute === null) return (item) => item
  if (typeof attribute !== 'string') return (item) => runtime.item(item, attribute)
  const path = attribute.split('.').map((part) => (/^\d+$/.test(part) ? BigInt(part) : part))
  return (item) => {
    let found = item
    for (const part of path) {
      found = runtime.item(found, part)
      if (found instanceof Undefined && fallback !== undefined) found = fallback
    }
    return found
  }
}

/** As `lookUp`, for several attributes separated by commas. */
function lookUpAll(attribute: Value | undefined, runtime: Runtime): (item: Value) => readonly Value[] {
  const parts = typeof attribute === 'string' ? attribute.split(',') : [attribute]
  const all = parts.map((part) => lookUp(part, runtime))
  return (item) => all.map((look) => look(item))
}

const folded = (value: Value, isCaseSensitive: boolean): Value =>
  !isCaseSensitive && typeof value === 'string' ? value.toLowerCase() : value

const flag = (value: Value | undefined): boolean => value !== undefined && isTrue(value)

const text =
  (change: (given: string) => string): Filter =>
  (value, _, { budget }) => {
    const given = textOf(value)
    budget.spend(given.length)
    return change(given)
  }

const ESCAPED: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&#34;', "'": '&#39;' }
const escape = text((given) => given.replaceAll(/[&<>"']/g, (character) => ESCAPED[character] ?? character))

const defaulting: Filter = (value, args) => {
  const { default_value: fallback = '', boolean } = bindArguments('default', ['default_value', 'boolean'], args)
  return value instanceof Undefined || (flag(boolean) && !isTrue(value)) ? fallback : value
}

const length: Filter = (value) => BigInt(lengthOf(value))

/** The items; none for anything that is false, such as none or 0, which other filters cannot iterate over. */
const itemsOrNone = (value: Value): readonly Value[] => (isTrue(value) ? itemsOf(value) : [])

/** The filter or attribute that map is given, as a function of an item. */
function mapper({ positional, named }: Arguments, runtime: Runtime): (item: Value) => Value {
  if (positional.length === 0 && named.has('attribute'))
    return lookUp(named.get('attribute'), runtime, named.get('default'))
  const [name, ...others] = positional
  if (typeof name !== 'string') throw new TemplateFault('map requires a filter argument')
  return (item) => runtime.filter(name, item, { positional: others, named })
}

/** Items that pass a test, or (`keeps` false) those that do not. */
const selection =
  (keeps: boolean, byAttribute: boolean): Filter =>
  (value, { positional, named }, runtime) => {
    const [attribute, rest] = byAttribute ? [positional[0], positional.slice(1)] : [undefined, positional]
    if (byAttribute && attribute === undefined) throw new TemplateFault('missing parameter for attribute name')
    const look = lookUp(attribute, runtime)
    const [name, ...others] = rest
    const passes = (item: Value): boolean =>
      name === undefined ? isTrue(item) : runtime.test(textOf(name), item, { positional: others, named })
    return new PyGenerator(itemsOrNone(value).filter((item) => passes(look(item)) === keeps))
  }

const extreme =
  (sign: 1 | -1): Filter =>
  (value, args, runtime) => {
    const { case_sensitive: isCaseSensitive, attribute } = bindArguments('min', ['case_sensitive', 'attribute'], args)
    const look = lookUp(attribute, runtime)
    const keyOf = (item: Value): Value => folded(look(item), flag(isCaseSensitive))
    const [first, ...others] = itemsOf(value)
    if (first === undefined) return new Undefined('No aggregated item, sequence was empty.')
    return others.reduce<Value>(
      (best, item) => (sign * compare(keyOf(item), keyOf(best), '<') > 0 ? item : best),
      first,
    )
  }

const sort: Filter = (value, args, runtime) => {
  const { reverse, case_sensitive: isCaseSensitive, attribute } = bindArguments('sort', ['reverse', 'case_sensitive', 'attribute'], args) // prettier-ignore
  const look = lookUpAll(attribute, runtime)
  const keyOf = (item: Value): Value => look(item).map((key) => folded(key, flag(isCaseSensitive)))
  return sorted(itemsOf(value), keyOf, flag(reverse))
}

const unique: Filter = (value, args, runtime) => {
  const { case_sensitive: isCaseSensitive, attribute } = bindArguments('unique', ['case_sensitive', 'attribute'], args)
  const look = lookUp(attribute, runtime)
  const seen = new Dict()
  const kept: Value[] = []
  for (const item of itemsOf(value)) {
    const key = folded(look(item), flag(isCaseSensitive))
    if (!seen.has(key)) kept.push(item)
    seen.set(key, true)
  }
  return new PyGenerator(kept)
}

const groupby: Filter = (value, args, runtime) => {
  const bound = bindArguments('groupby', ['attribute', 'default', 'case_sensitive'], args)
  const look = lookUp(bound.attribute, runtime, bound.default)
  const keyOf = (item: Value): Value => folded(look(item), flag(bound.case_sensitive))
  const groups: { readonly grouper: Value; readonly key: Value; readonly items: Value[] }[] = []
  for (const item of sorted(itemsOf(value), keyOf)) {
    const key = keyOf(item)
    const last = groups.at(-1)
    if (last !== undefined && equals(last.key, key)) last.items.push(item)
    else groups.push({ grouper: flag(bound.case_sensitive) ? key : look(item), key, items: [item] })
  }
  return groups.map(({ grouper, items }) => new Tuple([grouper, items], ['grouper', 'list']))
}

const dictsort: Filter = (value, args) => {
  const bound = bindArguments('dictsort', ['case_sensitive', 'by', 'reverse'], args)
  const { by = 'key' } = bound
  if (by !== 'key' && by !== 'value') throw new TemplateFault("You can only sort by either 'key' or 'value'")
  if (!(value instanceof Dict)) throw new TemplateFault(`'${typeName(value)}' object has no attribute 'items'`)
  const keyOf = ([key, item]: readonly [Value, Value]): Value =>
    folded(by === 'key' ? key : item, flag(bound.case_sensitive))
  return sorted(value.entries(), keyOf, flag(bound.reverse)).map((entry) => new Tuple(entry))
}

const join: Filter = (value, args, runtime) => {
  const { d = '', attribute } = bindArguments('join', ['d', 'attribute'], args)
  const look = lookUp(attribute, runtime)
  const separator = textOf(d)
  const parts = itemsOf(value).map((item) => textOf(look(item)))
  runtime.budget.spend(parts.reduce((total, part) => total + part.length + separator.length, 0))
  return parts.join(separator)
}

const sum: Filter = (value, args, runtime) => {
  const { attribute, start = 0n } = bindArguments('sum', ['attribute', 'start'], args)
  const look = lookUp(attribute, runtime)
  if (typeof start === 'string') throw new TemplateFault("sum() can't sum strings")
  return itemsOf(value).reduce<Value>((total, item) => applyBinary('+', total, look(item), runtime.budget), start)
}

/** An indentation: a number of spaces, or a text. */
function marginOf(given: Value, budget: Budget): string {
  if (typeof given === 'string') return given
  const width = Math.max(0, indexOf(given))
  budget.spend(width)
  return ' '.repeat(width)
}

const indent: Filter = (value, args, { budget }) => {
  const { width = 4n, first, blank } = bindArguments('indent', ['width', 'first', 'blank'], args)
  const margin = marginOf(width, budget)
  const lines = splitLines(`${textOf(value)}\n`)
  budget.spend(lines.reduce((total, line) => total + line.length + margin.length, 0))
  const [head = '', ...rest] = lines
  const body = rest.map((line) => (flag(blank) || line !== '' ? margin + line : line))
  return (flag(first) ? margin : '') + [head, ...body].join('\n')
}

const tojson: Filter = (value, args, { budget }) => {
  const bound = bindArguments('tojson', ['ensure_ascii', 'indent', 'separators', 'sort_keys'], args)
  const { indent: given = null, separators = null } = bound
  const indentation =
    given === null ? null : typeof given === 'string' ? given : ' '.repeat(Math.max(0, indexOf(given)))
  const [itemSeparator = null, keySeparator = null] = separators === null ? [] : itemsOf(separators)
  const json = jsonText(value, {
    indent: indentation,
    itemSeparator: itemSeparator === null ? (indentation === null ? ', ' : ',') : textOf(itemSeparator),
    keySeparator: keySeparator === null ? ': ' : textOf(keySeparator),
    sortsKeys: flag(bound.sort_keys),
    isAscii: flag(bound.ensure_ascii),
  })
  budget.spend(json.length)
  return json
}

const truncate: Filter = (value, args) => {
  const { length: given = 255n, killwords, end = '...', leeway = 5n } = bindArguments('truncate', ['length', 'killwords', 'end', 'leeway'], args) // prettier-ignore
  const whole = textOf(value)
  const characters = [...whole]
  const [size, ending] = [indexOf(given), textOf(end)]
  if (characters.length <= size + indexOf(leeway)) return whole
  const cut = characters.slice(0, size - numCodePoints(ending)).join('')
  if (flag(killwords) || !cut.includes(' ')) return cut + ending
  return cut.slice(0, cut.lastIndexOf(' ')) + ending
}

const batches: Filter = (value, args, { budget }) => {
  const { linecount = null, fill_with: fill = null } = bindArguments('batch', ['linecount', 'fill_with'], args)
  const [items, size] = [itemsOf(value), indexOf(linecount)]
  if (size < 1) throw new TemplateFault('batch: expected at least 1')
  if (fill !== null) budget.step(size)
  const rows: Value[] = []
  for (let at = 0; at < items.length; at += size) {
    const row = items.slice(at, at + size)
    rows.push(fill === null ? row : [...row, ...Array.from({ length: size - row.length }, () => fill)])
  }
  return new PyGenerator(rows)
}

const slices: Filter = (value, args) => {
  const { slices: given = null, fill_with: fill = null } = bindArguments('slice', ['slices', 'fill_with'], args)
  const [items, count] = [itemsOf(value), indexOf(given)]
  if (count < 1 || count > 10_000) throw new TemplateFault('slice: expected 1 to 10000')
  const [size, longer] = [Math.floor(items.length / count), items.length % count]
  const rows = Array.from({ length: count }, (_, i): Value => {
    const start = i * size + Math.min(i, longer)
    const row = items.slice(start, start + size + (i < longer ? 1 : 0))
    return fill !== null && i >= longer ? [...row, fill] : row
  })
  return new PyGenerator(rows)
}

const reverse: Filter = (value) =>
  typeof value === 'string' ? [...value].toReversed().join('') : new PyGenerator(itemsOf(value).toReversed())

const URL_SAFE = /[^\w.~/-]/g
const quotedUrl = (given: string): string =>
  Buffer.from(given)
    .toString('latin1')
    .replaceAll(URL_SAFE, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)

const urlencode: Filter = (value) => {
  if (typeof value === 'string' || value === null || isNumeric(plainOf(value))) return quotedUrl(textOf(value))
  const pairs = value instanceof Dict ? value.entries() : itemsOf(value).map(itemsOf)
  return pairs
    .map((pair) => pair.map((part) => quotedUrl(textOf(part)).replaceAll('/', '%2F').replaceAll('%20', '+')).join('='))
    .join('&')
}

const replace: Filter = (value, args, runtime) => {
  const { old = null, new: by = null, count = null } = bindArguments('replace', ['old', 'new', 'count'], args)
  return replaceText(textOf(value), textOf(old), textOf(by), count === null ? -1 : indexOf(count), runtime)
}

const format: Filter = (value, { positional, named }, { budget }) => {
  if (positional.length > 0 && named.size > 0)
    throw new TemplateFault("can't handle positional and keyword arguments at the same time")
  return percentFormat(textOf(value), named.size > 0 ? new Dict(named) : new Tuple(positional), budget)
}

const TITLE_PART = /[-\s({[<]+|[^-\s({[<]+/g

export const FILTERS: ReadonlyMap<string, Filter> = new Map<string, Filter>([
  ['abs', absFilter],
  [
    'attr',
    (value, args, runtime) => {
      const { name = null } = bindArguments('attr', ['name'], args)
      if (typeof name !== 'string') throw new TemplateFault(`attr: expected str, found ${typeName(name)}`)
      return runtime.ownAttribute(value, name)
    },
  ],
  ['batch', batches],
  ['capitalize', text(capitalize)],
  ['center', (value, args, runtime) => centered(textOf(value), args, runtime)],
  ['count', length],
  ['length', length],
  ['d', defaulting],
  ['default', defaulting],
  ['dictsort', dictsort],
  ['e', escape],
  ['escape', escape],
  ['forceescape', escape],
  ['safe', (value) => textOf(value)],
  ['first', (value) => itemsOf(value)[0] ?? (itemsOf(value).length > 0 ? null : new Undefined('No first item, sequence was empty.'))], // prettier-ignore
  ['last', (value) => itemsOf(value).at(-1) ?? (itemsOf(value).length > 0 ? null : new Undefined('No last item, sequence was empty.'))], // prettier-ignore
  ['float', floatFilter],
  ['format', format],
  ['groupby', groupby],
  ['indent', indent],
  ['int', intFilter],
  ['items', (value) => pairsOf(value)],
  ['join', join],
  ['list', (value) => [...itemsOf(value)]],
  ['lower', text((given) => given.toLowerCase())],
  ['upper', text((given) => given.toUpperCase())],
  ['map', (value, args, runtime) => new PyGenerator(itemsOrNone(value).map(mapper(args, runtime)))],
  ['max', extreme(1)],
  ['min', extreme(-1)],
  ['reject', selection(false, false)],
  ['rejectattr', selection(false, true)],
  ['select', selection(true, false)],
  ['selectattr', selection(true, true)],
  ['replace', replace],
  ['reverse', reverse],
  ['round', roundFilter],
  ['slice', slices],
  ['sort', sort],
  ['string', (value) => textOf(value)],
  ['striptags', text(stripTags)],
  ['sum', sum],
  ['title', text(title)],
  ['tojson', tojson],
  ['trim', (value, args) => strip(textOf(value), bindArguments('trim', ['chars'], args).chars, 'both')],
  ['truncate', truncate],
  ['unique', unique],
  ['urlencode', urlencode],
  ['wordcount', (value) => BigInt((textOf(value).match(/[\p{L}\p{N}_]+/gu) ?? []).length)],
])

/** Words with an upper case character first: where str.title() has a title case one (ß: Ss), the filter has SS. */
function title(given: string): string {
  const words = (given.match(TITLE_PART) ?? []).map((word) => {
    const [first = ''] = word
    return first.toUpperCase() + word.slice(first.length).toLowerCase()
  })
  return words.join('')
}

function centered(given: string, args: Arguments, runtime: Runtime): Value {
  const { width = 80n } = bindArguments('center', ['width'], args)
  return call(runtime.attribute(given, 'center'), { positional: [width], named: new Map() })
}

function pairsOf(value: Value): Value {
  if (value instanceof Undefined) return new PyGenerator([])
  if (!(value instanceof Dict)) throw new TemplateFault('Can only get item pairs from a mapping.')
  return new PyGenerator(value.entries().map((entry) => new Tuple(entry)))
}
