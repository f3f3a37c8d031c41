/**
 * Arguments of earlier calls on their way through a template, which writes them as JSON again: digit for digit and in the caller's order.
 * JavaScript keeps neither 1.0 nor 12345678901234567890, and moves keys that are whole numbers to the front; what it would change goes
 * through the template as a mark, and comes back in its own spelling behind it.
 */

const OPEN = '\u{F8FB}'
const CLOSE = '\u{F8FA}'
const KEY = '\u{F8F9}'
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g
const MARKED = new RegExp(`"?${OPEN}([-+.\\deE]+)${CLOSE}"?`, 'g')

/** The arguments as a value for a template; '' and null are no arguments, and what is no JSON stays a string. */
export function templateArguments(json: string): unknown {
  if (json.trim() === '' || json.trim() === 'null') return {}
  try {
    JSON.parse(json)
  } catch {
    return json
  }
  const marked = json.replace(TOKEN, (token, at: number) => {
    if (!token.startsWith('"')) return String(Number(token)) === token ? token : `"${OPEN}${token}${CLOSE}"`
    const isKey = /^\s*:/.test(json.slice(at + token.length, at + token.length + 64))
    return isKey && /^"\d+"$/.test(token) ? `"${KEY}${token.slice(1)}` : token
  })
  const value: unknown = JSON.parse(marked)
  return value
}

/** What the template made of it, in the caller's spelling. */
export function withOwnSpelling(rendered: string): string {
  if (!rendered.includes(OPEN) && !rendered.includes(KEY)) return rendered
  return rendered.replace(MARKED, '$1').replaceAll(KEY, '')
}
