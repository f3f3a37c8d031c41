/** Blocks of a document that is read line by line. */
import { HeadingPath, isTitle, type Block, type BlockPlace, type ReadStep } from './blocks.ts'
import { linesOf, toBlock, type Line } from './plain.ts'
import { areColumnNames, namedRow, plainRow, TableBlocks } from './tables.ts'

/** Cells of a row and where they lie. */
export interface CellRow {
  readonly cells: readonly string[]
  readonly start: number
  readonly end: number
}

/** Lines of a document whose structure is read; of a longer one, its paragraphs are. */
const MAX_LINES = 200_000
/** UTF-16 units of a line that can be more than text: patterns with repetitions are tried on none that is longer. */
const MAX_MARKUP_LINE = 2048

/** The lines of a document in a markup; null for more than are read in one go. */
export function markupLines(text: string): readonly Line[] | null {
  const lines: Line[] = []
  for (const line of linesOf(text)) if (lines.push(line) > MAX_LINES) return null
  return lines
}

/** Whether a line is text and nothing else. */
export const isPlain = ({ text }: Line): boolean => text.length > MAX_MARKUP_LINE

/** The first line from `from` on that is meant; that behind the last one where none is. */
export function findLine(lines: readonly Line[], from: number, isMeant: (line: Line) => boolean): number {
  let at = from
  for (let line = lines[at]; line && !isMeant(line); line = lines[++at]);
  return at
}

/** Where the lines that close something stand last: whether one follows is known without a search for each line that opens. */
export class LastLines {
  readonly #last = new Map<string, number>()

  /** @param markOf a line that closes something; null or undefined for any other */
  constructor(lines: readonly Line[], markOf: (line: Line) => string | null | undefined) {
    for (const [i, line] of lines.entries()) {
      const mark = isPlain(line) ? null : markOf(line)
      if (mark) this.#last.set(mark, i)
    }
  }

  /** Whether a line with this mark follows line number `at`. */
  has(mark: string, at: number): boolean {
    return (this.#last.get(mark) ?? -1) > at
  }
}

/** Lines without the empty ones before them. */
export const withoutBlankStart = (lines: readonly Line[]): readonly Line[] =>
  lines.slice(findLine(lines, 0, (line) => line.text.trim() !== ''))

const LIST_ITEM = /^\s*(?:[-*+.•]+|\d{1,9}[.)]|#\.)\s/

/** Gathers lines to paragraphs and lists under their headings, and puts tables and code between them. */
export class BlockList {
  readonly #text: string
  /** Tables become blocks as they are taken: named rows are many times as long as their cells. */
  #blocks: Iterable<ReadStep>[] = []
  readonly #path = new HeadingPath()
  #lines: Line[] = []
  #kind: Block['kind'] = 'prose'

  /** @param text that the lines are of */
  constructor(text: string) {
    this.#text = text
  }

  /** Lines since the last block. */
  get open(): readonly Line[] {
    return this.#lines
  }

  /** A line of a paragraph or a list. */
  add(line: Line): void {
    if (LIST_ITEM.test(line.text)) this.#kind = 'lines'
    this.#lines.push(line)
  }

  /** The paragraph is at its end. */
  flush(): void {
    if (this.#lines.length > 0) this.#blocks.push(toBlock(this.#text, this.#lines, this.#kind, this.#path.place()))
    this.#lines = []
    this.#kind = 'prose'
  }

  /** What follows stands below this heading; a text too long for one is a paragraph. @param level from 0, outermost */
  heading(level: number, title: string, first: Line, last: Line): void {
    this.flush()
    if (title === '') return
    if (isTitle(title)) this.#blocks.push(this.#path.enter({ level, title, start: first.start, end: last.end }))
    else this.#blocks.push(toBlock(this.#text, [first], 'prose', this.#path.place()))
  }

  code(lines: readonly Line[]): void {
    this.flush()
    if (lines.some((line) => line.text.trim() !== '')) {
      this.#blocks.push(toBlock(this.#text, lines, 'code', this.#path.place()))
    }
  }

  /** @param header the row that names its columns; null: there is none */
  table(header: CellRow | null, rows: readonly CellRow[]): void {
    this.flush()
    const names = header && rows.length > 0 && areColumnNames(header.cells) ? header.cells : null
    const shown = names || !header ? rows : [header, ...rows]
    if (shown.every(({ cells }) => cells.every((cell) => cell.trim() === ''))) return
    this.#blocks.push(tableBlocks(names, shown, this.#path.place()))
  }

  /** The blocks that are done since the last call; null where there are none. */
  *taken(): Generator<ReadStep> {
    const blocks = this.#blocks
    this.#blocks = []
    yield null
    for (const some of blocks) yield* some
  }

  /** The document is at its end. @returns the last blocks */
  end(): Generator<ReadStep> {
    this.flush()
    this.#blocks.push(this.#path.end())
    return this.taken()
  }
}

/** @param names of the columns; null: they have none */
function* tableBlocks(
  names: readonly string[] | null,
  rows: readonly CellRow[],
  place: BlockPlace,
): Generator<ReadStep> {
  const table = new TableBlocks(place)
  for (const { cells, start, end } of rows) {
    yield table.add({ text: names ? namedRow(names, cells) : plainRow(cells), start, end })
  }
  yield table.end()
}
