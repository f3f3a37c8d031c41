/** Comma-separated values (RFC 4180, also with semicolons, tabs or bars) as one table. Its first row names the columns. */
import type { CellRow, ReadStep, TableRow } from './blocks.ts'
import { areColumnNames, namedRow, plainRow, tableBlocks } from './tables.ts'

/** The rows as table blocks; each row carries the names of its columns. */
export const csvBlocks = (text: string): Generator<ReadStep> => tableBlocks(tableRows(text), { headings: [] })

function* tableRows(text: string): Generator<TableRow | null> {
  const { separator, from } = separatorOf(text)
  let names: readonly string[] | null = null
  let numRead = 0
  for (const { cells, start, end } of rowsOf(text, separator, from)) {
    if (cells.every((cell) => cell.trim() === '')) {
      yield null
      continue
    }
    if (numRead++ === 0 && cells.length > 1 && areColumnNames(cells) && !cells.every(isNumber)) {
      names = cells
      continue
    }
    yield { text: names ? namedRow(names, cells) : plainRow(cells), start, end }
  }
  // A header without rows below it is the only content.
  if (numRead === 1 && names) yield { text: plainRow(names), start: 0, end: text.length }
}

/** A first row of numbers only is data, not names. */
const isNumber = (cell: string): boolean => cell.trim() === '' || /^[-+]?[\d.,]+%?$/.test(cell.trim())

/** Spreadsheets may state the separator on a line of its own, the first one. */
const NAMED_SEPARATOR = /^sep=([,;|\t])[ \t]*\r?\n/i

/** The separator that occurs most often in the first line, and where the first row begins. */
function separatorOf(text: string): { readonly separator: string; readonly from: number } {
  const [line, named] = NAMED_SEPARATOR.exec(text) ?? []
  if (line !== undefined && named !== undefined) return { separator: named, from: line.length }
  const start = text.slice(0, 4096).split(/[\r\n]/, 1)[0] ?? ''
  const count = (sign: string): number => start.split(sign).length
  const separator = [',', ';', '\t', '|'].reduce((best, sign) => (count(sign) > count(best) ? sign : best))
  return { separator, from: 0 }
}

/** The cells of one line. */
export const separatedCells = (line: string, separator: string): readonly string[] =>
  rowsOf(line, separator).next().value?.cells ?? []

function* rowsOf(text: string, separator: string, from = 0): Generator<CellRow, undefined> {
  let cells: string[] = []
  let start = from
  let position = from
  // Old systems end a line with a carriage return alone.
  const newline = text.includes('\n') ? '\n' : '\r'
  const border = new RegExp(`[${newline}${separator}]`, 'g')
  while (position < text.length || cells.length > 0) {
    const cell = cellAt(text, position, border)
    cells.push(cell.text)
    const isRowEnd = text[cell.end] !== separator
    position = cell.end + 1
    if (!isRowEnd) {
      // A separator at the end of the text is followed by one more cell, which is empty.
      if (position >= text.length) cells.push('')
      else continue
    }
    yield { cells, start, end: Math.min(cell.end, text.length) }
    cells = []
    start = position
  }
}

/** The cell that begins at `from`, and where it ends: at a separator, a line end, or the end of the text. */
function cellAt(text: string, from: number, border: RegExp): { readonly text: string; readonly end: number } {
  const parts: string[] = []
  let position = from
  // Some writers put spaces between the separator and the quote.
  while (text[position] === ' ') position++
  if (text[position] !== '"') position = from
  while (text[position] === '"') {
    const close = text.indexOf('"', position + 1)
    if (close < 0) return { text: text.slice(position + 1), end: text.length }
    parts.push(text.slice(position + 1, close))
    position = close + 1
    if (text[position] === '"') parts.push('"')
  }
  border.lastIndex = position
  const end = border.exec(text)?.index ?? text.length
  const rest = text.slice(position, end)
  return { text: parts.join('') + (rest.endsWith('\r') ? rest.slice(0, -1) : rest), end }
}
