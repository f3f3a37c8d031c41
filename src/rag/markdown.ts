/** Markdown and plain text as blocks. */
import { HeadingPath, isTitle, type Block } from './blocks.ts'

interface Line {
  readonly text: string
  readonly start: number
  readonly end: number
}

function* linesOf(text: string): Generator<Line> {
  for (let start = 0; start < text.length;) {
    const newline = text.indexOf('\n', start)
    const next = newline < 0 ? text.length : newline + 1
    const end = newline < 0 ? text.length : text[newline - 1] === '\r' && newline > start ? newline - 1 : newline
    yield { text: text.slice(start, end), start, end }
    start = next
  }
}

const isBlank = (line: Line): boolean => line.text.trim() === ''

/** Paragraphs between blank lines. */
export function* plainBlocks(text: string): Generator<Block> {
  let lines: Line[] = []
  for (const line of linesOf(text)) {
    if (!isBlank(line)) lines.push(line)
    else {
      yield* toBlock(text, lines, 'prose', [])
      lines = []
    }
  }
  yield* toBlock(text, lines, 'prose', [])
}

function* toBlock(
  source: string,
  lines: readonly Line[],
  kind: Block['kind'],
  headings: readonly string[],
): Generator<Block> {
  const first = lines[0]
  const last = lines.at(-1)
  if (first && last)
    yield { kind, text: source.slice(first.start, last.end), headings, start: first.start, end: last.end }
}

const FENCE = /^ {0,3}(`{3,}|~{3,})/
const ATX_OPENING = /^ {0,3}(#{1,6})(?=[ \t]|$)/
const SETEXT_UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/
const LIST_ITEM = /^ {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]/
const TABLE_ROW = /^ {0,3}\|/
const THEMATIC_BREAK = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/
const INDENTED = /^(?: {4}|\t)/

/** CommonMark's block structure as far as it decides where a document may be cut. */
export function* markdownBlocks(text: string): Generator<Block> {
  const path = new HeadingPath()
  let lines: Line[] = []
  let kind: Block['kind'] = 'prose'
  let fence: string | null = null
  const isOpen = (): boolean => lines.length > 0
  function* flush(): Generator<Block> {
    yield* toBlock(text, lines, kind, path.titles())
    lines = []
    kind = 'prose'
  }
  for (const line of linesOf(text)) {
    if (fence !== null) {
      lines.push(line)
      const closing = FENCE.exec(line.text)?.[1]
      if (closing?.startsWith(fence) && line.text.trim() === closing) {
        yield* flush()
        fence = null
      }
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
      // A blank line does not end a list: its items would lose the sentence that introduces them.
      if (kind !== 'lines' || TABLE_ROW.test(lines[0]?.text ?? '')) yield* flush()
      continue
    }
    const heading = atxHeading(line.text)
    if (heading) {
      yield* flush()
      path.enter(heading.level, plainTitle(heading.title))
      continue
    }
    const underline = SETEXT_UNDERLINE.exec(line.text)?.[1]
    if (underline !== undefined && isOpen() && kind === 'prose') {
      const title = lines.map((part) => part.text.trim()).join(' ')
      if (isTitle(title)) {
        lines = []
        path.enter(underline.startsWith('=') ? 1 : 2, plainTitle(title))
      } else yield* flush()
      continue
    }
    if (THEMATIC_BREAK.test(line.text)) {
      yield* flush()
      continue
    }
    const startsLines = LIST_ITEM.test(line.text) || TABLE_ROW.test(line.text)
    if (!isOpen()) {
      kind = startsLines ? 'lines' : INDENTED.test(line.text) ? 'code' : 'prose'
    } else if (startsLines && kind === 'prose') {
      // "The steps are:" and its list stay one block.
      if (TABLE_ROW.test(line.text)) yield* flush()
      kind = 'lines'
    } else if (kind === 'lines' && !startsLines && !/^\s/.test(line.text) && isAfterGap(lines, line)) {
      yield* flush()
    }
    lines.push(line)
  }
  yield* flush()
}

/** Whether blank lines lie between the last line and this one. */
const isAfterGap = (lines: readonly Line[], line: Line): boolean => line.start - (lines.at(-1)?.end ?? line.start) > 2

/** A line as an ATX heading. String operations, for a pattern that also trims the closing `#` backtracks on runs of blanks and `#`. */
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

/** A heading without its inline markup. No bracket inside another: or every `[` of `[[[[` would be looked at to the end. */
const plainTitle = (title: string): string =>
  title
    .replaceAll(/!?\[([^[\]]*)\]\([^()]*\)/g, '$1')
    .replaceAll(/[`*]/g, '')
    .trim()
