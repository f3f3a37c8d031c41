/** Plain text as blocks: paragraphs of a whole text or page by page. */
import type { Block, BlockPlace, ReadStep } from './blocks.ts'

export interface Line {
  readonly text: string
  readonly start: number
  readonly end: number
}

/** The lines of a text between two offsets, without their line ends (LF or CR LF). */
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

/** Consecutive lines as one block; none without lines. */
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

/** Paragraphs between blank lines. Keeps only offsets, since a paragraph may have millions of lines. */
export function* plainBlocks(
  text: string,
  from = 0,
  to = text.length,
  place: BlockPlace = { headings: [] },
): Generator<ReadStep> {
  let [start, end] = [-1, -1]
  const taken = (): ReadStep => {
    const block = start < 0 ? null : { kind: 'prose' as const, text: text.slice(start, end), ...place, start, end }
    start = -1
    return block
  }
  for (const line of linesOf(text, from, to)) {
    if (isBlank(line)) yield taken()
    else {
      if (start < 0) start = line.start
      end = line.end
      yield null
    }
  }
  yield taken()
}

/** Separates the pages in the text of a paged document. */
export const PAGE_BREAK = '\f'

/** Paragraphs below the number of their page. No chunk spans two pages, so each can be cited by its page (`#page=3`, RFC 8118). */
export function* pageBlocks(text: string): Generator<ReadStep> {
  let page = 1
  for (let from = 0; from < text.length; page++) {
    const at = text.indexOf(PAGE_BREAK, from)
    const to = at < 0 ? text.length : at
    yield* plainBlocks(text, from, to, { headings: [`Page ${page}`], anchor: `#page=${page}` })
    from = to + 1
  }
}

/** The end of a sentence: punctuation with closing quotes before white space, or a CJK full stop. */
export const SENTENCE_END = /(?:[.!?…]["'”’)\]]*(?=\s)|[。！？])\s*/g
