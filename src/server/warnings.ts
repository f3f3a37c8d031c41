/** The header that reports how a response differs from what was requested. */

export const WARNING_HEADER = 'X-Miniserve-Warning'

/** Adds a sentence, which may contain names from the request. Headers allow only ASCII, so other characters are escaped as in JSON. */
export function addWarning(headers: Headers, sentence: string): void {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  headers.append(WARNING_HEADER, sentence.replace(/[^\x20-\x7e]/g, escaped))
}
