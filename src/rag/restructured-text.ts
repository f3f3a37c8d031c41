/** reStructuredText (docutils.sourceforge.io) as blocks: sections, literal blocks, and its four kinds of tables. */
import { findLine, markupBlocks, type BlockList } from './block-list.ts'
import type { CellRow, ReadStep } from './blocks.ts'
import { separatedCells } from './csv.ts'
import { isBlank, type Line } from './plain.ts'

const ADORNMENT = /^([!-/:-@[-`{-~])\1+[ \t]*$/
const GRID_RULE = /^[ \t]*\+(?:[-=]+\+)+[ \t]*$/
const SIMPLE_RULE = /^[ \t]*=+(?:[ \t]+=+)+[ \t]*$/
const DIRECTIVE = /^([ \t]*)\.\.[ \t]+([\w:-]+)::[ \t]*([^]*)$/
/** Targets, substitutions and comments. A run of spaces is matched as a whole: a match that gave some back would rescan the line each time. */
const UNSEEN = /^[ \t]*\.\.(?:[ \t]+(?=[^ \t])(?:_|\||\[|[^:]*$)|[ \t]*$)/
const CODE = new Set([
  'code',
  'code-block',
  'sourcecode',
  'highlight',
  'literalinclude',
  'parsed-literal',
  'math',
  'productionlist',
])

/** Reads as much of the structure as decides where a document may be cut and which names its rows get. */
export const restructuredTextBlocks = (text: string): Generator<ReadStep> =>
  markupBlocks(text, (blocks, lines) => {
    const reader = new Reader(blocks, lines)
    return (line, at) => reader.read(line, at)
  })

/** Columns of a drawn table. A table with more is read as text. */
const MAX_COLUMNS = 100

/** Each method that reads a construct returns the number of the line after it. */
class Reader {
  readonly #blocks: BlockList
  readonly #lines: readonly Line[]
  /** The adornments of sections, outermost first: each document chooses its own. */
  readonly #styles: string[] = []

  constructor(blocks: BlockList, lines: readonly Line[]) {
    this.#blocks = blocks
    this.#lines = lines
  }

  *read(line: Line, at: number): Generator<ReadStep, number> {
    const [, , name, argument = ''] = DIRECTIVE.exec(line.text) ?? []
    if (isBlank(line)) this.#blocks.flush()
    else if (GRID_RULE.test(line.text)) return yield* this.#grid(line, at)
    else if (SIMPLE_RULE.test(line.text)) return yield* this.#simple(line, at)
    else if (name !== undefined) return yield* this.#directive(line, at, name, argument)
    else if (UNSEEN.test(line.text) && !this.#blocks.isOpen) {
      // Hides the comment's own lines, but not the paragraph below a directive that lacks its colons.
      this.#blocks.flush()
    } else {
      const numTitleLines = this.#heading(line, at)
      if (numTitleLines > 0) return at + numTitleLines
      this.#blocks.add(line)
      if (line.text.trimEnd().endsWith('::')) return this.#literal(at + 1, indentOf(line))
    }
    return at + 1
  }

  /** Reads a title between two adornments or above one. @returns the number of its lines; 0 if there is no title */
  #heading(line: Line, at: number): number {
    if (this.#blocks.isOpen) return 0
    const [next, second] = [this.#lines[at + 1], this.#lines[at + 2]]
    const sign = ADORNMENT.exec(line.text)?.[1]
    if (sign !== undefined && next && second && !isBlank(next) && line.text.trim() === second.text.trim()) {
      this.#blocks.heading(this.#levelOf(sign + sign), next.text.trim(), line, second)
      return 3
    }
    const under = next && ADORNMENT.exec(next.text)?.[1]
    if (sign === undefined && next && under !== undefined && indentOf(line) === 0 && isLongEnough(next, line)) {
      this.#blocks.heading(this.#levelOf(under), line.text.trim(), line, next)
      return 2
    }
    // A transition: a line of signs between two paragraphs.
    return sign !== undefined && line.text.trim().length >= 4 ? 1 : 0
  }

  #levelOf(style: string): number {
    const known = this.#styles.indexOf(style)
    return known >= 0 ? known + 1 : this.#styles.push(style)
  }

  /** The lines from `at` on that are indented more, without the empty lines after them. */
  #indented(at: number, indent: number): readonly Line[] {
    let end = at
    for (let i = at; i < this.#lines.length; i++) {
      const line = this.#lines[i]
      if (!line || (!isBlank(line) && indentOf(line) <= indent)) break
      if (!isBlank(line)) end = i + 1
    }
    return this.#lines.slice(at, end)
  }

  #literal(at: number, indent: number): number {
    const next = this.#lines[at]
    if (next && !isBlank(next)) return at
    const lines = this.#indented(at, indent)
    this.#blocks.code(withoutBlankStart(lines))
    return at + lines.length
  }

  *#directive(line: Line, at: number, name: string, argument: string): Generator<ReadStep, number> {
    this.#blocks.flush()
    const isTable = name === 'list-table' || name === 'csv-table'
    if (argument !== '' && (isTable || !CODE.has(name))) {
      // The argument is text; the rest of the line is markup.
      const start = line.end - argument.trimEnd().length - (line.text.length - line.text.trimEnd().length)
      this.#blocks.add({ text: argument, start, end: line.end })
      if (isTable) this.#blocks.flush()
    }
    if (!isTable && !CODE.has(name)) return at + 1
    const body = this.#indented(at + 1, indentOf(line))
    const end = at + 1 + body.length
    const options = body.slice(
      0,
      findLine(body, 0, (other) => !/^[ \t]*:[\w-]+:/.test(other.text)),
    )
    const content = withoutBlankStart(body.slice(options.length))
    if (CODE.has(name)) {
      this.#blocks.code(content)
      return end
    }
    const rows = yield* name === 'csv-table' ? csvRows(content) : listRows(content)
    if (rows.length === 0) content.forEach((other) => this.#blocks.add(other))
    const valueOf = (key: string): CellRow | null => {
      const option = options.find((other) => other.text.trimStart().startsWith(`:${key}:`))
      return option ? csvRow(option, option.text.slice(option.text.indexOf(`:${key}:`) + key.length + 2)) : null
    }
    const isFirst = Number(valueOf('header-rows')?.cells[0] ?? 0) > 0
    yield* this.#blocks.table(valueOf('header') ?? (isFirst ? (rows.shift() ?? null) : null), rows)
    return end
  }

  /** `+---+---+`: the bars between cells stand below the plus signs. */
  *#grid(rule: Line, at: number): Generator<ReadStep, number> {
    const end = findLine(this.#lines, at, ({ text }) => !/^[ \t]*[+|]/.test(text))
    const lines = this.#lines.slice(at, end)
    const borders = [...rule.text.matchAll(/\+/g)].map((match) => match.index)
    if (borders.length > MAX_COLUMNS) {
      lines.forEach((line) => this.#blocks.add(line))
      return end
    }
    const rows = new DrawnRows()
    let names: CellRow | null = null
    for (const line of lines) {
      yield null
      if (!/^[ \t]*\+[-=]/.test(line.text)) {
        rows.add(line, cutAt(line.text, borders))
        continue
      }
      rows.endRow()
      if (line.text.includes('=') && names === null) names = rows.done.pop() ?? null
    }
    rows.endRow()
    yield* this.#blocks.table(names, rows.done)
    return end
  }

  /** `=== ===`: the columns are where the signs are. The lines between the first two rules name them. */
  *#simple(rule: Line, at: number): Generator<ReadStep, number> {
    const starts = [...rule.text.matchAll(/=+/g)].map((match) => match.index)
    const ruleAfter = (from: number): number => findLine(this.#lines, from + 1, ({ text }) => SIMPLE_RULE.test(text))
    const isThere = (number: number): boolean => number < this.#lines.length
    const isEnd = (number: number): boolean => this.#lines[number + 1]?.text.trim() === '' || !isThere(number + 1)
    const first = ruleAfter(at)
    if (!isThere(first) || starts.length > MAX_COLUMNS) {
      if (isThere(first)) this.#blocks.add(rule)
      return at + 1
    }
    const second = isEnd(first) ? first : ruleAfter(first)
    const end = isThere(second) ? second : first
    // Text to the left of the first column belongs to it.
    const cut = (line: Line): string[] => starts.map((start, i) => line.text.slice(i && start, starts[i + 1]).trim())
    const isRow = (line: Line): boolean => !isBlank(line) && !/^[ \t]*-+(?:[ \t]+-+)*[ \t]*$/.test(line.text)
    const rows = new DrawnRows()
    let header: CellRow | null = null
    for (const [i, line] of this.#lines.slice(at + 1, end).entries()) {
      yield null
      if (at + 1 + i === first) {
        rows.endRow()
        header = rows.done.pop() ?? null
      } else if (isRow(line)) {
        // An empty first cell continues the row above, as do all lines of the header.
        const isHeader = end !== first && at + 1 + i < first
        if (!isHeader && line.text.slice(0, starts[1]).trim() !== '') rows.endRow()
        rows.add(line, cut(line))
      }
    }
    rows.endRow()
    yield* this.#blocks.table(header, rows.done)
    return end + 1
  }
}

/** Lines without the empty lines at the start. */
const withoutBlankStart = (lines: readonly Line[]): readonly Line[] =>
  lines.slice(findLine(lines, 0, (line) => !isBlank(line)))

const indentOf = ({ text }: Line): number => text.length - text.trimStart().length

/** An underline should be as long as its title. Writers often forget a sign or two, and wide characters count twice. */
const isLongEnough = (underline: Line, title: Line): boolean =>
  underline.text.trim().length >= Math.min(4, title.text.trim().length)

/** The rows of a drawn table: each is made of the lines added between two calls of `endRow`. */
class DrawnRows {
  readonly done: CellRow[] = []
  /** The parts of each cell. */
  #cells: string[][] = []
  #start = 0
  #end = 0

  add({ start, end }: Line, cells: readonly string[]): void {
    if (this.#cells.length === 0) this.#start = start
    this.#end = end
    for (const [i, cell] of cells.entries()) {
      const parts = (this.#cells[i] ??= [])
      if (cell !== '') parts.push(cell)
    }
  }

  /** Ends the row, if one has begun. */
  endRow(): void {
    if (this.#cells.length === 0) return
    const cells = Array.from(this.#cells, (parts) => parts?.join(' ') ?? '')
    this.done.push({ cells, start: this.#start, end: this.#end })
    this.#cells = []
  }
}

/** Parts of drawn lines inside a cell that spans several rows. */
const RULE_IN_CELL = /^[-+=]{3,}$/

/** The cells of a line of a grid; cells without text are empty. No text is lost, wherever the bars stand. */
function cutAt(text: string, borders: readonly number[]): string[] {
  const [first = 0, ...others] = borders
  const isBar = (at: number): boolean => text[at] === '|' || text[at] === '+'
  const line = text.trimEnd()
  const bars = line.trimStart().replace(/^\|/, '').replace(/\|$/, '').split('|')
  const isAligned = isBar(first) && others.at(-1) === line.length - 1 && isBar(line.length - 1)
  // Wide characters or an extra space: the bars stand beside the borders, so only their order assigns the cells.
  if (!isAligned || first !== text.length - text.trimStart().length) return bars.map(cellText)
  if (bars.length === others.length && !others.every(isBar)) return bars.map(cellText)
  const cells = others.map(() => '')
  let [from, place] = [first, 0]
  for (const [i, border] of others.entries()) {
    if (!isBar(border)) continue
    // A cell over several columns belongs to the first.
    cells[place] = cellText(text.slice(from + 1, border))
    from = border
    place = i + 1
  }
  return cells
}

const cellText = (cell: string): string => (RULE_IN_CELL.test(cell.trim()) ? '' : cell.trim())

const csvRow = ({ start, end }: Line, text: string): CellRow => ({
  cells: separatedCells(text.trim(), ','),
  start,
  end,
})

function* csvRows(lines: readonly Line[]): Generator<null, CellRow[]> {
  const rows: CellRow[] = []
  for (const line of lines) {
    yield null
    if (!isBlank(line)) rows.push(csvRow(line, line.text))
  }
  return rows
}

/** `* - a` begins a row, `- b` a cell. */
function* listRows(lines: readonly Line[]): Generator<null, CellRow[]> {
  const rows: { cells: string[][]; start: number; end: number }[] = []
  const indent = indentOf(lines[0] ?? { text: '', start: 0, end: 0 })
  for (const line of lines) {
    yield null
    const row = rows.at(-1)
    const text = line.text.slice(Math.min(indent, indentOf(line)))
    const first = /^\*[ \t]+-(?:[ \t]|$)/.exec(text)?.[0]
    const cell = /^[ \t]{1,3}-(?:[ \t]|$)/.exec(text)?.[0]
    if (first !== undefined) rows.push({ cells: [[text.slice(first.length).trim()]], start: line.start, end: line.end })
    else if (row) {
      if (cell !== undefined) row.cells.push([text.slice(cell.length).trim()])
      else row.cells.at(-1)?.push(text.trim())
      row.end = line.end
    }
  }
  return rows.map(({ cells, ...place }) => ({ cells: cells.map((parts) => parts.join(' ').trim()), ...place }))
}
