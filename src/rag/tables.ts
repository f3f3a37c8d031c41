/**
 * Rows of tables as sentences: `Service: http | Port (http): 80`. A row without its header means nothing to an embedding model or a language
 * model, so each cell carries the name of its column and, from the second cell on, the name of its row.
 */
import type { BlockPlace, ReadStep, TableRow } from './blocks.ts'

/** UTF-16 units of a name; a longer text is content, not a name. */
const MAX_COLUMN_NAME = 80
const MAX_ROW_NAME = 60
/** Cells of a row that get names. Names multiply the text: a row with more cells could become longer than the longest string. */
const MAX_NAMED_CELLS = 1000

/** A name without backticks, which every row would repeat. */
const bare = (name: string): string => name.replaceAll('`', '')

/** A cell with each run of white space as one space. */
const tidy = (cell: string): string => cell.replaceAll(/\s+/g, ' ').trim()

/** Whether these cells can name columns: at least one has text, and none is long. */
export const areColumnNames = (cells: readonly string[]): boolean =>
  cells.some((cell) => tidy(cell) !== '') && cells.every((cell) => tidy(cell).length <= MAX_COLUMN_NAME)

/** A row without names: its cells with bars between them, without the empty cells at the end. */
export function plainRow(cells: readonly string[]): string {
  const texts = cells.map(tidy)
  let end = texts.length
  while (end > 0 && texts[end - 1] === '') end--
  return texts.slice(0, end).join(' | ').trim()
}

/** A row whose cells carry the names of their columns and of the row, which is its first cell. Empty cells are left out. A row of very many cells gets no names. */
export function namedRow(columns: readonly string[], cells: readonly string[]): string {
  if (cells.length > MAX_NAMED_CELLS) return plainRow(cells)
  const texts = cells.map(tidy)
  const [first = ''] = texts
  const rowName = first !== '' && first.length <= MAX_ROW_NAME ? bare(first) : null
  // Without column names, the row's name is the only name of its other cells.
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

/** Rows per block, and UTF-16 units above which a block takes no further row. */
const MAX_BLOCK_ROWS = 256
const MAX_BLOCK_LENGTH = 1024 * 1024

/**
 * A table's rows as blocks of bounded length: the text of a whole table could be longer than the longest string. Rows without text are left
 * out. Yields null for each row that does not complete a block.
 */
export function* tableBlocks(rows: Iterable<TableRow | null>, place: BlockPlace): Generator<ReadStep> {
  let taken: TableRow[] = []
  let length = 0
  const blockOfTaken = (): ReadStep => {
    const [first, last] = [taken[0], taken.at(-1)]
    if (!first || !last) return null
    const text = taken.map((row) => row.text).join('\n')
    const block = { kind: 'table' as const, text, ...place, rows: taken, start: first.start, end: last.end }
    taken = []
    length = 0
    return block
  }
  for (const row of rows) {
    if (row && row.text !== '') {
      taken.push(row)
      length += row.text.length
    }
    yield taken.length >= MAX_BLOCK_ROWS || length >= MAX_BLOCK_LENGTH ? blockOfTaken() : null
  }
  yield blockOfTaken()
}
