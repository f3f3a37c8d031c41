/** Where in a document a passage is, as links say it. */

const PDF = /\.pdf(?:\.gz)?$/i
/** The heading of a page in a paged document (plain.ts). */
export const pageHeading = (page: number): string => `Page ${page}`
const PAGE = /^Page (\d+)$/

/**
 * What a link to a passage has behind its document's address, such as `#page=3` (RFC 8118); null where only the document can be linked to.
 * @param document by whose id or source it is known to be a PDF.
 */
export function anchorOf(document: {
  readonly documentId: string
  readonly source: string
  readonly headings: readonly string[]
}): string | null {
  const { documentId, source, headings } = document
  const page = PDF.test(documentId) || PDF.test(source) ? PAGE.exec(headings[0] ?? '')?.[1] : undefined
  return page === undefined ? null : `#page=${page}`
}
