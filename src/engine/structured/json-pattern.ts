/** Patterns of JSON strings: a schema's own, made safe to stand between quotes, and those that stand for its formats. */

import { prepareClass } from './regex-pattern.ts'

/** What a JSON string cannot hold as it is. */
const UNSAFE = '"\\\\\\x00-\\x1f'
/** A character that stands for itself. A complement, since the compiler misreads ranges beyond ASCII. */
export const PLAIN = `[^${UNSAFE}]`
const DATE =
  '\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))'
const TIME = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)'
const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d{2}|[1-9]?\\d)'
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?'
const HOST = `(?:${LABEL}\\.){1,4}[A-Za-z]{2,12}`
/** Formats as patterns that give valid values only, if not every one (no 29 February, no local hosts). */
export const FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE}T${TIME}`],
  ['uuid', '[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}'],
  ['ipv4', `${OCTET}\\.${OCTET}\\.${OCTET}\\.${OCTET}`],
  ['ipv6', '(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}'],
  ['hostname', HOST],
  ['email', `[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,3}@${HOST}`],
  ['uri', `https?://${HOST}(?::[1-9]\\d{0,3})?(?:/[A-Za-z0-9._~-]{1,64}){0,8}/?`],
])

/**
 * A pattern that matches no quote, backslash or control character, which may not stand in a JSON string as they are; null where that cannot
 * be made sure. Anchors may stand at the ends only, and are dropped: the whole string is matched.
 */
export function jsonSafePattern(pattern: string): string | null {
  const body = pattern.replace(/^\^/, '').replace(/(?<!\\)\$$/, '')
  if (body !== pattern && body.includes('|')) return null
  let safe = ''
  for (let i = 0; i < body.length;) {
    const rest = body.slice(i)
    const group = /^\[(\^?)((?:\\[dwDW.\-\]^$*+?(){}|/]|[^\\\]"\p{Cc}\u{80}-\u{10ffff}])+)\]/u.exec(rest)
    const token =
      group?.[0] ??
      /^(?:\\[dw.\-\]^$*+?(){}|/[]|\(\?:|\((?!\?)|[)|*+?]|\{\d+(?:,\d*)?\}|\.|[^\\"()[\]{}|*+?.^$\p{Cc}])/u.exec(
        rest,
      )?.[0]
    if (token === undefined) return null
    i += token.length
    if (token === '.') safe += PLAIN
    else if (group !== null && group[1] === '^') {
      if (/\\[DW]/.test(token)) return null
      safe += `[^${UNSAFE}${group[2] ?? ''}]`
    } else if (group !== null) {
      if (/\\[DW]/.test(token) || coversUnsafe(group[2] ?? '')) return null
      try {
        safe += prepareClass(token).text
      } catch {
        return null
      }
    } else safe += token
  }
  return safe
}

/** A range in a character class that runs over the quote or the backslash. */
function coversUnsafe(members: string): boolean {
  for (const [, from = '', to = ''] of members.matchAll(/(\\?.)-(\\?.)/gsu)) {
    const [low, high] = [from.codePointAt(from.length - 1) ?? 0, to.codePointAt(to.length - 1) ?? 0]
    if ([0x22, 0x5c].some((code) => low <= code && code <= high)) return true
  }
  return false
}
