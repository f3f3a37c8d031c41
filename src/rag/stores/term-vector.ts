/**
 * A chunk's terms as PostgreSQL's tsvector. The terms are those of analyzer.ts, so that every store finds the same; the position of each says how
 * often the chunk has it, which is all that BM25 asks for.
 */

/** PostgreSQL's limit of a position. */
const MAX_POSITION = 16_383

const quoted = (term: string): string => `'${term.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** Text of a tsvector. */
export const tsVector = (terms: ReadonlyMap<string, number>): string =>
  [...terms].map(([term, count]) => `${quoted(term)}:${Math.min(count, MAX_POSITION)}`).join(' ')

/** Terms beside each other in a tsquery. */
const MAX_TERMS_IN_A_ROW = 64

/** Text of a tsquery: any of the terms. In halves: PostgreSQL reads it recursively, and a row of 40,000 is beyond its stack. */
export function tsQuery(terms: readonly string[]): string {
  if (terms.length <= MAX_TERMS_IN_A_ROW) return terms.map(quoted).join(' | ')
  const half = Math.ceil(terms.length / 2)
  return `(${tsQuery(terms.slice(0, half))}) | (${tsQuery(terms.slice(half))})`
}
