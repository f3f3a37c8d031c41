/** Org (orgmode.org) as blocks: headlines, blocks, tables. */
import { BlockList, findLine, isPlain, LastLines, markupLines, type CellRow } from './block-list.ts'
import { DOCUMENT_TITLE, type ReadStep } from './blocks.ts'
import { isBlank, plainBlocks, type Line } from './plain.ts'

const HEADLINE = /^(\*+)[ \t]+(\S.*)$/
const TITLE = /^#\+title:[ \t]*(\S.*)$/i
const OPENING = /^[ \t]*#\+begin_(\w+)/i
const DRAWER = /^[ \t]*:[\w-]+:[ \t]*$/
const DRAWER_END = /^[ \t]*:END:/i
/** Lines of a drawer, with its first and last. */
const MAX_DRAWER = 64
/** Behind a headline. Only the first blank of a run can begin them. */
const TAGS = /(?<![ \t])[ \t]+:[\w@#%:]+:[ \t]*$/
/** Settings and comments. */
const UNSEEN = /^[ \t]*#(?:\+\w+(?:\[[^\]]*\])?:|[ \t]|$)/
const TABLE_LINE = /^[ \t]*\|/
const RULE = /^[ \t]*\|-[-+| \t]*$/

/** Org's structure as far as it decides where a document may be cut and what names its rows. */
export function* orgBlocks(text: string): Generator<ReadStep> {
  const lines = markupLines(text)
  if (!lines) return yield* plainBlocks(text)
  const blocks = new BlockList(text)
  const ends = new LastLines(lines, ({ text: line }) =>
    /^[ \t]*#\+end_\w+[ \t]*$/i.exec(line)?.[0].trim().toLowerCase(),
  )
  /** The next line that ends a drawer, as far as one was looked for. */
  let drawerEnd = -1
  const nextDrawerEnd = (at: number): number => {
    if (drawerEnd <= at) drawerEnd = findLine(lines, at + 1, (line) => DRAWER_END.test(line.text))
    return drawerEnd
  }
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]
    if (!line) break
    yield* blocks.taken()
    if (isPlain(line)) {
      blocks.add(line)
      continue
    }
    const [, stars, headline] = HEADLINE.exec(line.text) ?? []
    const title = TITLE.exec(line.text)?.[1]
    const opening = OPENING.exec(line.text)?.[1]?.toLowerCase()
    if (isBlank(line)) blocks.flush()
    else if (stars !== undefined && headline !== undefined) {
      blocks.heading(stars.length, headline.replace(TAGS, '').trim(), line, line)
    } else if (title !== undefined) blocks.heading(DOCUMENT_TITLE, title.trim(), line, line)
    else if (opening === 'comment' && !ends.has('#+end_comment', i)) blocks.flush()
    else if (opening === 'src' || opening === 'example' || opening === 'comment') {
      const end = findLine(lines, i + 1, (other) => other.text.trim().toLowerCase() === `#+end_${opening}`)
      if (opening !== 'comment') blocks.code(lines.slice(i + 1, end))
      blocks.flush()
      i = end
    } else if (TABLE_LINE.test(line.text)) {
      const end = findLine(lines, i + 1, (other) => !TABLE_LINE.test(other.text))
      addTable(blocks, lines.slice(i, end))
      i = end - 1
    } else if (DRAWER.test(line.text) && nextDrawerEnd(i) < Math.min(i + MAX_DRAWER, lines.length)) {
      blocks.flush()
      i = nextDrawerEnd(i)
    } else if (UNSEEN.test(line.text) || /^[ \t]*#\+end_/i.test(line.text) || opening !== undefined) blocks.flush()
    else blocks.add(line)
  }
  yield* blocks.end()
}

/** The rows above the first rule name the columns. */
function addTable(blocks: BlockList, lines: readonly Line[]): void {
  const rule = lines.findIndex((line, i) => i > 0 && RULE.test(line.text))
  const rows = lines.flatMap((line, i): (CellRow & { readonly isAbove: boolean })[] => {
    if (RULE.test(line.text)) return []
    const cells = line.text.trim().replace(/^\|/, '').replace(/\|$/, '').split('|')
    return [{ cells: cells.map((cell) => cell.trim()), start: line.start, end: line.end, isAbove: i < rule }]
  })
  blocks.table(rows[0]?.isAbove ? (rows.shift() ?? null) : null, rows)
}
