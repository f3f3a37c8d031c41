/** Methods of text, as Python's str has them. */
import { TemplateFault } from './errors.ts'
import { indexOf } from './operators.ts'
import { bindArguments } from './runtime.ts'
import type { Runtime } from './runtime.ts'
import { braceFormat } from './text-format.ts'
import { charactersOf, Dict, isList, itemsOf, numCodePoints, Tuple, typeName, Undefined } from './values.ts'
import type { Arguments, Value } from './values.ts'
import { SPACE, stripEnd, stripStart } from './white-space.ts'

type StringMethod = (text: string, args: Arguments, runtime: Runtime) => Value

const RUN = new RegExp(`[^${SPACE}]+`, 'g')
const ALL_SPACE = new RegExp(`^[${SPACE}]+$`)

function requireText(value: Value, what: string): string {
  if (typeof value === 'string') return value
  if (value instanceof Undefined) return value.fail()
  throw new TemplateFault(`${what}: expected str, found ${typeName(value)}`)
}

/** Strips the characters, or white space, from the ends of a text. */
export function strip(text: string, characters: Value | undefined, side: 'start' | 'end' | 'both'): string {
  if (characters === undefined || characters === null) {
    const begun = side === 'end' ? text : stripStart(text)
    return side === 'start' ? begun : stripEnd(begun)
  }
  const set = new Set(requireText(characters, 'strip'))
  const all = [...text]
  let [from, to] = [0, all.length]
  if (side !== 'end') while (from < to && set.has(all[from] ?? '')) from++
  if (side !== 'start') while (to > from && set.has(all[to - 1] ?? '')) to--
  return all.slice(from, to).join('')
}

/** First character upper case, the rest lower case. */
export function capitalize(text: string): string {
  const [first = ''] = text
  // In lower case a sigma depends on what is around it.
  return titleCase(first) + text.toLowerCase().slice(first.toLowerCase().length)
}

const CASED = /\p{Cased}/u
const IOTA = 'Ι'
const IOTA_SUBSCRIPT = '\u0345'
/** The upper case of two letters in one character. The next character is its title case. */
const DIGRAPH = /^[ǄǇǊǱ]$/

/** A character in title case, of which JavaScript knows nothing (Unicode's UnicodeData.txt and SpecialCasing.txt): ß becomes Ss, ǆ ǅ and ᾳ ᾼ. */
function titleCase(character: string): string {
  // Title case is a case of its own here, and Georgian letters have upper case only in texts that are upper case as a whole.
  if (/\p{Lt}|[\u10d0-\u10ff]/u.test(character)) return character
  const upper = character.toUpperCase()
  if (DIGRAPH.test(upper)) return String.fromCodePoint((upper.codePointAt(0) ?? 0) + 1)
  if (upper.length > 1 && upper.endsWith(IOTA)) {
    const title = upper.slice(0, -1) + IOTA_SUBSCRIPT
    return upper.length === 2 ? title.normalize('NFC') : title
  }
  const [{ index = 0, 0: first = '' } = {}] = upper.matchAll(/\p{Cased}/gu)
  return upper.slice(0, index) + first + upper.slice(index + first.length).toLowerCase()
}

/** `count` replacements at most; negative: all. */
export function replaceText(text: string, old: string, by: string, count: number, runtime: Runtime): string {
  let left = count < 0 ? Infinity : count
  const { budget } = runtime
  const parts = old === '' ? ['', ...text] : text.split(old)
  const numDone = Math.min(left, old === '' ? parts.length : parts.length - 1)
  budget.spend(text.length + numDone * by.length)
  if (old !== '') {
    if (numDone === parts.length - 1) return parts.join(by)
    return [...parts.slice(0, numDone), parts.slice(numDone).join(old)].join(by)
  }
  let result = ''
  for (const part of parts) result += part + (left-- > 0 ? by : '')
  return result
}

/** Line ends of Python's splitlines(). */
const BREAK = '[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]'
const LINE = new RegExp(`(?:(?!${BREAK})[^])*(?:\\r\\n|${BREAK}|$)`, 'g')
const LINE_END = new RegExp(`(?:\\r\\n|${BREAK})$`)

/** Lines as `str.splitlines` cuts them. */
export function splitLines(text: string, keepEnds = false): string[] {
  const lines = text.match(LINE) ?? []
  if (lines.at(-1) === '') lines.pop()
  return keepEnds ? lines : lines.map((line) => line.replace(LINE_END, ''))
}

/** maxsplit negative: as often as possible. */
function split(text: string, separator: Value | undefined, maxsplit: number, fromEnd: boolean): string[] {
  if (separator === undefined || separator === null) {
    const runs = [...text.matchAll(RUN)]
    if (maxsplit < 0 || runs.length <= maxsplit) return runs.map(([run]) => run)
    if (fromEnd) {
      const kept = runs.slice(runs.length - maxsplit)
      const before = runs[runs.length - maxsplit - 1]
      const head = text.slice(0, (before?.index ?? 0) + (before?.[0].length ?? 0))
      return [head, ...kept.map(([run]) => run)]
    }
    const tail = text.slice(runs[maxsplit]?.index ?? text.length)
    return [...runs.slice(0, maxsplit).map(([run]) => run), tail]
  }
  const by = requireText(separator, 'split')
  if (by === '') throw new TemplateFault('empty separator')
  const parts = text.split(by)
  if (maxsplit < 0 || parts.length - 1 <= maxsplit) return parts
  const cut = fromEnd ? parts.length - maxsplit : maxsplit
  return fromEnd
    ? [parts.slice(0, cut).join(by), ...parts.slice(cut)]
    : [...parts.slice(0, cut), parts.slice(cut).join(by)]
}

const splitter =
  (fromEnd: boolean): StringMethod =>
  (text, args) => {
    const { sep, maxsplit = -1n } = bindArguments('split', ['sep', 'maxsplit'], args)
    return split(text, sep, indexOf(maxsplit), fromEnd)
  }

const stripper =
  (side: 'start' | 'end' | 'both'): StringMethod =>
  (text, args) =>
    strip(text, bindArguments('strip', ['chars'], args).chars, side)

/** startswith and endswith, with optional bounds in characters. */
const bounded =
  (test: (text: string, part: string) => boolean): StringMethod =>
  (text, args) => {
    const { prefix = null, start = null, end = null } = bindArguments('startswith', ['prefix', 'start', 'end'], args)
    const within = start === null && end === null ? text : between(text, start, end)
    const parts = prefix instanceof Tuple ? prefix.items : [prefix]
    return parts.some((part) => test(within, requireText(part, 'startswith')))
  }

function between(text: string, start: Value, end: Value): string {
  const characters = charactersOf(text)
  const part = characters.slice(start === null ? 0 : indexOf(start), end === null ? undefined : indexOf(end))
  return typeof part === 'string' ? part : part.join('')
}

/** find and index, from either end; -1 or an error if the part is not found. */
const finder =
  (fromEnd: boolean, isStrict: boolean): StringMethod =>
  (text, args) => {
    const { sub = null, start = null, end = null } = bindArguments('find', ['sub', 'start', 'end'], args)
    const part = requireText(sub, 'find')
    const within = start === null && end === null ? text : between(text, start, end)
    const at = fromEnd ? within.lastIndexOf(part) : within.indexOf(part)
    if (at < 0 && isStrict) throw new TemplateFault('substring not found')
    const length = numCodePoints(text)
    const first = start === null ? 0 : indexOf(start)
    const offset = first < 0 ? Math.max(0, length + first) : first
    return at < 0 ? -1n : BigInt(offset + numCodePoints(within.slice(0, at)))
  }

const filler =
  (pad: (missing: number, width: number) => readonly [number, number]): StringMethod =>
  (text, args, { budget }) => {
    const { width = 0n, fillchar = ' ' } = bindArguments('ljust', ['width', 'fillchar'], args)
    const missing = indexOf(width) - numCodePoints(text)
    if (missing <= 0) return text
    budget.spend(missing)
    const [before, after] = pad(missing, indexOf(width))
    const fill = requireText(fillchar, 'ljust')
    return fill.repeat(before) + text + fill.repeat(after)
  }

const partitioner =
  (fromEnd: boolean): StringMethod =>
  (text, args) => {
    const by = requireText(bindArguments('partition', ['sep'], args).sep ?? null, 'partition')
    const at = fromEnd ? text.lastIndexOf(by) : text.indexOf(by)
    if (at < 0) return new Tuple(fromEnd ? ['', '', text] : [text, '', ''])
    return new Tuple([text.slice(0, at), by, text.slice(at + by.length)])
  }

/** Whether the text is not empty and all its characters match. */
const every =
  (pattern: RegExp): StringMethod =>
  (text) =>
    pattern.test(text)

const change =
  (map: (text: string) => string): StringMethod =>
  (text, _, { budget }) => {
    budget.spend(text.length)
    return map(text)
  }

/** Each character with its lower case, in which a sigma depends on what is around it. */
function* withLowerCase(text: string): Iterable<readonly [character: string, lower: string]> {
  const lower = text.toLowerCase()
  let at = 0
  for (const character of text) {
    const { length } = character.toLowerCase()
    yield [character, lower.slice(at, at + length)]
    at += length
  }
}

function titled(text: string): string {
  let isInWord = false
  let result = ''
  for (const [character, lower] of withLowerCase(text)) {
    const isCased = CASED.test(character)
    result += isCased ? (isInWord ? lower : titleCase(character)) : character
    isInWord = isCased
  }
  return result
}

/** Whether words begin in upper or title case and go on in lower case, and there is at least one. */
function isTitled(text: string): boolean {
  let isInWord = false
  for (const character of text) {
    const isFirst = /\p{Uppercase}|\p{Lt}/u.test(character)
    if (isFirst === isInWord && CASED.test(character)) return false
    isInWord = CASED.test(character)
  }
  return CASED.test(text)
}

/** Cherokee letters fold to upper case, which came first, and a dotless i stays what it is. */
function folded(text: string): string {
  let result = ''
  for (const character of text) {
    if (character === 'ı') result += character
    else if (/\p{Script=Cherokee}/u.test(character)) result += character.toUpperCase()
    else result += [...character.toLowerCase().toUpperCase()].map((each) => each.toLowerCase()).join('')
  }
  return result
}

function swapCase(text: string): string {
  let result = ''
  for (const [character, lower] of withLowerCase(text)) {
    if (/\p{Uppercase}/u.test(character)) result += lower
    else result += /\p{Lowercase}/u.test(character) ? character.toUpperCase() : character
  }
  return result
}

/** Decimal digits, and digits in superscripts, circles and the like. */
const DIGITS =
  /^[\p{Nd}²³¹\u1369-\u1371\u19da\u2070\u2074-\u2079\u2080-\u2089①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒\u{10a40}-\u{10a43}\u{10e60}-\u{10e68}\u{11052}-\u{1105a}\u{1f100}-\u{1f10a}]+$/u

export const STRING_METHODS: ReadonlyMap<string, StringMethod> = new Map<string, StringMethod>([
  ['capitalize', change(capitalize)],
  ['casefold', change(folded)],
  [
    'center',
    filler((n, width) =>
      n % 2 === 1 && width % 2 === 1 ? [Math.ceil(n / 2), Math.floor(n / 2)] : [Math.floor(n / 2), Math.ceil(n / 2)],
    ),
  ],
  [
    'count',
    (text, args) => {
      const { sub = null, start = null, end = null } = bindArguments('count', ['sub', 'start', 'end'], args)
      const part = requireText(sub, 'count')
      const within = start === null && end === null ? text : between(text, start, end)
      return BigInt(part === '' ? numCodePoints(within) + 1 : within.split(part).length - 1)
    },
  ],
  ['endswith', bounded((text, part) => text.endsWith(part))],
  ['startswith', bounded((text, part) => text.startsWith(part))],
  ['find', finder(false, false)],
  ['rfind', finder(true, false)],
  ['index', finder(false, true)],
  ['rindex', finder(true, true)],
  ['format', (text, args, runtime) => braceFormat(text, args, runtime, runtime.budget)],
  [
    'format_map',
    (text, args, runtime) => {
      const { map } = bindArguments('format_map', ['map'], args)
      const named = map instanceof Dict ? map.entries().map(([key, value]) => [String(key), value] as const) : []
      return braceFormat(text, { positional: [], named: new Map(named) }, runtime, runtime.budget)
    },
  ],
  ['isalnum', every(/^[\p{L}\p{N}]+$/u)],
  ['isalpha', every(/^\p{L}+$/u)],
  ['isascii', (text) => [...text].every((each) => each <= '\x7f')],
  ['isdecimal', every(/^\p{Nd}+$/u)],
  ['isdigit', every(DIGITS)],
  ['isnumeric', every(/^\p{N}+$/u)],
  ['isidentifier', every(/^[\p{XID_Start}_]\p{XID_Continue}*$/u)],
  ['isspace', every(ALL_SPACE)],
  ['islower', (text) => CASED.test(text) && !/\p{Uppercase}|\p{Lt}/u.test(text)],
  ['isupper', (text) => CASED.test(text) && !/\p{Lowercase}|\p{Lt}/u.test(text)],
  ['istitle', isTitled],
  [
    'join',
    (text, args, { budget }) => {
      const parts = itemsOf(bindArguments('join', ['iterable'], args).iterable ?? null).map((part) =>
        requireText(part, 'join'),
      )
      budget.spend(parts.reduce((sum, part) => sum + part.length + text.length, 0))
      return parts.join(text)
    },
  ],
  ['ljust', filler((n) => [0, n])],
  ['rjust', filler((n) => [n, 0])],
  [
    'zfill',
    (text, args, { budget }) => {
      const missing = indexOf(bindArguments('zfill', ['width'], args).width ?? null) - numCodePoints(text)
      if (missing <= 0) return text
      budget.spend(missing)
      const sign = /^[-+]/.exec(text)?.[0] ?? ''
      return sign + '0'.repeat(missing) + text.slice(sign.length)
    },
  ],
  ['lower', change((text) => text.toLowerCase())],
  ['upper', change((text) => text.toUpperCase())],
  ['swapcase', change(swapCase)],
  ['title', change(titled)],
  ['lstrip', stripper('start')],
  ['rstrip', stripper('end')],
  ['strip', stripper('both')],
  ['partition', partitioner(false)],
  ['rpartition', partitioner(true)],
  [
    'removeprefix',
    (text, args) => {
      const prefix = requireText(bindArguments('removeprefix', ['prefix'], args).prefix ?? null, 'removeprefix')
      return text.startsWith(prefix) ? text.slice(prefix.length) : text
    },
  ],
  [
    'removesuffix',
    (text, args) => {
      const suffix = requireText(bindArguments('removesuffix', ['suffix'], args).suffix ?? null, 'removesuffix')
      return suffix !== '' && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text
    },
  ],
  [
    'replace',
    (text, args, runtime) => {
      const { old = null, new: by = null, count = -1n } = bindArguments('replace', ['old', 'new', 'count'], args)
      return replaceText(text, requireText(old, 'replace'), requireText(by, 'replace'), indexOf(count), runtime)
    },
  ],
  ['split', splitter(false)],
  ['rsplit', splitter(true)],
  ['splitlines', (text, args) => splitLines(text, bindArguments('splitlines', ['keepends'], args).keepends === true)],
  [
    'expandtabs',
    (text, args, { budget }) => {
      const size = indexOf(bindArguments('expandtabs', ['tabsize'], args).tabsize ?? 8n)
      budget.spend(Math.max(0, size) * (text.split('\t').length - 1))
      return text
        .split('\n')
        .map((line) =>
          line
            .split('\t')
            .reduce(
              (sum, part, i) => (i === 0 ? part : sum + ' '.repeat(size > 0 ? size - (sum.length % size) : 0) + part),
              '',
            ),
        ) // prettier-ignore
        .join('\n')
    },
  ],
])

/** Methods that modify their object. Templates may not call them. */
const CHANGING: ReadonlySet<string> = new Set(['append', 'clear', 'extend', 'insert', 'pop', 'popitem', 'remove', 'reverse', 'setdefault', 'sort', 'update']) // prettier-ignore

/** Whether it is a method that would change a list or dict, which templates may not. */
export function refusesMethod(value: Value, name: string): boolean {
  return (isList(value) || value instanceof Dict) && CHANGING.has(name)
}
