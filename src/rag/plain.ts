/** Plain text as blocks, whole or by pages. */
import type { Block, BlockPlace, ReadStep } from './blocks.ts'

export interface Line {
  readonly text: string
  readonly start: number
  readonly end: number
}

/** Lines of a text from `from` up to `to`, without their ends (LF or CR LF). */
export function* linesOf(text: string, from = 0, to = text.length): Generator<Line> {
  for (let start = from; start < to;) {
    const newline = text.indexOf('\n', start)
    const next = newline < 0 || newline >= to ? to : newline + 1
    const last = newline < 0 || newline >= to ? to : newline
    const end = text[last - 1] === '\r' && last > start ? last - 1 : last
    yield { text: text.slice(start, end), start, end }
    start = next
  }
}

export const isBlank = (line: Line): boolean => line.text.trim() === ''

/** Lines that stand together as one block. */
export function* toBlock(
  source: string,
  lines: readonly Line[],
  kind: Block['kind'],
  place: BlockPlace,
): Generator<Block> {
  const first = lines[0]
  const last = lines.at(-1)
  if (first && last) {
    yield { kind, text: source.slice(first.start, last.end), ...place, start: first.start, end: last.end }
  }
}

/** Paragraphs between blank lines. */
export function* plainBlocks(
  text: string,
  from = 0,
  to = text.length,
  place: BlockPlace = { headings: [] },
): Generator<ReadStep> {
  let lines: Line[] = []
  for (const line of linesOf(text, from, to)) {
    yield null
    if (!isBlank(line)) lines.push(line)
    else {
      yield* toBlock(text, lines, 'prose', place)
      lines = []
    }
  }
  yield* toBlock(text, lines, 'prose', place)
}

/** Ends a page in the text of a paged document. */
export const PAGE_BREAK = '\f'

/** Paragraphs under the number of their page: no chunk reaches over the end of one, so that each can be cited by it (RFC 8118). */
export function* pageBlocks(text: string): Generator<ReadStep> {
  let page = 1
  for (let from = 0; from < text.length; page++) {
    const at = text.indexOf(PAGE_BREAK, from)
    const to = at < 0 ? text.length : at
    yield* plainBlocks(text, from, to, { headings: [`Page ${page}`], anchor: `#page=${page}` })
    from = to + 1
  }
}
