/** Markdown as blocks. */
import {
  DOCUMENT_TITLE,
  HeadingPath,
  isTitle,
  type Block,
  type BlockPlace,
  type ReadStep,
  type TableRow,
} from './blocks.ts'
import { UnreadableError } from './errors.ts'
import { htmlBlocks } from './html.ts'
import { isBlank, linesOf, toBlock, type Line } from './plain.ts'
import { namedRow, plainRow, tableBlocks } from './tables.ts'

const FENCE = /^ {0,3}(`{3,}|~{3,})/
const ATX_OPENING = /^ {0,3}(#{1,6})(?=[ \t]|$)/
const SETEXT_UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/
const LIST_ITEM = /^ {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]/
const THEMATIC_BREAK = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/
/** A table in HTML, which can show more than Markdown's own tables. */
const HTML_TABLE = /^ {0,3}<table[\s>]/i
/** UTF-16 units of a table that is read as HTML: the parser cannot be paused. */
const MAX_HTML_TABLE = 64 * 1024
const INDENTED = /^(?: {4}|\t)/

/** Reads as much of CommonMark's block structure as decides where a document may be cut. */
export function* markdownBlocks(text: string): Generator<ReadStep> {
  const path = new HeadingPath()
  let lines: Line[] = []
  let kind: Block['kind'] = 'prose'
  let fence: string | null = null
  /** The end of the HTML table that the lines belong to. */
  let tableEnd = -1
  const endOfTable = tableEnds(text)
  const isOpen = (): boolean => lines.length > 0
  function* flush(): Generator<ReadStep> {
    if (isOpen()) {
      yield* kind === 'table' ? tableBlocks(tableRows(lines), path.place()) : toBlock(text, lines, kind, path.place())
    }
    lines = []
    kind = 'prose'
  }
  function* enter(level: number, title: string, from: Line, to: Line): Generator<Block> {
    yield* path.enter({ level, title: plainTitle(title), start: from.start, end: to.end })
  }
  const matter = frontMatter(text)
  if (matter) {
    const { title, rest } = matter
    if (title && isTitle(title.text)) yield* enter(DOCUMENT_TITLE, title.text, title.line, title.line)
    yield* toBlock(text, rest, 'lines', path.place())
  }
  for (const line of linesOf(text, matter?.end ?? 0)) {
    yield null
    if (fence !== null) {
      lines.push(line)
      const closing = FENCE.exec(line.text)?.[1]
      if (closing?.startsWith(fence) && line.text.trim() === closing) {
        yield* flush()
        fence = null
      }
      continue
    }
    if (!isOpen() && HTML_TABLE.test(line.text)) tableEnd = endOfTable(line.start)
    if (line.start < tableEnd) {
      lines.push(line)
      if (line.end < tableEnd) continue
      yield* htmlTable(text, lines, path.place())
      lines = []
      continue
    }
    const opening = FENCE.exec(line.text)?.[1]
    if (opening !== undefined) {
      yield* flush()
      fence = opening
      kind = 'code'
      lines.push(line)
      continue
    }
    if (isBlank(line)) {
      // A blank line does not end a list, or its items would lose the sentence that introduces them.
      if (kind !== 'lines') yield* flush()
      continue
    }
    const heading = atxHeading(line.text)
    if (heading) {
      yield* flush()
      yield* enter(heading.level, heading.title, line, line)
      continue
    }
    const underline = SETEXT_UNDERLINE.exec(line.text)?.[1]
    if (underline !== undefined && isOpen() && kind === 'prose') {
      const title = lines.map((part) => part.text.trim()).join(' ')
      const [first = line] = lines
      if (isTitle(title)) {
        lines = []
        yield* enter(underline.startsWith('=') ? 1 : 2, title, first, line)
      } else yield* flush()
      continue
    }
    if (THEMATIC_BREAK.test(line.text)) {
      yield* flush()
      continue
    }
    const header = kind === 'prose' || kind === 'lines' ? lines.at(-1) : undefined
    if (header && isDelimiterRow(line.text) && cellsOf(header.text).length === cellsOf(line.text).length) {
      // The lines directly above the header are a paragraph.
      lines.pop()
      yield* flush()
      kind = 'table'
      lines = [header, line]
      continue
    }
    const startsLines = LIST_ITEM.test(line.text)
    if (kind === 'table' && (startsLines || !line.text.includes('|'))) yield* flush()
    if (!isOpen()) {
      kind = startsLines ? 'lines' : INDENTED.test(line.text) ? 'code' : 'prose'
    } else if (startsLines && kind === 'prose') {
      // "The steps are:" and its list stay one block.
      kind = 'lines'
    } else if (kind === 'lines' && !startsLines && !/^\s/.test(line.text) && isAfterGap(lines, line)) {
      yield* flush()
    }
    lines.push(line)
  }
  yield* flush()
  yield* path.end()
}

const FRONT_MATTER = /^\uFEFF?(?:(---)|\+\+\+)[ \t]*\r?\n/

interface FrontMatter {
  readonly title: { readonly text: string; readonly line: Line } | null
  /** The other settings. */
  readonly rest: readonly Line[]
  /** The offset of the line after it. */
  readonly end: number
}

/** The settings before the text of a page, in YAML or TOML. The title becomes the page's; the rest is kept as text, since questions may be about it. */
function frontMatter(text: string): FrontMatter | null {
  const opening = FRONT_MATTER.exec(text)
  if (!opening) return null
  const isYaml = opening[1] !== undefined
  let title: FrontMatter['title'] = null
  const rest: Line[] = []
  for (const line of linesOf(text, opening[0].length)) {
    const bare = line.text.trimEnd()
    if (bare === (isYaml ? '---' : '+++') || (isYaml && bare === '...')) {
      const end = text.indexOf('\n', line.end)
      return { title, rest, end: end < 0 ? text.length : end + 1 }
    }
    // A thematic break with a paragraph below it.
    if (rest.length === 0 && title === null && !/^(?:[\w-]+[ \t]*[:=]|#|\[|$)/.test(bare)) return null
    const [, quoted] = /^title[ \t]*[:=](.*)$/i.exec(bare) ?? []
    const value = quoted?.trim().replace(/^(["'])(.*)\1$/, '$2')
    if (value && title === null && !/^[|>]/.test(value)) title = { text: value, line }
    else rest.push(line)
  }
  return null
}

/** The line below a table's header: cells of dashes and at least one bar. */
const isDelimiterRow = (line: string): boolean =>
  line.includes('|') && line.includes('-') && cellsOf(line).every((cell) => /^:?-+:?$/.test(cell))

/** The cells of a table's row. A bar after a backslash is text. */
function cellsOf(line: string): string[] {
  const row = line.trim()
  const cells: string[] = []
  let cell = ''
  for (let i = row.startsWith('|') ? 1 : 0; i < row.length; i++) {
    const sign = row.charAt(i)
    if (sign === '\\' && row[i + 1] === '|') {
      cell += '|'
      i++
    } else if (sign === '|') {
      cells.push(cell.trim())
      cell = ''
    } else cell += sign
  }
  if (cell.trim() !== '') cells.push(cell.trim())
  return cells
}

function* tableRows([header, delimiter, ...lines]: readonly Line[]): Generator<TableRow> {
  if (!header || !delimiter) return
  const names = cellsOf(header.text)
  for (const { text, start, end } of lines) yield { text: namedRow(names, cellsOf(text)), start, end }
  // A table without rows consists of the names of its columns.
  if (lines.length === 0) yield { text: plainRow(names), start: header.start, end: delimiter.end }
}

/**
 * Finds the end of the HTML table that begins at an offset; -1 if it has none or is too long. Call it with ascending offsets: it remembers the
 * next closing tag, because many tables may begin before the same tag.
 */
function tableEnds(text: string): (from: number) => number {
  const closing = /<\/table\s*>/gi
  let [start, end] = [-1, -1]
  return (from) => {
    if (start < from) {
      closing.lastIndex = from
      const next = closing.exec(text)
      start = next?.index ?? Infinity
      end = start + (next?.[0].length ?? 0)
    }
    return end - from <= MAX_HTML_TABLE ? end : -1
  }
}

function* htmlTable(text: string, lines: readonly Line[], place: BlockPlace): Generator<Block> {
  const [first, last] = [lines[0], lines.at(-1)]
  if (!first || !last) return
  const tables = tablesOf(text.slice(first.start, last.end))
  if (tables.length === 0) return yield* toBlock(text, lines, 'prose', place)
  const moved = <Range extends { readonly start: number; readonly end: number }>(range: Range): Range => ({
    ...range,
    start: first.start + range.start,
    end: first.start + range.end,
  })
  for (const { rows = [], ...block } of tables) yield { ...moved(block), ...place, rows: rows.map(moved) }
}

/** The tables of a piece of HTML; none if it contains anything else. */
function tablesOf(html: string): readonly Block[] {
  try {
    const blocks = htmlBlocks(html)
    return blocks.every(({ kind }) => kind === 'table') ? blocks : []
  } catch (error) {
    if (error instanceof UnreadableError) return []
    throw error
  }
}

/** Whether there are blank lines between the last line and this one. */
const isAfterGap = (lines: readonly Line[], line: Line): boolean => line.start - (lines.at(-1)?.end ?? line.start) > 2

/** A line as an ATX heading. String operations, because a pattern that also trims the closing `#` backtracks on runs of spaces and `#`. */
function atxHeading(line: string): { readonly level: number; readonly title: string } | null {
  const opening = ATX_OPENING.exec(line)
  if (!opening) return null
  const content = line.slice(opening[0].length).trim()
  let end = content.length
  while (content[end - 1] === '#') end--
  const isClosed = end === 0 || content[end - 1] === ' ' || content[end - 1] === '\t'
  const title = isClosed ? content.slice(0, end).trim() : content
  return isTitle(title) ? { level: opening[1]?.length ?? 1, title } : null
}

/** A heading without its inline markup. Brackets do not nest in the pattern, or each `[` of `[[[[` would be matched to the end of the line. */
const plainTitle = (title: string): string =>
  title
    .replaceAll(/!?\[([^[\]]*)\]\([^()]*\)/g, '$1')
    .replaceAll(/[`*]/g, '')
    .trim()
