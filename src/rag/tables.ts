/**
 * Rows of tables as sentences: `Service: http | Port (http): 80`. A row that is found without its header says nothing, neither to an
 * embedding model nor to a language model; so each cell carries its column's name and, behind the first, its row's.
 */

import type { Block, BlockPlace, TableRow } from './blocks.ts'

/** Longer texts in the place of a name are text. */
const MAX_COLUMN_NAME = 80
const MAX_ROW_NAME = 60
/** Cells of a row that are named. Names multiply a text: of more cells, a row could be longer than the longest string. */
const MAX_NAMED_CELLS = 1000

/** A name without code marks, which would be repeated in every row. */
const bare = (name: string): string => name.replaceAll('`', '')

/** White space of a cell as single blanks. */
const tidy = (cell: string): string => cell.replaceAll(/\s+/g, ' ').trim()

/** Whether these cells can name columns: some are filled, none is long. */
export const areColumnNames = (cells: readonly string[]): boolean =>
  cells.some((cell) => tidy(cell) !== '') && cells.every((cell) => tidy(cell).length <= MAX_COLUMN_NAME)

/** A row without names: its cells between bars, the empty ones at its end left out. */
export function plainRow(cells: readonly string[]): string {
  const texts = cells.map(tidy)
  let end = texts.length
  while (end > 0 && texts[end - 1] === '') end--
  return texts.slice(0, end).join(' | ').trim()
}

/** A row with the names of its columns, and of itself: its first cell. Empty cells are left out. One of very many cells has no names. */
export function namedRow(columns: readonly string[], cells: readonly string[]): string {
  if (cells.length > MAX_NAMED_CELLS) return plainRow(cells)
  const texts = cells.map(tidy)
  const [first = ''] = texts
  const rowName = first !== '' && first.length <= MAX_ROW_NAME ? bare(first) : null
  // Without names of columns, the row's own name is that of its other cells.
  const isNameOnly = rowName !== null && columns.length === 0 && texts.some((text, i) => i > 0 && text !== '')
  return texts
    .flatMap((text, i) => {
      if (text === '' || (i === 0 && isNameOnly)) return []
      const column = bare(tidy(columns[i] ?? ''))
      const name = i === 0 || rowName === null ? column : column === '' ? rowName : `${column} (${rowName})`
      return name === '' || name === text ? [text] : [`${name}: ${text}`]
    })
    .join(' | ')
}

/** Rows of a block, and UTF-16 units of a block that takes another row. */
const MAX_BLOCK_ROWS = 256
const MAX_BLOCK_LENGTH = 1024 * 1024

/** A table's rows as blocks of bounded length: the text of a whole one could be longer than the longest string. */
export class TableBlocks {
  readonly #place: BlockPlace
  #rows: TableRow[] = []
  #length = 0

  /** @param place of the table */
  constructor(place: BlockPlace) {
    this.#place = place
  }

  /** Adds a row; empty ones are left out. @returns the block that is full with it, if one is. */
  add(row: TableRow): Block | null {
    if (row.text === '') return null
    this.#rows.push(row)
    this.#length += row.text.length
    return this.#rows.length < MAX_BLOCK_ROWS && this.#length < MAX_BLOCK_LENGTH ? null : this.end()
  }

  /** The table is at its end. @returns the block of its last rows; null for none. */
  end(): Block | null {
    const rows = this.#rows
    const [first, last] = [rows[0], rows.at(-1)]
    if (!first || !last) return null
    this.#rows = []
    this.#length = 0
    const text = rows.map((row) => row.text).join('\n')
    return { kind: 'table', text, ...this.#place, rows, start: first.start, end: last.end }
  }
}
