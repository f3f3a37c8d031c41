/** Documents as blocks: paragraphs, lists, tables and code under their headings, with offsets into the source. */
export type DocumentFormat = 'markdown' | 'text' | 'html'

/** A run of text that belongs together. `prose` may be cut between sentences, `lines` between lines, `code` only when it must be. */
export interface Block {
  readonly kind: 'prose' | 'lines' | 'code'
  readonly text: string
  /** Headings above it, outermost first. */
  readonly headings: readonly string[]
  /** UTF-16 offsets of the block in the source: [start, end). */
  readonly start: number
  readonly end: number
}

/** UTF-16 units of a heading. Longer ones are text that someone set as a heading: they are kept, but not repeated in every chunk. */
const MAX_TITLE_LENGTH = 256

/** Whether a text is short enough to be a heading. */
export const isTitle = (text: string): boolean => text.length <= MAX_TITLE_LENGTH

/** Headings seen so far, by level. */
export class HeadingPath {
  #path: { readonly level: number; readonly title: string }[] = []

  enter(level: number, title: string): void {
    this.#path = [...this.#path.filter((heading) => heading.level < level), { level, title }]
  }

  titles(): readonly string[] {
    return this.#path.map(({ title }) => title)
  }
}
