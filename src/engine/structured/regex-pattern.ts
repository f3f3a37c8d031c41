/** Patterns of structured outputs as the grammar compiler reads them right: what it misreads is rewritten, or refused by name. Pure data. */

/** Why a pattern cannot be enforced, in words that follow the field's name. */
export class PatternError extends Error {
  override readonly name = 'PatternError'
}

/** Characters of a range beyond ASCII that are written out: the compiler misreads classes of them. */
const MAX_LISTED = 512
/** What `.` stands for; the compiler's own matches line ends as well. */
const ANY = '[^\\n\\r]'

/**
 * The pattern to compile, for the whole output. Throws PatternError for anchors elsewhere than at the ends, which the
 * compiler passes over, and for classes that it reads as others.
 */
export function preparePattern(pattern: string): string {
  let prepared = ''
  let depth = 0
  for (let i = 0; i < pattern.length;) {
    const character = pattern[i] ?? ''
    if (character === '\\') {
      prepared += pattern.slice(i, i + 2)
      i += 2
      continue
    }
    if (character === '[') {
      const { text, length } = prepareClass(pattern.slice(i))
      prepared += text
      i += length
      continue
    }
    if (character === '(') depth++
    if (character === ')') depth--
    if (character === '^' && !(depth === 0 && (i === 0 || pattern[i - 1] === '|')))
      throw new PatternError('"^" elsewhere than at its beginning')
    if (character === '$' && !(depth === 0 && (i === pattern.length - 1 || pattern[i + 1] === '|')))
      throw new PatternError('"$" elsewhere than at its end')
    prepared += character === '.' ? ANY : character
    i++
  }
  return prepared
}

/** A character class at the beginning of `rest`, and how long it is there. Throws PatternError. */
export function prepareClass(rest: string): { readonly text: string; readonly length: number } {
  const found = /^\[(\^?)((?:\\.|[^\\\]])*)\]/su.exec(rest)
  if (found === null) throw new PatternError('a class without end')
  const [whole, negation = '', members = ''] = found
  const parsed = parseMembers(members, negation !== '')
  const { length } = whole
  if (negation !== '') {
    if (parsed.beyond.length > 0) throw new PatternError('a negated class of characters beyond ASCII')
    if (/\\[SDW]/.test(parsed.ascii)) throw new PatternError('a negated class of negated ones, as in "[^\\S]"')
  }
  if (parsed.beyond.length === 0) return { text: `[${negation}${parsed.ascii}]`, length }
  // Outside of classes the compiler reads them right.
  const branches = [...(parsed.ascii === '' ? [] : [`[${parsed.ascii}]`]), ...parsed.beyond]
  return { text: `(?:${branches.join('|')})`, length }
}

/** What stands in a class: escaped ASCII, with ranges and shorthands, and the characters beyond it one by one. */
function parseMembers(
  members: string,
  isNegated: boolean,
): { readonly ascii: string; readonly beyond: readonly string[] } {
  const tokens = members.match(/\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]/gsu) ?? []
  const beyond: string[] = []
  let ascii = ''
  let hasCaret = false
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] ?? ''
    if (/^\\[dDwWsS]$/.test(token)) {
      ascii += token
      continue
    }
    let low = codePointOf(token)
    const end = tokens[i + 1] === '-' ? tokens[i + 2] : undefined
    const isRange = end !== undefined && !/^\\[dDwWsS]$/.test(end)
    const high = isRange ? codePointOf(end) : low
    if (isRange) i += 2
    if (high < low) throw new PatternError('a range whose end comes before its beginning')
    if (low === CARET) {
      hasCaret = true
      low++
    }
    if (low < 0x80 && low <= high)
      ascii += low === high ? escapeAscii(low) : `${escapeAscii(low)}-${escapeAscii(Math.min(high, 0x7f))}`
    if (high - Math.max(low, 0x80) >= MAX_LISTED)
      throw new PatternError(`a range beyond ASCII of more than ${MAX_LISTED} characters`)
    for (let code = Math.max(low, 0x80); code <= high; code++) beyond.push(String.fromCodePoint(code))
  }
  // In the first place of a class it would negate it, escaped or not.
  if (hasCaret && ascii === '' && !isNegated) return { ascii, beyond: [...beyond, '\\^'] }
  return { ascii: hasCaret ? ascii + escapeAscii(CARET) : ascii, beyond }
}

const CARET = 0x5e
const CONTROLS: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, b: 0x08, '0': 0x00 }

function codePointOf(token: string): number {
  const hex = /^\\[xu]([0-9a-fA-F]+)$/.exec(token)?.[1]
  if (hex !== undefined) return Number.parseInt(hex, 16)
  if (!token.startsWith('\\')) return token.codePointAt(0) ?? 0
  const escaped = token.slice(1)
  const control = CONTROLS[escaped]
  if (control !== undefined) return control
  if (/[\p{L}\p{N}]/u.test(escaped)) throw new PatternError('an escape of this name in a class')
  return escaped.codePointAt(0) ?? 0
}

/** By its number, so that nothing in a class has a meaning of its own. */
function escapeAscii(code: number): string {
  return `\\x${code.toString(16).padStart(2, '0')}`
}
