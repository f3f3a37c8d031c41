/** HTML tables as rows that name their columns, with spans and headers as a browser lays them out. */
import type { DefaultTreeAdapterTypes as Dom } from 'parse5'
import type { TableRow } from './blocks.ts'
import { areColumnNames, namedRow, plainRow } from './tables.ts'

/** Cells of a table after layout. The rows of a larger table are not laid out, because spans of thousands would multiply the text. */
const MAX_CELLS = 100_000
const MAX_SPAN = 1000
/** UTF-16 units of a cell that is repeated in the rows and columns it spans. A longer one appears once. */
const MAX_SPANNING_TEXT = 200

/** UTF-16 units of a column's name joined from several header rows, which every row repeats. */
const MAX_JOINED_NAME = 200

/** Elements inside a cell that show that the table lays out a page. */
const PAGE_CONTENT = new Set(['table', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'section', 'article', 'main', 'nav', 'form'])
/** The same for a table without header cells. */
const RICH_CONTENT = new Set(['ul', 'ol', 'dl', 'pre', 'div', 'blockquote', 'hr'])
/** Elements that contain the rows of a table. */
const ROW_GROUPS = new Set(['thead', 'tbody', 'tfoot'])

interface Cell {
  readonly text: string
  readonly isHeader: boolean
  readonly isRepeated: boolean
}

type TextOf = (node: Dom.Element) => string

/** The rows of a table; null for a table that lays out a page. */
export function tableRows(table: Dom.Element, textOf: TextOf): readonly TableRow[] | null {
  const rows = rowsOf(table)
  const hasHeader = rows.some((row) => cellsOf(row).some(({ tagName }) => tagName === 'th'))
  const isLayout = rows.some((row) =>
    cellsOf(row).some((cell) => contains(cell, PAGE_CONTENT) || (!hasHeader && contains(cell, RICH_CONTENT))),
  )
  if (isLayout) return null
  const captions = elementsOf(table).filter(({ tagName }) => tagName === 'caption')
  const strays = captions.map((caption) => placed(caption, textOf(caption)))
  return [...strays, ...renderRows(rows, textOf)].filter(({ text }) => text !== '')
}

function renderRows(rows: readonly Dom.Element[], textOf: TextOf): readonly TableRow[] {
  const grid = layOut(rows, textOf)
  if (!grid) return rows.map((row) => placed(row, plainRow(cellsOf(row).map(textOf))))
  let names: string[] | null = null
  /** Columns without text in any row so far, whose names would be lost. */
  let columnsWithoutText = new Set<number>()
  const rendered: TableRow[] = []
  let isInHeader = true
  for (const [i, row] of rows.entries()) {
    const cells = grid[i] ?? []
    const texts = cells.map((cell) => cell?.text ?? '')
    const isHeaderRow =
      cells.length > 1 && cells.every((cell) => cell === undefined || cell.isHeader || cell.text === '')
    // Consecutive header rows name a column together; a later header row replaces the names.
    const joined: string[] = isInHeader && names ? joinNames(names, texts) : texts
    if (isHeaderRow && areColumnNames(texts) && joined.every((name) => name.length <= MAX_JOINED_NAME)) {
      names = joined
      isInHeader = true
      columnsWithoutText = new Set(names.keys())
      continue
    }
    isInHeader = false
    texts.forEach((text, column) => text !== '' && columnsWithoutText.delete(column))
    if (names && !isHeaderRow) rendered.push(placed(row, namedRow(names, texts)))
    else rendered.push(placed(row, cells[0]?.isHeader ? namedRow([], texts) : plainRow(withoutRepeats(cells))))
  }
  const [firstRow] = rows
  const left = plainRow((names ?? []).filter((_, column) => columnsWithoutText.has(column)))
  if (firstRow && left !== '') rendered.unshift(placed(firstRow, left))
  return rendered
}

const joinNames = (upper: readonly string[], lower: readonly string[]): string[] =>
  Array.from({ length: Math.max(upper.length, lower.length) }, (_, i) => {
    const [a, b] = [upper[i] ?? '', lower[i] ?? '']
    return a === b || b === '' ? a : a === '' ? b : `${a} ${b}`
  })

const withoutRepeats = (cells: readonly (Cell | undefined)[]): string[] =>
  cells
    .map((cell) => (cell && !cell.isRepeated ? cell.text : ''))
    .filter((text, i) => text !== '' || !cells[i]?.isRepeated)

/** The cells by row and column, with spans filled; null for too many. */
function layOut(rows: readonly Dom.Element[], textOf: TextOf): (Cell | undefined)[][] | null {
  const grid: (Cell | undefined)[][] = rows.map(() => [])
  let numCells = 0
  for (const [y, row] of rows.entries()) {
    let x = 0
    for (const node of cellsOf(row)) {
      while (grid[y]?.[x]) x++
      const text = textOf(node)
      const [width, height] = [spanOf(node, 'colspan'), Math.min(spanOf(node, 'rowspan'), rows.length - y)]
      numCells += width * height
      if (numCells > MAX_CELLS) return null
      const isShort = text.length <= MAX_SPANNING_TEXT
      const isHeader = node.tagName === 'th' || isHead(row)
      for (let j = 0; j < height; j++) {
        for (let i = 0; i < width; i++) {
          const isRepeated = i > 0 || j > 0
          // Over several columns only a header has the same meaning in each, and over several rows only the first column.
          const isSame = !isRepeated || (isShort && (isHeader || i === 0))
          const target = grid[y + j]
          if (target) target[x + i] = { text: isSame ? text : '', isHeader, isRepeated }
        }
      }
      x += width
    }
  }
  return grid.map((cells) => Array.from(cells))
}

function spanOf(cell: Dom.Element, name: string): number {
  const value = Number.parseInt(cell.attrs.find((attribute) => attribute.name === name)?.value ?? '', 10)
  return value >= 1 ? Math.min(value, MAX_SPAN) : 1
}

/** Whether a row is in the table's head, whose cells are names even without header markup. */
const isHead = ({ parentNode }: Dom.Element): boolean =>
  parentNode !== null && 'tagName' in parentNode && parentNode.tagName === 'thead'

const elementsOf = (node: Dom.Element): Dom.Element[] =>
  node.childNodes.filter((child): child is Dom.Element => 'tagName' in child)

const rowsOf = (table: Dom.Element): Dom.Element[] =>
  elementsOf(table).flatMap((child) =>
    child.tagName === 'tr'
      ? [child]
      : ROW_GROUPS.has(child.tagName)
        ? elementsOf(child).filter(({ tagName }) => tagName === 'tr')
        : [],
  )

const cellsOf = (row: Dom.Element): Dom.Element[] =>
  elementsOf(row).filter(({ tagName }) => tagName === 'td' || tagName === 'th')

const contains = (node: Dom.Element, names: ReadonlySet<string>): boolean =>
  elementsOf(node).some((child) => names.has(child.tagName) || contains(child, names))

function placed(node: Dom.Element, text: string): TableRow {
  const at = node.sourceCodeLocation
  return { text, start: at?.startOffset ?? 0, end: at?.endOffset ?? 0 }
}
