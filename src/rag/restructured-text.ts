/** reStructuredText (docutils.sourceforge.io) as blocks: sections, literal blocks, and its four kinds of tables. */
import { BlockList, findLine, isPlain, markupLines, withoutBlankStart, type CellRow } from './block-list.ts'
import type { ReadStep } from './blocks.ts'
import { separatedCells } from './csv.ts'
import { isBlank, plainBlocks, type Line } from './plain.ts'

const ADORNMENT = /^([!-/:-@[-`{-~])\1+[ \t]*$/
const GRID_RULE = /^[ \t]*\+(?:[-=]+\+)+[ \t]*$/
const SIMPLE_RULE = /^[ \t]*=+(?:[ \t]+=+)+[ \t]*$/
const DIRECTIVE = /^([ \t]*)\.\.[ \t]+([\w:-]+)::[ \t]*([^]*)$/
/** Targets, substitutions and comments. The blanks are taken whole: of a part of them, all behind it would be looked through again. */
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

/** Its structure as far as it decides where a document may be cut and what names its rows. */
export function* restructuredTextBlocks(text: string): Generator<ReadStep> {
  const lines = markupLines(text)
  if (lines) yield* new Reader(text, lines).read()
  else yield* plainBlocks(text)
}

/** Columns of a table that is drawn: of more, it is text. */
const MAX_COLUMNS = 100

class Reader {
  readonly #blocks: BlockList
  readonly #lines: readonly Line[]
  /** How sections are underlined, outermost first: the document decides. */
  readonly #styles: string[] = []
  #at = 0

  constructor(text: string, lines: readonly Line[]) {
    this.#blocks = new BlockList(text)
    this.#lines = lines
  }

  *read(): Generator<ReadStep> {
    while (this.#at < this.#lines.length) {
      this.#step()
      yield* this.#blocks.taken()
    }
    yield* this.#blocks.end()
  }

  #step(): void {
    const line = this.#lines[this.#at]
    if (!line) return
    if (isPlain(line)) {
      this.#blocks.add(line)
      this.#at++
      return
    }
    const directive = DIRECTIVE.exec(line.text)
    if (isBlank(line)) this.#blocks.flush()
    else if (GRID_RULE.test(line.text)) return this.#grid()
    else if (SIMPLE_RULE.test(line.text)) return this.#simple()
    else if (directive) return this.#directive(directive[2] ?? '', directive[3] ?? '', indentOf(line))
    else if (UNSEEN.test(line.text) && this.#blocks.open.length === 0) {
      // A comment's own lines, but not the paragraph of a directive without colons that somebody meant to be read.
      this.#blocks.flush()
    } else if (this.#heading(line)) return
    else {
      this.#blocks.add(line)
      if (line.text.trimEnd().endsWith('::')) return this.#literal(indentOf(line))
    }
    this.#at++
  }

  /** A title between two lines of signs, or above one. */
  #heading(line: Line): boolean {
    const [next, second] = [this.#lines[this.#at + 1], this.#lines[this.#at + 2]]
    const sign = ADORNMENT.exec(line.text)?.[1]
    const isOpen = this.#blocks.open.length > 0
    if (sign !== undefined && !isOpen && next && second && !isBlank(next) && line.text.trim() === second.text.trim()) {
      this.#blocks.heading(this.#levelOf(sign + sign), next.text.trim(), line, second)
      this.#at += 3
      return true
    }
    const under = next && ADORNMENT.exec(next.text)?.[1]
    if (sign === undefined && under !== undefined && !isOpen && indentOf(line) === 0 && isLongEnough(next, line)) {
      this.#blocks.heading(this.#levelOf(under), line.text.trim(), line, next ?? line)
      this.#at += 2
      return true
    }
    // A line of signs between two paragraphs.
    if (sign !== undefined && !isOpen && line.text.trim().length >= 4) {
      this.#at++
      return true
    }
    return false
  }

  #levelOf(style: string): number {
    const known = this.#styles.indexOf(style)
    return known >= 0 ? known + 1 : this.#styles.push(style)
  }

  /** Lines from `at` on that are indented more, without the empty ones behind them. */
  #indented(at: number, indent: number): readonly Line[] {
    let end = at
    for (let i = at; i < this.#lines.length; i++) {
      const line = this.#lines[i]
      if (!line || (!isBlank(line) && indentOf(line) <= indent)) break
      if (!isBlank(line)) end = i + 1
    }
    return this.#lines.slice(at, end)
  }

  #literal(indent: number): void {
    this.#at++
    const next = this.#lines[this.#at]
    if (next && !isBlank(next)) return
    const lines = this.#indented(this.#at, indent)
    this.#blocks.code(withoutBlankStart(lines))
    this.#at += lines.length
  }

  #directive(name: string, argument: string, indent: number): void {
    const line = this.#lines[this.#at]
    if (!line) return
    this.#blocks.flush()
    this.#at++
    const isTable = name === 'list-table' || name === 'csv-table'
    if (argument !== '' && (isTable || !CODE.has(name))) {
      // Its text without what makes it a directive.
      const start = line.end - argument.trimEnd().length - (line.text.length - line.text.trimEnd().length)
      this.#blocks.add({ text: argument, start, end: line.end })
      if (isTable) this.#blocks.flush()
    }
    if (!isTable && !CODE.has(name)) return
    const body = this.#indented(this.#at, indent)
    this.#at += body.length
    const options = body.slice(
      0,
      findLine(body, 0, (other) => !/^[ \t]*:[\w-]+:/.test(other.text)),
    )
    const content = withoutBlankStart(body.slice(options.length))
    if (CODE.has(name)) return this.#blocks.code(content)
    const rows = name === 'csv-table' ? csvRows(content) : listRows(content)
    if (rows.length === 0) content.forEach((other) => this.#blocks.add(other))
    const valueOf = (key: string): CellRow | null => {
      const option = options.find((other) => other.text.trimStart().startsWith(`:${key}:`))
      if (!option) return null
      const { text, start, end } = option
      return { cells: separatedCells(text.slice(text.indexOf(`:${key}:`) + key.length + 2).trim(), ','), start, end }
    }
    const isFirst = Number(valueOf('header-rows')?.cells[0] ?? 0) > 0
    this.#blocks.table(valueOf('header') ?? (isFirst ? (rows.shift() ?? null) : null), rows)
  }

  /** `+---+---+`: cells between bars at the places of the plus signs. */
  #grid(): void {
    const lines = this.#lines.slice(
      this.#at,
      findLine(this.#lines, this.#at, ({ text }) => !/^[ \t]*[+|]/.test(text)),
    )
    this.#at += lines.length
    const borders = [...(lines[0]?.text ?? '').matchAll(/\+/g)].map((match) => match.index)
    if (borders.length > MAX_COLUMNS) return lines.forEach((line) => this.#blocks.add(line))
    const rows: CellRow[] = []
    let names: CellRow | null = null
    let group: Line[] = []
    const endRow = (): void => {
      if (group.length > 0) rows.push(joined(group, (line) => cutAt(line.text, borders)))
      group = []
    }
    for (const line of lines) {
      if (!/^[ \t]*\+[-=]/.test(line.text)) {
        group.push(line)
        continue
      }
      endRow()
      if (line.text.includes('=') && names === null) names = rows.pop() ?? null
    }
    endRow()
    this.#blocks.table(names, rows)
  }

  /** `=== ===`: columns where the signs are; what stands between the first two lines of signs names them. */
  #simple(): void {
    const [from, rule] = [this.#at, this.#lines[this.#at]]
    const starts = [...(rule?.text ?? '').matchAll(/=+/g)].map((match) => match.index)
    const ruleAfter = (at: number): number => findLine(this.#lines, at + 1, ({ text }) => SIMPLE_RULE.test(text))
    const isThere = (at: number): boolean => at < this.#lines.length
    const isEnd = (at: number): boolean => this.#lines[at + 1]?.text.trim() === '' || !isThere(at + 1)
    const first = ruleAfter(from)
    if (!isThere(first) || starts.length > MAX_COLUMNS) {
      if (isThere(first) && rule) this.#blocks.add(rule)
      this.#at++
      return
    }
    const second = isEnd(first) ? first : ruleAfter(first)
    const end = isThere(second) ? second : first
    this.#at = end + 1
    // What stands left of the first column is in it.
    const cut = (line: Line): string[] => starts.map((start, i) => line.text.slice(i && start, starts[i + 1]).trim())
    const filled = (lines: readonly Line[]): Line[] =>
      lines.filter((line) => !isBlank(line) && !/^[ \t]*-+(?:[ \t]+-+)*[ \t]*$/.test(line.text))
    const header = end === first ? [] : filled(this.#lines.slice(from + 1, first))
    const groups: Line[][] = []
    for (const line of filled(this.#lines.slice((end === first ? from : first) + 1, end))) {
      // A row goes on where its first cell is empty.
      const group = line.text.slice(0, starts[1]).trim() === '' ? groups.at(-1) : undefined
      if (group) group.push(line)
      else groups.push([line])
    }
    this.#blocks.table(
      header.length > 0 ? joined(header, cut) : null,
      groups.map((group) => joined(group, cut)),
    )
  }
}

const indentOf = ({ text }: Line): number => text.length - text.trimStart().length

/** An underline is as long as its title; writers forget a sign or two, and wide signs count twice. */
const isLongEnough = (underline: Line | undefined, title: Line): boolean =>
  (underline?.text.trim().length ?? 0) >= Math.min(4, title.text.trim().length)

/** Lines of one row, each cut into cells. */
function joined(lines: readonly Line[], cut: (line: Line) => readonly string[]): CellRow {
  const cells: string[][] = []
  for (const line of lines) for (const [i, cell] of cut(line).entries()) (cells[i] ??= []).push(cell)
  const texts = Array.from(cells, (parts) => parts?.filter((part) => part !== '').join(' ') ?? '')
  return { cells: texts, start: lines[0]?.start ?? 0, end: lines.at(-1)?.end ?? 0 }
}

/** What drawn lines leave in a cell that goes on over several rows. */
const RULE_IN_CELL = /^[-+=]{3,}$/

/** A line of a grid as its cells, those without text empty. No text is lost, however its bars are set. */
function cutAt(text: string, borders: readonly number[]): string[] {
  const [first = 0, ...others] = borders
  const isBar = (at: number): boolean => text[at] === '|' || text[at] === '+'
  const line = text.trimEnd()
  const bars = line.trimStart().replace(/^\|/, '').replace(/\|$/, '').split('|')
  const isAligned = isBar(first) && others.at(-1) === line.length - 1 && isBar(line.length - 1)
  // Wide signs, or a blank too many: bars stand beside the borders, and their order says which is which.
  if (!isAligned || first !== text.length - text.trimStart().length) return bars.map(cellText)
  if (bars.length === others.length && !others.every(isBar)) return bars.map(cellText)
  const cells = others.map(() => '')
  let [from, place] = [first, 0]
  for (const [i, border] of others.entries()) {
    if (!isBar(border)) continue
    // The first of the columns that it is over has it.
    cells[place] = cellText(text.slice(from + 1, border))
    from = border
    place = i + 1
  }
  return cells
}

const cellText = (cell: string): string => (RULE_IN_CELL.test(cell.trim()) ? '' : cell.trim())

const csvRows = (lines: readonly Line[]): CellRow[] =>
  lines
    .filter((line) => !isBlank(line))
    .map(({ text, start, end }) => ({ cells: separatedCells(text.trim(), ','), start, end }))

/** `* - a` begins a row, `- b` a cell. */
function listRows(lines: readonly Line[]): CellRow[] {
  const rows: { cells: string[][]; start: number; end: number }[] = []
  const indent = indentOf(lines[0] ?? { text: '', start: 0, end: 0 })
  for (const line of lines) {
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
