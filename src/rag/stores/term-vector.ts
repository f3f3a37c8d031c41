/**
 * A chunk's terms as a tsvector of PostgreSQL. The terms are those of analyzer.ts, so that every store finds the same. The position of a term is its
 * count in the chunk, which is all that BM25 needs.
 */

/** PostgreSQL's limit for a position. */
const MAX_POSITION = 16_383

const quoted = (term: string): string => `'${term.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** The text of a tsvector. */
export const tsVector = (terms: ReadonlyMap<string, number>): string =>
  [...terms].map(([term, count]) => `${quoted(term)}:${Math.min(count, MAX_POSITION)}`).join(' ')

/** Terms of a tsquery that are not nested. */
const MAX_TERMS_IN_A_ROW = 64

/** The text of a tsquery that matches any of the terms. Nested in halves: PostgreSQL's recursive parser cannot read 40,000 terms in a row. */
export function tsQuery(terms: readonly string[]): string {
  if (terms.length <= MAX_TERMS_IN_A_ROW) return terms.map(quoted).join(' | ')
  const half = Math.ceil(terms.length / 2)
  return `(${tsQuery(terms.slice(0, half))}) | (${tsQuery(terms.slice(half))})`
}
