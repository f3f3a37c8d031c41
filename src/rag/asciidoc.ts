/** AsciiDoc (docs.asciidoctor.org) as blocks: sections, delimited blocks, tables. */
import { BlockList, findLine, isPlain, LastLines, markupLines, type CellRow } from './block-list.ts'
import type { ReadStep } from './blocks.ts'
import { isBlank, plainBlocks, type Line } from './plain.ts'

const HEADING = /^(={1,6}|#{1,6})[ \t]+(\S.*)$/
/** `:name: value`, `[attributes]`, `[[anchor]]`, comments. */
const ATTRIBUTE = /^(?::!?[\w-]+!?:(?:\s|$)|\[[^\]]*\]\]?\s*$|\/\/(?!\/))/
/** A block's first line, and its last one. */
const DELIMITER = /^(?:(?:-{4,}|\.{4,}|\+{4,}|={4,}|\*{4,}|_{4,}|\/{4,}|--)\s*$|`{3})/
const TABLE = /^[|,;:!]===+\s*$/
/** Lines below a title, outermost first, as long as it; a sign more or less is allowed. */
const UNDERLINE = /^([-=~^+])\1+\s*$/
const UNDERLINE_SIGNS = '=-~^+'
/** Where a cell begins: a bar, and behind white space what says how many columns and rows it spans and how it is set. */
const CELL = /(?:(?:^|(?<=\s))(?:\d+\*)?(?:(?:\d+)?(?:\.\d+)?\+)?[<^>]?(?:\.[<^>])?[adehlmsv]?)?(?<!\\)\|/g

/** AsciiDoc's structure as far as it decides where a document may be cut and what names its rows. */
export function* asciidocBlocks(text: string): Generator<ReadStep> {
  const lines = markupLines(text)
  if (!lines) return yield* plainBlocks(text)
  const blocks = new BlockList(text)
  const comments = new LastLines(lines, ({ text: line }) => /^\/{4,}\s*$/.exec(line)?.[0].trimEnd())
  /** Of the block that comes next. */
  let attributes = ''
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]
    if (!line) break
    yield* blocks.taken()
    if (isPlain(line)) {
      blocks.add(line)
      continue
    }
    const [, marks, title] = HEADING.exec(line.text) ?? []
    if (isBlank(line)) blocks.flush()
    else if (TABLE.test(line.text)) {
      const end = closing(lines, i)
      addTable(blocks, lines.slice(i + 1, end), line.text.charAt(0), attributes)
      i = end
    } else if (DELIMITER.test(line.text)) {
      blocks.flush()
      const isUnclosed = line.text.startsWith('/') && !comments.has(line.text.trimEnd(), i)
      if (/^[-.+`/]{3}/.test(line.text) && !isUnclosed) {
        const end = closing(lines, i)
        if (!line.text.startsWith('/')) blocks.code(lines.slice(i + 1, end))
        i = end
      }
    } else if (marks !== undefined && title !== undefined && blocks.open.length === 0) {
      blocks.heading(marks.length, title.trim(), line, line)
    } else if (ATTRIBUTE.test(line.text)) {
      blocks.flush()
      if (line.text.startsWith('[')) attributes = line.text
      continue
    } else {
      const below = blocks.open.length === 0 ? lines[i + 1] : undefined
      const level = below ? titleLevel(line, below) : null
      if (below && level !== null) {
        blocks.heading(level, line.text.trim(), line, below)
        i++
      } else blocks.add(line)
    }
    // A block's title stands between its attributes and it.
    if (!/^\.[^.\s]/.test(line.text)) attributes = ''
  }
  yield* blocks.end()
}

/** The level of a title with this line below it, from 1; null where it is none. A line that begins with a dot is a block's title. */
function titleLevel({ text: title }: Line, { text: below }: Line): number | null {
  const sign = UNDERLINE.exec(below)?.[1]
  if (sign === undefined || title.startsWith('.') || !/[\p{L}\p{N}]/u.test(title)) return null
  const difference = [...title.trimEnd()].length - below.trimEnd().length
  return Math.abs(difference) <= 1 ? UNDERLINE_SIGNS.indexOf(sign) + 1 : null
}

/** Number of the line that closes what this one opens; that behind the last one where none does. */
function closing(lines: readonly Line[], from: number): number {
  const mark = lines[from]?.text.trimEnd().replace(/^```.*/, '```') ?? ''
  return findLine(lines, from + 1, (line) => line.text.trimEnd() === mark)
}

function addTable(blocks: BlockList, lines: readonly Line[], sign: string, attributes: string): void {
  const format = /\bformat="?(csv|dsv|tsv)/.exec(attributes)?.[1]
  const separator =
    format === 'csv' || sign === ',' ? ',' : format === 'dsv' || sign === ':' ? ':' : sign === ';' ? ';' : null
  const filled = lines.filter((line) => !isBlank(line))
  const [first, second] = lines
  const isHeader =
    /(?:%|options="?[^"]*|opts="?[^"]*)header/.test(attributes) ||
    // Without being told: the first line is followed by an empty one.
    (first !== undefined && second !== undefined && !isBlank(first) && isBlank(second) && !/noheader/.test(attributes))
  const rows = separator === null ? barRows(filled, columnsOf(attributes)) : separatedRows(filled, separator)
  blocks.table(isHeader ? (rows.shift() ?? null) : null, rows)
}

const separatedRows = (lines: readonly Line[], separator: string): CellRow[] =>
  lines.map(({ text, start, end }) => ({
    cells: text.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1')),
    start,
    end,
  }))

/** Columns that a table has at most, and places that cells over several columns may take. */
const MAX_COLUMNS = 100
const MAX_SPANNED = 10_000

/** Columns by `cols="1,2*,3"` or `cols=3*`; null where they are not named. */
function columnsOf(attributes: string): number | null {
  const cols = /\bcols=(?:"([^"]*)"|([^,\]]*))/.exec(attributes)
  const value = cols?.[1] ?? cols?.[2]
  if (!value) return null
  return value
    .split(/[,;]/)
    .reduce((sum, part) => sum + Math.min(MAX_COLUMNS, Number(/^\s*(\d+)\*/.exec(part)?.[1] ?? 1)), 0)
}

/** Cells may be on lines of their own: without a number of columns, the first line has as many as there are. */
function barRows(lines: readonly Line[], columns: number | null): CellRow[] {
  const cells: { text: string; start: number; end: number }[] = []
  let width = columns
  let numSpanned = 0
  for (const line of lines) {
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
  return Array.from({ length: Math.ceil(cells.length / size) }, (_, i) => {
    const row = cells.slice(i * size, (i + 1) * size)
    return { cells: row.map(({ text }) => text), start: row[0]?.start ?? 0, end: row.at(-1)?.end ?? 0 }
  })
}
