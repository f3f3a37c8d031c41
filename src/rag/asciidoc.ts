/** AsciiDoc (docs.asciidoctor.org) as blocks: sections, delimited blocks, tables. */
import { findLine, LastLines, markupBlocks, type BlockList } from './block-list.ts'
import type { CellRow, ReadStep } from './blocks.ts'
import { isBlank, type Line } from './plain.ts'

const HEADING = /^(={1,6}|#{1,6})[ \t]+(\S.*)$/
/** `:name: value`, `[attributes]`, `[[anchor]]`, comments. */
const ATTRIBUTE = /^(?::!?[\w-]+!?:(?:\s|$)|\[[^\]]*\]\]?\s*$|\/\/(?!\/))/
/** The first and the last line of a delimited block. */
const DELIMITER = /^(?:(?:-{4,}|\.{4,}|\+{4,}|={4,}|\*{4,}|_{4,}|\/{4,}|--)\s*$|`{3})/
const TABLE = /^[|,;:!]===+\s*$/
/** The line below a title, as long as the title give or take one sign. The signs are listed from the outermost level. */
const UNDERLINE = /^([-=~^+])\1+\s*$/
const UNDERLINE_SIGNS = '=-~^+'
/** The start of a cell: a bar, which a specifier of its span, alignment and style may precede. */
const CELL = /(?:(?:^|(?<=\s))(?:\d+\*)?(?:(?:\d+)?(?:\.\d+)?\+)?[<^>]?(?:\.[<^>])?[adehlmsv]?)?(?<!\\)\|/g

/** Reads as much of AsciiDoc's structure as decides where a document may be cut and which names its rows get. */
export const asciidocBlocks = (text: string): Generator<ReadStep> =>
  markupBlocks(text, (blocks, lines) => {
    const comments = new LastLines(lines, ({ text: line }) => /^\/{4,}\s*$/.exec(line)?.[0].trimEnd())
    /** The attributes of the next block. */
    let attributes = ''
    return function* (line, at) {
      let next = at + 1
      const [, marks, title] = HEADING.exec(line.text) ?? []
      if (isBlank(line)) blocks.flush()
      else if (TABLE.test(line.text)) {
        const end = closing(lines, at)
        yield* table(blocks, lines.slice(at + 1, end), line.text.charAt(0), attributes)
        next = end + 1
      } else if (DELIMITER.test(line.text)) {
        blocks.flush()
        const isUnclosed = line.text.startsWith('/') && !comments.has(line.text.trimEnd(), at)
        if (/^[-.+`/]{3}/.test(line.text) && !isUnclosed) {
          const end = closing(lines, at)
          if (!line.text.startsWith('/')) blocks.code(lines.slice(at + 1, end))
          next = end + 1
        }
      } else if (marks !== undefined && title !== undefined && !blocks.isOpen) {
        blocks.heading(marks.length, title.trim(), line, line)
      } else if (ATTRIBUTE.test(line.text)) {
        blocks.flush()
        if (line.text.startsWith('[')) attributes = line.text
        return next
      } else {
        const below = blocks.isOpen ? undefined : lines[next]
        const level = below ? titleLevel(line, below) : null
        if (below && level !== null) {
          blocks.heading(level, line.text.trim(), line, below)
          next++
        } else blocks.add(line)
      }
      // A block's title may stand between its attributes and the block.
      if (!/^\.[^.\s]/.test(line.text)) attributes = ''
      return next
    }
  })

/** The level of a title above this line, from 1; null if it is not a title. A line that begins with a dot is the title of a block. */
function titleLevel({ text: title }: Line, { text: below }: Line): number | null {
  const sign = UNDERLINE.exec(below)?.[1]
  if (sign === undefined || title.startsWith('.') || !/[\p{L}\p{N}]/u.test(title)) return null
  const difference = [...title.trimEnd()].length - below.trimEnd().length
  return Math.abs(difference) <= 1 ? UNDERLINE_SIGNS.indexOf(sign) + 1 : null
}

/** The number of the line that closes the block opened by line `from`; the number of lines if none does. */
function closing(lines: readonly Line[], from: number): number {
  const mark = lines[from]?.text.trimEnd().replace(/^```.*/, '```') ?? ''
  return findLine(lines, from + 1, (line) => line.text.trimEnd() === mark)
}

function* table(blocks: BlockList, lines: readonly Line[], sign: string, attributes: string): Generator<ReadStep> {
  const format = /\bformat="?(csv|dsv|tsv)/.exec(attributes)?.[1]
  const separator =
    format === 'csv' || sign === ',' ? ',' : format === 'dsv' || sign === ':' ? ':' : sign === ';' ? ';' : null
  const [first, second] = lines
  const isHeader =
    /(?:%|options="?[^"]*|opts="?[^"]*)header/.test(attributes) ||
    // Implicitly: an empty line follows the first line.
    (first !== undefined && second !== undefined && !isBlank(first) && isBlank(second) && !/noheader/.test(attributes))
  const rows: CellRow[] = []
  for (const row of separator === null ? barRows(lines, columnsOf(attributes)) : separatedRows(lines, separator)) {
    if (row) rows.push(row)
    yield null
  }
  yield* blocks.table(isHeader ? (rows.shift() ?? null) : null, rows)
}

function* separatedRows(lines: readonly Line[], separator: string): Generator<CellRow | null> {
  for (const line of lines) {
    const { text, start, end } = line
    const cells = text.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1'))
    yield isBlank(line) ? null : { cells, start, end }
  }
}

/** Columns of a table, and extra places that cells spanning several columns may take. */
const MAX_COLUMNS = 100
const MAX_SPANNED = 10_000

/** The number of columns of `cols="1,2*,3"` or `cols=3*`; null without such an attribute. */
function columnsOf(attributes: string): number | null {
  const cols = /\bcols=(?:"([^"]*)"|([^,\]]*))/.exec(attributes)
  const value = cols?.[1] ?? cols?.[2]
  if (!value) return null
  return value
    .split(/[,;]/)
    .reduce((sum, part) => sum + Math.min(MAX_COLUMNS, Number(/^\s*(\d+)\*/.exec(part)?.[1] ?? 1)), 0)
}

/** Cells may be on lines of their own. Without a number of columns, the first line with cells has as many as the table has columns. */
function* barRows(lines: readonly Line[], columns: number | null): Generator<CellRow | null> {
  const cells: { text: string; start: number; end: number }[] = []
  let width = columns
  let numSpanned = 0
  for (const line of lines) {
    yield null
    const starts = [...line.text.matchAll(CELL)]
    const before = line.text.slice(0, starts[0]?.index ?? line.text.length).trim()
    const last = cells.at(-1)
    if (before !== '' && last) {
      last.text += ` ${before}`
      last.end = line.end
    } else if (before !== '') cells.push({ text: before, start: line.start, end: line.end })
    for (const [i, start] of starts.entries()) {
      const text = line.text.slice(start.index + start[0].length, starts[i + 1]?.index).trim()
      const span = Number(/^(\d+)(?:\.\d+)?\+/.exec(start[0])?.[1] ?? 1)
      cells.push({ text: text.replaceAll('\\|', '|'), start: line.start, end: line.end })
      for (let n = 1; n < Math.min(span, width ?? 1, MAX_COLUMNS) && numSpanned++ < MAX_SPANNED; n++) {
        cells.push({ text: '', start: line.start, end: line.end })
      }
    }
    if (starts.length > 0) width ??= starts.length
  }
  const size = Math.max(1, width ?? 1)
  for (let from = 0; from < cells.length; from += size) {
    const row = cells.slice(from, from + size)
    yield { cells: row.map(({ text }) => text), start: row[0]?.start ?? 0, end: row.at(-1)?.end ?? 0 }
  }
}
