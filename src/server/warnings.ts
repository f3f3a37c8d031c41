/** The header that says how an answer differs from what was asked. */

const HEADER = 'X-Miniserve-Warning'

/** Adds a sentence. It may hold the caller's own names (a schema's property), of which a header takes plain ASCII only: the rest is escaped as in JSON. */
export function addWarning(headers: Headers, sentence: string): void {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  headers.append(HEADER, sentence.replace(/[^\x20-\x7e]/g, escaped))
}
