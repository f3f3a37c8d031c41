/** Markup as text, as markupsafe has it. */
import { decodeHTML } from 'entities/decode'
import { SPACE } from './white-space.ts'

const WORD = new RegExp(`[^${SPACE}]+`, 'g')
const CHARACTER_REFERENCE = /&(?:#(?:(\d+)|[xX]([\da-fA-F]+));?|[A-Za-z][A-Za-z\d]{0,31};?)/g

/** Whether a reference to a code point stands for nothing: most control characters, and what is no character at all. Those of Windows-1252 stand for its. */
const isNoCharacter = (code: number): boolean =>
  (code >= 0x01 && code <= 0x08) ||
  code === 0x0b ||
  (code >= 0x0e && code <= 0x1f) ||
  code === 0x7f ||
  (code >= 0xfdd0 && code <= 0xfdef) ||
  ((code & 0xfffe) === 0xfffe && code <= 0x10ffff)

/** As Python's html.unescape. */
const unescaped = (given: string): string =>
  given.replaceAll(CHARACTER_REFERENCE, (reference, decimal?: string, hexadecimal?: string) => {
    const code = Number(decimal ?? `0x${hexadecimal ?? '0'}`)
    return isNoCharacter(code) ? '' : decodeHTML(reference)
  })

/**
 * The text without comments and tags, its words one space apart, and then without character references. From the first tag without an end on,
 * everything is text.
 */
export function stripTags(given: string): string {
  let kept = ''
  let at = 0
  for (let start = given.indexOf('<'); start >= 0; start = given.indexOf('<', at)) {
    const isComment = given.startsWith('<!--', start)
    const end = isComment ? given.indexOf('-->', start + 4) : given.indexOf('>', start)
    if (end < 0) break
    kept += given.slice(at, start)
    at = end + (isComment ? 3 : 1)
  }
  return unescaped((kept + given.slice(at)).match(WORD)?.join(' ') ?? '')
}
