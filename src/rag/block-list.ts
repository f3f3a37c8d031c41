/** Documents in a markup that is read line by line: AsciiDoc, reStructuredText and Org. */
import { HeadingPath, isTitle, type Block, type CellRow, type ReadStep } from './blocks.ts'
import { linesOf, plainBlocks, toBlock, type Line } from './plain.ts'
import { areColumnNames, namedRow, plainRow, tableBlocks } from './tables.ts'

/** Lines of a document whose structure is read. A longer document is read as paragraphs. */
const MAX_LINES = 200_000
/** UTF-16 units of a line that may be markup. A longer line is text: patterns with repetitions are not tried on it. */
const MAX_MARKUP_LINE = 2048

/** Reads the construct that begins with a line: adds its blocks, and yields null between its lines. @returns the number of the line after it */
type ReadConstruct = (line: Line, at: number) => Generator<ReadStep, number>

/** The blocks of a document, read construct by construct. @param begin returns the reader of one document */
export function* markupBlocks(
  text: string,
  begin: (blocks: BlockList, lines: readonly Line[]) => ReadConstruct,
): Generator<ReadStep> {
  const lines: Line[] = []
  for (const line of linesOf(text)) {
    if (lines.push(line) > MAX_LINES) return yield* plainBlocks(text)
    yield null
  }
  const blocks = new BlockList(text)
  const read = begin(blocks, lines)
  let at = 0
  for (let line = lines[at]; line; line = lines[at]) {
    yield* blocks.taken()
    if (isPlain(line)) {
      blocks.add(line)
      at++
    } else at = yield* read(line, at)
  }
  yield* blocks.end()
}

/** Whether a line is too long to be markup. */
const isPlain = ({ text }: Line): boolean => text.length > MAX_MARKUP_LINE

/** The number of the first matching line from `from` on; the number of lines if none matches. */
export function findLine(lines: readonly Line[], from: number, isMatch: (line: Line) => boolean): number {
  let at = from
  for (let line = lines[at]; line && !isMatch(line); line = lines[++at]);
  return at
}

/** The last line of each closing mark: shows whether an opening line is closed without a search for each opening line. */
export class LastLines {
  readonly #last = new Map<string, number>()

  /** @param markOf the mark of a closing line; null or undefined for any other line */
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

const LIST_ITEM = /^\s*(?:[-*+.•]+|\d{1,9}[.)]|#\.)\s/

/** The blocks of a document: collects lines into paragraphs and lists, and places tables and code between them. */
export class BlockList {
  readonly #text: string
  #blocks: Iterable<Block>[] = []
  readonly #path = new HeadingPath()
  #lines: Line[] = []
  #kind: Block['kind'] = 'prose'

  /** @param text the document that the lines belong to */
  constructor(text: string) {
    this.#text = text
  }

  /** Whether a paragraph or list has begun. */
  get isOpen(): boolean {
    return this.#lines.length > 0
  }

  /** Adds a line to the paragraph or list. */
  add(line: Line): void {
    if (LIST_ITEM.test(line.text)) this.#kind = 'lines'
    this.#lines.push(line)
  }

  /** Ends the paragraph or list. */
  flush(): void {
    if (this.isOpen) this.#blocks.push(toBlock(this.#text, this.#lines, this.#kind, this.#path.place()))
    this.#lines = []
    this.#kind = 'prose'
  }

  /** Enters a section. A title that is too long becomes a paragraph. @param level from 0, the outermost */
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

  /** Yields a table block by block: named rows are many times as long as their cells. @param header the row that names the columns, if any */
  *table(header: CellRow | null, rows: readonly CellRow[]): Generator<ReadStep> {
    this.flush()
    const names = header && rows.length > 0 && areColumnNames(header.cells) ? header.cells : null
    const shown = names || !header ? rows : [header, ...rows]
    yield* this.taken()
    if (shown.every(({ cells }) => cells.every((cell) => cell.trim() === ''))) return
    yield* tableBlocks(renderedRows(names, shown), this.#path.place())
  }

  /** The blocks completed since the last call, after one null. */
  *taken(): Generator<ReadStep> {
    const blocks = this.#blocks
    this.#blocks = []
    yield null
    for (const some of blocks) yield* some
  }

  /** Ends the document. @returns the last blocks */
  end(): Generator<ReadStep> {
    this.flush()
    this.#blocks.push(this.#path.end())
    return this.taken()
  }
}

function* renderedRows(names: readonly string[] | null, rows: readonly CellRow[]) {
  for (const { cells, start, end } of rows) {
    yield { text: names ? namedRow(names, cells) : plainRow(cells), start, end }
  }
}
