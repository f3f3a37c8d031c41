/** Cuts documents into chunks: by structure first, then by token counts. */
import type { Block, DocumentFormat, ReadStep, TableRow } from './blocks.ts'
import { asciidocBlocks } from './asciidoc.ts'
import { csvBlocks } from './csv.ts'
import { htmlBlocks } from './html.ts'
import { markdownBlocks } from './markdown.ts'
import { orgBlocks } from './org.ts'
import { pageBlocks, plainBlocks, SENTENCE_END } from './plain.ts'
import { restructuredTextBlocks } from './restructured-text.ts'
import { Slice } from './slice.ts'
import type { Chunk } from './vector-index.ts'

export interface ChunkingOptions {
  /** Tokens of a chunk with its headings, at most. */
  readonly maxTokens: number
  /** Tokens that a chunk repeats from the previous chunk of its section, at most. */
  readonly overlapTokens: number
}

/** Counts the tokens of texts for the embedding model, without special tokens. */
export type CountTokens = (texts: readonly string[]) => Promise<readonly number[]>

/** A piece of text that is never cut: a sentence, a line or a whole code block. */
interface Unit {
  readonly start: number
  readonly end: number
  readonly text: string
  readonly numTokens: number
  /** The number of its block in the section. */
  readonly block: number
  /** Whether the next chunk may repeat it. */
  readonly repeatable: boolean
  /** Whether its text differs from the source: without markup, or with names added. */
  readonly isRendered: boolean
}

/** The text that is embedded and shown to the language model. It includes the headings, because a chunk alone often does not tell what it is about. */
export const contextualText = (chunk: { readonly headings: readonly string[]; readonly text: string }): string =>
  chunk.headings.length === 0 ? chunk.text : `${chunk.headings.join(' > ')}\n${chunk.text}`

/** A block that does not fit starts a new chunk if the chunk is at least this full; otherwise it is cut. */
const MIN_FILL = 0.5
/** The share of a chunk that its headings may take. */
const MAX_HEADING_SHARE = 0.25
/**
 * UTF-16 units of a chunk per token that it may have. Prose has about five units per token, indented code up to ten. A word that is one unknown token
 * can have a million, which would burden every later step.
 */
const MAX_CHARS_PER_TOKEN = 16
/**
 * UTF-16 units that are cut at a time, in this thread and by one call to the model worker, where queries wait for it. Longer sections and blocks are
 * cut in several steps.
 */
const MAX_SECTION_CHARS = 32 * 1024

const READERS: Readonly<Record<Exclude<DocumentFormat, 'html'>, (text: string) => Iterable<ReadStep>>> = {
  markdown: markdownBlocks,
  asciidoc: asciidocBlocks,
  rst: restructuredTextBlocks,
  org: orgBlocks,
  text: plainBlocks,
  csv: csvBlocks,
  pages: pageBlocks,
}

/** The text with a line feed where a line ends with a carriage return alone, as on old systems: as long as before, so that places stay. */
const withLineFeeds = (text: string): string =>
  text.replaceAll(/\r+(\n?)/g, (end, feed: string) => (feed === '' ? '\n'.repeat(end.length) : end))

/**
 * Cuts a document into chunks. A chunk never spans sections. Code blocks and sentences are cut only if they are longer than a chunk. Yields to the
 * event loop every few milliseconds.
 * @param readHtml reads HTML in place of `htmlBlocks`
 */
export async function chunkDocument(
  given: string,
  format: DocumentFormat,
  options: ChunkingOptions,
  countTokens: CountTokens,
  readHtml: (html: string) => Iterable<Block> | Promise<Iterable<Block>> = htmlBlocks,
): Promise<readonly Chunk[]> {
  // The readers of HTML and CSV have rules of their own.
  const text = format === 'html' || format === 'csv' ? given : withLineFeeds(given)
  const chunks: Chunk[] = []
  let section: Block[] = []
  const slice = new Slice()
  const flush = async (): Promise<void> => {
    if (section.length > 0) {
      const cut = await chunkSection(text, format, section, options, countTokens, chunks.length)
      for (const chunk of cut) chunks.push(chunk)
    }
    section = []
    slice.restart()
  }
  let sectionChars = 0
  for (const whole of format === 'html' ? await readHtml(text) : READERS[format](text)) {
    if (whole === null) {
      if (slice.isOver) await slice.end()
      continue
    }
    for (const block of splitBlock(whole)) {
      const isOther = section[0] !== undefined && section[0].headings.join('\n') !== block.headings.join('\n')
      if (isOther || sectionChars + block.text.length > MAX_SECTION_CHARS) {
        await flush()
        sectionChars = 0
      }
      section.push(block)
      sectionChars += block.text.length
      if (slice.isOver) await slice.end()
    }
  }
  await flush()
  return chunks
}

/** A block as blocks of at most MAX_SECTION_CHARS. */
function* splitBlock(block: Block): Generator<Block> {
  if (block.text.length <= MAX_SECTION_CHARS) yield block
  else if (block.rows) yield* splitTable(block, block.rows)
  else yield* splitByLength(block, MAX_SECTION_CHARS)
}

function* splitTable(block: Block, rows: readonly TableRow[]): Generator<Block> {
  let part: TableRow[] = []
  let numChars = 0
  const taken = (): Block[] => {
    const [first, last] = [part[0], part.at(-1)]
    if (!first || !last) return []
    const text = part.map((row) => row.text).join('\n')
    return [{ ...block, text, rows: part, start: first.start, end: last.end }]
  }
  for (const row of rows.flatMap((whole) => splitByLength(whole, MAX_SECTION_CHARS))) {
    if (numChars + row.text.length > MAX_SECTION_CHARS) {
      yield* taken()
      part = []
      numChars = 0
    }
    part.push(row)
    numChars += row.text.length
  }
  yield* taken()
}

async function chunkSection(
  source: string,
  format: DocumentFormat,
  section: readonly Block[],
  { maxTokens, overlapTokens }: ChunkingOptions,
  countTokens: CountTokens,
  firstChunk: number,
): Promise<Chunk[]> {
  const anchor = section[0]?.anchor
  const { headings, numTokens: numHeadingTokens } = await fitHeadings(
    section[0]?.headings ?? [],
    maxTokens,
    countTokens,
  )
  const budget = maxTokens - numHeadingTokens
  const maxChars = maxTokens * MAX_CHARS_PER_TOKEN
  const units = await toUnits(section, format, { budget, maxChars }, countTokens)
  const lengthOf: LengthOf = (unit, before) =>
    unit.isRendered ? unit.text.length + BLOCK_SEPARATOR.length : unit.end - (before?.end ?? unit.start)
  return pack(units, { budget, overlapTokens, maxChars, lengthOf }).map(([from, to], i) => {
    const taken = units.slice(from, to)
    const start = taken[0]?.start ?? 0
    const end = taken.at(-1)?.end ?? start
    // Other text is shown as in the source.
    const text = taken.some(({ isRendered }) => isRendered) ? joinUnits(taken) : source.slice(start, end)
    const numTokens = numHeadingTokens + taken.reduce((sum, unit) => sum + unit.numTokens, 0)
    return { chunk: firstChunk + i, text, headings, ...(anchor !== undefined && { anchor }), start, end, numTokens }
  })
}

/** The number of characters that a unit adds to a chunk. @param before the unit before it in the chunk, if any */
type LengthOf = (unit: Unit, before: Unit | undefined) => number

const BLOCK_SEPARATOR = '\n\n'

const joinUnits = (units: readonly Unit[]): string =>
  units.reduce((joined, unit, i) => {
    const before = units[i - 1]
    if (!before) return unit.text
    return (
      joined +
      (before.block === unit.block ? (unit.repeatable && !joined.endsWith('\n') ? ' ' : '\n') : BLOCK_SEPARATOR) +
      unit.text
    )
  }, '')

/** The innermost headings that fit into their share of a chunk. */
async function fitHeadings(
  headings: readonly string[],
  maxTokens: number,
  countTokens: CountTokens,
): Promise<{ readonly headings: readonly string[]; readonly numTokens: number }> {
  const counts = headings.length === 0 ? [] : await countTokens(headings)
  let numTokens = 0
  let first = headings.length
  while (first > 0) {
    // Plus one token for the separator.
    const cost = (counts[first - 1] ?? 0) + 1
    if (numTokens + cost > maxTokens * MAX_HEADING_SHARE) break
    numTokens += cost
    first--
  }
  return { headings: headings.slice(first), numTokens }
}

/** Blocks as units with their token counts, each within the budget. */
async function toUnits(
  blocks: readonly Block[],
  format: DocumentFormat,
  { budget, maxChars }: { readonly budget: number; readonly maxChars: number },
  countTokens: CountTokens,
): Promise<Unit[]> {
  const codes = blocks.filter(({ kind, text }) => kind === 'code' && text.length <= maxChars)
  const codeTokens = codes.length === 0 ? [] : await countTokens(codes.map(({ text }) => text))
  const whole = new Set(codes.filter((_, i) => (codeTokens[i] ?? 0) <= budget))
  const pieces = blocks.flatMap((block, index) =>
    (whole.has(block) ? [block] : (block.rows ?? piecesOf(block))).flatMap(({ text, start, end }) => {
      const isRendered = format === 'html' || block.rows !== undefined
      return splitByLength({ text, start, end, block: index, repeatable: block.kind === 'prose', isRendered }, maxChars)
    }),
  )
  const counts = await countTokens(pieces.map(({ text }) => text))
  const units: Unit[] = []
  for (const [i, piece] of pieces.entries()) {
    const numTokens = counts[i] ?? 0
    if (numTokens <= budget) units.push({ ...piece, numTokens })
    else units.push(...(await splitLong(piece, budget, numTokens, countTokens)))
  }
  return units.filter(({ numTokens }) => numTokens > 0)
}

type Piece = Omit<Unit, 'numTokens'>

/** A part of a text. The offsets are proportional, because an HTML block is shorter than its source. */
function partOf<Text extends TableRow>(whole: Text, from: number, to: number): Text {
  const scale = (whole.end - whole.start) / Math.max(1, whole.text.length)
  const [start, end] = [whole.start + Math.round(from * scale), whole.start + Math.round(to * scale)]
  return { ...whole, text: whole.text.slice(from, to), start, end }
}

/** The sentences of prose, or the lines of another block. */
function piecesOf(block: Block): readonly TableRow[] {
  const borders = [...block.text.matchAll(block.kind === 'prose' ? SENTENCE_END : /\n/g)].map(
    (match) => match.index + match[0].length,
  )
  return [...borders, block.text.length].flatMap((to, i, all) => {
    const from = all[i - 1] ?? 0
    const { length } = block.text.slice(from, to).trimEnd()
    return length > 0 ? [partOf(block, from, from + length)] : []
  })
}

/** Where to cut a text so that its first part has at most `to` characters: after a space in the second half of it if there is one, and never inside a surrogate pair. */
function cutBefore(text: string, to: number): number {
  const space = text.slice(to >> 1, to).lastIndexOf(' ')
  if (space >= 0) return (to >> 1) + space + 1
  if (!/[\uDC00-\uDFFF]/.test(text.charAt(to))) return to
  return to > 1 ? to - 1 : to + 1
}

/** A text as parts of at most `maxChars` each. */
function splitByLength<Text extends TableRow>(whole: Text, maxChars: number): Text[] {
  const parts: Text[] = []
  let from = 0
  while (from < whole.text.length) {
    const window = whole.text.slice(from, from + maxChars + 1)
    const to = from + (window.length <= maxChars ? window.length : cutBefore(window, maxChars))
    parts.push(partOf(whole, from, to))
    from = to
  }
  return parts
}

/** Cuts a piece that is longer than a chunk between words, or inside an endless word. */
async function splitLong(piece: Piece, budget: number, numTokens: number, countTokens: CountTokens): Promise<Unit[]> {
  const { length } = piece.text
  const cut = cutBefore(piece.text, length >> 1)
  // A single character with more tokens than a chunk has: the model cuts it.
  if (numTokens <= budget || cut === 0 || cut === length) return [{ ...piece, numTokens: Math.min(numTokens, budget) }]
  const halves = [partOf(piece, 0, cut), partOf(piece, cut, length)]
  const counts = await countTokens(halves.map(({ text }) => text))
  const split: Unit[] = []
  for (const [i, half] of halves.entries()) split.push(...(await splitLong(half, budget, counts[i] ?? 0, countTokens)))
  return split
}

interface Packing {
  /** Tokens of a chunk, at most. */
  readonly budget: number
  readonly overlapTokens: number
  /** Characters of a chunk, at most. */
  readonly maxChars: number
  readonly lengthOf: LengthOf
}

/** Ranges [from, to) of units, each within the budget: filled greedily, and cut between blocks unless that leaves a small chunk. */
function pack(units: readonly Unit[], packing: Packing): (readonly [number, number])[] {
  const { budget, maxChars, lengthOf } = packing
  const ranges: (readonly [number, number])[] = []
  let from = 0
  /** The first unit that is in no chunk yet. */
  let fresh = 0
  while (fresh < units.length) {
    let to = from
    let used = 0
    let chars = 0
    for (let unit = units[to]; unit; unit = units[to]) {
      const length = lengthOf(unit, to > from ? units[to - 1] : undefined)
      if (to > fresh) {
        if (used + unit.numTokens > budget || chars + length > maxChars) break
        if (startsUnfitBlock(units, to, budget - used) && used >= budget * MIN_FILL) break
      }
      used += unit.numTokens
      chars += length
      to++
    }
    ranges.push([from, to])
    from = overlapStart(units, ranges.at(-1)?.[0] ?? 0, to, packing)
    fresh = to
  }
  return ranges
}

/** Whether a block begins at this unit and does not fit into the tokens that are left. */
function startsUnfitBlock(units: readonly Unit[], at: number, left: number): boolean {
  const block = units[at]?.block
  if (units[at - 1]?.block === block) return false
  let tokens = 0
  for (let i = at; i < units.length && units[i]?.block === block && tokens <= left; i++)
    tokens += units[i]?.numTokens ?? 0
  return tokens > left
}

/** Where the next chunk begins: some sentences before `to`, but after the start of the last chunk, and so that the next unit fits. */
function overlapStart(
  units: readonly Unit[],
  from: number,
  to: number,
  { budget, overlapTokens, maxChars, lengthOf }: Packing,
): number {
  const next = units[to]
  if (!next) return to
  const room = Math.min(overlapTokens, budget - next.numTokens)
  let start = to
  let tokens = 0
  let chars = lengthOf(next, units[to - 1])
  for (let unit = units[to - 1]; unit?.repeatable && start - 1 > from; unit = units[start - 1]) {
    tokens += unit.numTokens
    chars += lengthOf(unit, units[start - 2])
    if (tokens > room || chars > maxChars) break
    start--
  }
  return start
}
