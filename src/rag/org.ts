/** Org (orgmode.org) as blocks: headlines, blocks, tables. */
import { findLine, LastLines, markupBlocks, type BlockList } from './block-list.ts'
import { DOCUMENT_TITLE, type CellRow, type ReadStep } from './blocks.ts'
import { isBlank, type Line } from './plain.ts'

const HEADLINE = /^(\*+)[ \t]+(\S.*)$/
const TITLE = /^#\+title:[ \t]*(\S.*)$/i
const OPENING = /^[ \t]*#\+begin_(\w+)/i
const DRAWER = /^[ \t]*:[\w-]+:[ \t]*$/
const DRAWER_END = /^[ \t]*:END:/i
/** Lines of a drawer, including its first and last. */
const MAX_DRAWER = 64
/** The tags at the end of a headline. They begin at the first space of a run. */
const TAGS = /(?<![ \t])[ \t]+:[\w@#%:]+:[ \t]*$/
/** Settings and comments. */
const UNSEEN = /^[ \t]*#(?:\+\w+(?:\[[^\]]*\])?:|[ \t]|$)/
const TABLE_LINE = /^[ \t]*\|/
const RULE = /^[ \t]*\|-[-+| \t]*$/

/** Reads as much of Org's structure as decides where a document may be cut and which names its rows get. */
export const orgBlocks = (text: string): Generator<ReadStep> =>
  markupBlocks(text, (blocks, lines) => {
    const ends = new LastLines(lines, ({ text: line }) =>
      /^[ \t]*#\+end_\w+[ \t]*$/i.exec(line)?.[0].trim().toLowerCase(),
    )
    /** The next line that ends a drawer. It is searched for only once the last one found has been passed. */
    let drawerEnd = -1
    const nextDrawerEnd = (at: number): number => {
      if (drawerEnd <= at) drawerEnd = findLine(lines, at + 1, (line) => DRAWER_END.test(line.text))
      return drawerEnd
    }
    return function* (line, at) {
      const [, stars, headline] = HEADLINE.exec(line.text) ?? []
      const title = TITLE.exec(line.text)?.[1]
      const opening = OPENING.exec(line.text)?.[1]?.toLowerCase()
      if (isBlank(line)) blocks.flush()
      else if (stars !== undefined && headline !== undefined) {
        blocks.heading(stars.length, headline.replace(TAGS, '').trim(), line, line)
      } else if (title !== undefined) blocks.heading(DOCUMENT_TITLE, title.trim(), line, line)
      else if (opening === 'comment' && !ends.has('#+end_comment', at)) blocks.flush()
      else if (opening === 'src' || opening === 'example' || opening === 'comment') {
        const end = findLine(lines, at + 1, (other) => other.text.trim().toLowerCase() === `#+end_${opening}`)
        if (opening !== 'comment') blocks.code(lines.slice(at + 1, end))
        blocks.flush()
        return end + 1
      } else if (TABLE_LINE.test(line.text)) {
        const end = findLine(lines, at + 1, (other) => !TABLE_LINE.test(other.text))
        yield* table(blocks, lines.slice(at, end))
        return end
      } else if (DRAWER.test(line.text) && nextDrawerEnd(at) < Math.min(at + MAX_DRAWER, lines.length)) {
        blocks.flush()
        return nextDrawerEnd(at) + 1
      } else if (UNSEEN.test(line.text) || /^[ \t]*#\+end_/i.test(line.text) || opening !== undefined) blocks.flush()
      else blocks.add(line)
      return at + 1
    }
  })

/** The first row names the columns if a rule follows it. */
function* table(blocks: BlockList, lines: readonly Line[]): Generator<ReadStep> {
  const rule = lines.findIndex((line, i) => i > 0 && RULE.test(line.text))
  const rows: CellRow[] = []
  let header: CellRow | null = null
  for (const [i, { text, start, end }] of lines.entries()) {
    yield null
    if (RULE.test(text)) continue
    const cells = text.trim().replace(/^\|/, '').replace(/\|$/, '').split('|')
    const row = { cells: cells.map((cell) => cell.trim()), start, end }
    if (i < rule && header === null) header = row
    else rows.push(row)
  }
  yield* blocks.table(header, rows)
}
