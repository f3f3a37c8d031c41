/** Documents as blocks: paragraphs, lists, tables and code below their headings, with offsets into the source. */
export type DocumentFormat = 'markdown' | 'asciidoc' | 'rst' | 'org' | 'text' | 'html' | 'csv' | 'pages'

/** A range of the source: [start, end) in UTF-16 units. */
interface SourceRange {
  readonly start: number
  readonly end: number
}

/** The cells of a table's row, as the source has them. */
export interface CellRow extends SourceRange {
  readonly cells: readonly string[]
}

/** A table's row as a sentence with the names of its columns, so that it can be understood without the table (see tables.ts). */
export interface TableRow extends SourceRange {
  readonly text: string
}

/**
 * Text that belongs together. `prose` may be cut between sentences, `lines` and `table` between lines, `code` only where it is too long for a
 * chunk.
 */
export interface Block extends SourceRange {
  readonly kind: 'prose' | 'lines' | 'code' | 'table'
  readonly text: string
  /** Headings above it, outermost first. */
  readonly headings: readonly string[]
  /** The fragment that a link to the block appends to the document's address, such as `#page=3`; absent: only the document can be linked to. */
  readonly anchor?: string
  /** The text of a table, row by row. */
  readonly rows?: readonly TableRow[]
}

/** A reader yields its next block, or null after some work without one. Its caller may pause it at each step. */
export type ReadStep = Block | null

/** UTF-16 units of a heading. A longer one is text that was set as a heading: it becomes a block instead of being repeated in every chunk. */
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

/** The headings above a block, and its anchor. */
export type BlockPlace = Pick<Block, 'headings' | 'anchor'>

/** The headings above the current position of a reader. A heading without text below it becomes a block. */
export class HeadingPath {
  #path: (Heading & { isCovered: boolean })[] = []

  /** Enters the section of a heading. @returns the headings of the sections left that had no text below them, as blocks. */
  enter(heading: Heading): readonly Block[] {
    const left = this.#leave(heading.level)
    // A page's title and its first heading often have the same words.
    const outer = this.#path.at(-1)
    if (outer?.level === DOCUMENT_TITLE && isRepeated(outer.title, heading.title)) this.#path.pop()
    this.#path.push({ ...heading, isCovered: false })
    return left
  }

  /** The place of a block at the current position; its anchor is that of the innermost heading with one. */
  place(): BlockPlace {
    for (const heading of this.#path) heading.isCovered = true
    const anchor = this.#path.findLast((heading) => heading.anchor !== undefined)?.anchor
    return { headings: this.#path.map(({ title }) => title), ...(anchor !== undefined && { anchor }) }
  }

  /** Leaves all sections at the end of the document. @returns as `enter`. */
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
