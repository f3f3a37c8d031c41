/** White space as Python has it, which differs slightly from JavaScript's. Stripped in loops: a pattern that ends in `$` is tried at every place. */

/** The characters, for a class in a pattern. */
export const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const IS_SPACE = new RegExp(`[${SPACE}]`)

/** The text without white space at its beginning. */
export function stripStart(text: string): string {
  let from = 0
  while (from < text.length && IS_SPACE.test(text.charAt(from))) from++
  return text.slice(from)
}

/** The text without white space at its end. */
export function stripEnd(text: string): string {
  let to = text.length
  while (to > 0 && IS_SPACE.test(text.charAt(to - 1))) to--
  return text.slice(0, to)
}
