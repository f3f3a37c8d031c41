/** The header that says how an answer differs from what was asked. */

const HEADER = 'X-Miniserve-Warning'

/** Adds a sentence. It may contain names from the request (a schema's property). Headers take only ASCII, so other characters are escaped as in JSON. */
export function addWarning(headers: Headers, sentence: string): void {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  headers.append(HEADER, sentence.replace(/[^\x20-\x7e]/g, escaped))
}
