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

/** Text of a tsquery: any of the terms. */
export const tsQuery = (terms: readonly string[]): string => terms.map(quoted).join(' | ')
