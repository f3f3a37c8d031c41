/** Documents as blocks: paragraphs, lists, tables and code under their headings, with offsets into the source. */
export type DocumentFormat = 'markdown' | 'asciidoc' | 'rst' | 'org' | 'text' | 'html' | 'csv' | 'pages'

/** A part of the source: [start, end) in UTF-16 units. */
interface SourceRange {
  readonly start: number
  readonly end: number
}

/** A row of a table as a sentence that names its columns and itself, so that it answers alone (see tables.ts). */
export interface TableRow extends SourceRange {
  readonly text: string
}

/**
 * A run of text that belongs together. `prose` may be cut between sentences, `lines` and `table` between lines, `code` only when it
 * must be.
 */
export interface Block extends SourceRange {
  readonly kind: 'prose' | 'lines' | 'code' | 'table'
  readonly text: string
  /** Headings above it, outermost first. */
  readonly headings: readonly string[]
  /** What a link to it has behind the document's address, such as `#page=3`; absent: nothing closer than the document. */
  readonly anchor?: string
  /** Of a table: its text by rows. */
  readonly rows?: readonly TableRow[]
}

/** What a reader of blocks yields: the next one, or null where it has read on without one. Its caller may interrupt it at each. */
export type ReadStep = Block | null

/** UTF-16 units of a heading. Longer ones are text that someone set as a heading: they are kept, but not repeated in every chunk. */
const MAX_TITLE_LENGTH = 256

/** Whether a text is short enough to be a heading. */
export const isTitle = (text: string): boolean => text.length <= MAX_TITLE_LENGTH

/** The level of the document's own title, above every heading. */
export const DOCUMENT_TITLE = 0

interface Heading extends SourceRange {
  readonly level: number
  readonly title: string
  /** As in Block. */
  readonly anchor?: string
}

/** Where a block stands: what is above it. */
export type BlockPlace = Pick<Block, 'headings' | 'anchor'>

/** Headings above the place that a document has been read to. One that nothing follows is text of its own. */
export class HeadingPath {
  #path: (Heading & { isCovered: boolean })[] = []

  /** Goes below a heading. @returns the headings left behind without any text below them, as blocks. */
  enter(heading: Heading): readonly Block[] {
    const left = this.#leave(heading.level)
    // A page's title and its first heading are often the same words.
    const outer = this.#path.at(-1)
    if (outer?.level === DOCUMENT_TITLE && isRepeated(outer.title, heading.title)) this.#path.pop()
    this.#path.push({ ...heading, isCovered: false })
    return left
  }

  /** The headings above a block that is here, and the anchor of the innermost that has one. */
  place(): BlockPlace {
    for (const heading of this.#path) heading.isCovered = true
    const anchor = this.#path.findLast((heading) => heading.anchor !== undefined)?.anchor
    return { headings: this.#path.map(({ title }) => title), ...(anchor !== undefined && { anchor }) }
  }

  /** The end of the document. @returns as `enter`. */
  end(): readonly Block[] {
    return this.#leave(DOCUMENT_TITLE)
  }

  #leave(level: number): readonly Block[] {
    const blocks: Block[] = []
    while ((this.#path.at(-1)?.level ?? -1) >= level) {
      const heading = this.#path.pop()
      if (!heading || heading.isCovered) continue
      const { title: text, start, end, anchor: own } = heading
      const above = this.place()
      const anchor = own ?? above.anchor
      blocks.push({ kind: 'prose', text, ...above, ...(anchor !== undefined && { anchor }), start, end })
    }
    return blocks
  }
}

function isRepeated(title: string, heading: string): boolean {
  const [a = '', b = ''] = [title, heading].map((text) => text.toLowerCase().replaceAll(/\s+/g, ' ').trim())
  return ` ${b} `.includes(` ${a} `)
}
