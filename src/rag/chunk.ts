/** Cutting documents into chunks: by structure first, by token counts within. */
import type { Block, DocumentFormat, ReadStep, TableRow } from './blocks.ts'
import { asciidocBlocks } from './asciidoc.ts'
import { csvBlocks } from './csv.ts'
import { htmlBlocks } from './html.ts'
import { markdownBlocks } from './markdown.ts'
import { orgBlocks } from './org.ts'
import { pageBlocks, plainBlocks } from './plain.ts'
import { restructuredTextBlocks } from './restructured-text.ts'
import { SENTENCE_END } from './sentences.ts'
import { Slice } from './slice.ts'
import type { Chunk } from './vector-index.ts'

export interface ChunkingOptions {
  /** Tokens of a chunk with its headings, at most: what the embedding model reads. */
  readonly maxTokens: number
  /** Tokens that a chunk repeats of the one before it in the same section, at most. */
  readonly overlapTokens: number
}

/** Token counts of texts by the embedding model, special tokens left out. */
export type CountTokens = (texts: readonly string[]) => Promise<readonly number[]>

/** A piece that is never cut: a sentence, a line, a whole code block. */
interface Unit {
  readonly start: number
  readonly end: number
  readonly text: string
  readonly numTokens: number
  /** Index of its block, and whether a chunk may begin with it again. */
  readonly block: number
  readonly repeatable: boolean
  /** Whether its text is not the source's own: markup is taken away, or names are added. */
  readonly isRendered: boolean
}

/** What a chunk is embedded and shown to the language model as: text alone often does not say what it is about. */
export const contextualText = (chunk: { readonly headings: readonly string[]; readonly text: string }): string =>
  chunk.headings.length === 0 ? chunk.text : `${chunk.headings.join(' > ')}\n${chunk.text}`

/** Above this fill, the next block starts a new chunk. */
const MIN_FILL = 0.5
/** Share of a chunk that its headings may take. */
const MAX_HEADING_SHARE = 0.25
/**
 * UTF-16 units of a chunk for each token it may have. Prose has about five, indented code up to ten; a word that is one unknown token
 * can have a million, and every reader of the chunk after the embedding model would pay for them.
 */
const MAX_CHARS_PER_TOKEN = 16
/**
 * UTF-16 units that are cut at a time, on this thread and by one call to the models' process, where queries wait behind it. A section, or a
 * block, that is longer is cut as several.
 */
const MAX_SECTION_CHARS = 32 * 1024

/**
 * Cuts a document. Chunks never span sections; a code block stays whole unless it alone is longer than a chunk; sentences are cut
 * only when one is longer than a chunk. Yields to the event loop every few milliseconds.
 */
export async function chunkDocument(
  text: string,
  format: DocumentFormat,
  options: ChunkingOptions,
  countTokens: CountTokens,
  readHtml: ReadHtml = htmlBlocks,
): Promise<readonly Chunk[]> {
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
  for (const whole of await blocksOf(text, format, readHtml)) {
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

type ReadHtml = (html: string) => Iterable<Block> | Promise<Iterable<Block>>

function blocksOf(
  text: string,
  format: DocumentFormat,
  readHtml: ReadHtml,
): Iterable<ReadStep> | Promise<Iterable<ReadStep>> {
  switch (format) {
    case 'markdown':
      return markdownBlocks(text)
    case 'html':
      return readHtml(text)
    case 'asciidoc':
      return asciidocBlocks(text)
    case 'rst':
      return restructuredTextBlocks(text)
    case 'org':
      return orgBlocks(text)
    case 'text':
      return plainBlocks(text)
    case 'csv':
      return csvBlocks(text)
    case 'pages':
      return pageBlocks(text)
    default:
      throw new Error(`unknown document format ${String(format)}`)
  }
}

/** A block as blocks of at most MAX_SECTION_CHARS. */
function* splitBlock(block: Block): Generator<Block> {
  if (block.text.length <= MAX_SECTION_CHARS) yield block
  else if (block.rows) yield* splitTable(block, block.rows)
  else {
    const piece = { ...block, block: 0, repeatable: false, isRendered: false }
    for (const { text, start, end } of splitByLength(piece, MAX_SECTION_CHARS)) yield { ...block, text, start, end }
  }
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
  const pieces = rows.flatMap((row) =>
    splitByLength({ ...row, block: 0, repeatable: false, isRendered: true }, MAX_SECTION_CHARS),
  )
  for (const row of pieces) {
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
    // Markdown and plain text are shown as in the source; HTML and tables have no such form.
    const text = taken.some(({ isRendered }) => isRendered) ? joinUnits(taken) : source.slice(start, end)
    const numTokens = numHeadingTokens + taken.reduce((sum, unit) => sum + unit.numTokens, 0)
    return { chunk: firstChunk + i, text, headings, ...(anchor !== undefined && { anchor }), start, end, numTokens }
  })
}

/** Characters that a unit adds to a chunk behind another one, or as its first. */
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
    // One more for the separator.
    const cost = (counts[first - 1] ?? 0) + 1
    if (numTokens + cost > maxTokens * MAX_HEADING_SHARE) break
    numTokens += cost
    first--
  }
  return { headings: headings.slice(first), numTokens }
}

/** Blocks as units that fit into the budget each, with their token counts. */
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

function piecesOf(block: Block): readonly Pick<Unit, 'start' | 'end' | 'text'>[] {
  const borders = [...block.text.matchAll(block.kind === 'prose' ? SENTENCE_END : /\n/g)].map(
    (match) => match.index + match[0].length,
  )
  // In HTML a block is shorter than its source: borders inside it are known only in proportion.
  const scale = (block.end - block.start) / Math.max(1, block.text.length)
  return [...borders, block.text.length]
    .map((to, i, all) => [all[i - 1] ?? 0, to] as const)
    .filter(([from, to]) => block.text.slice(from, to).trim() !== '')
    .map(([from, to]) => {
      const text = block.text.slice(from, to).trimEnd()
      return {
        text,
        start: block.start + Math.round(from * scale),
        end: block.start + Math.round((from + text.length) * scale),
      }
    })
}

/** Where to cut a text so that its first part has `to` characters or fewer: behind a space if there is one late in it, and never inside a surrogate pair. */
function cutBefore(text: string, to: number): number {
  const space = text.slice(to >> 1, to).lastIndexOf(' ')
  if (space >= 0) return (to >> 1) + space + 1
  if (!/[\uDC00-\uDFFF]/.test(text.charAt(to))) return to
  return to > 1 ? to - 1 : to + 1
}

/** A piece as pieces of at most `maxChars` each. */
function splitByLength(piece: Piece, maxChars: number): Piece[] {
  const scale = (piece.end - piece.start) / Math.max(1, piece.text.length)
  const parts: Piece[] = []
  let from = 0
  while (from < piece.text.length) {
    const window = piece.text.slice(from, from + maxChars + 1)
    const to = from + (window.length <= maxChars ? window.length : cutBefore(window, maxChars))
    const [start, end] = [from, to].map((at) => piece.start + Math.round(at * scale))
    parts.push({ ...piece, text: piece.text.slice(from, to), start: start ?? piece.start, end: end ?? piece.end })
    from = to
  }
  return parts
}

/** Cuts a piece that is longer than a chunk between words, or inside a word that has no end. */
async function splitLong(piece: Piece, budget: number, numTokens: number, countTokens: CountTokens): Promise<Unit[]> {
  const cut = cutBefore(piece.text, piece.text.length >> 1)
  // One character that is more tokens than a chunk has: the model cuts it.
  if (numTokens <= budget || cut === 0 || cut === piece.text.length)
    return [{ ...piece, numTokens: Math.min(numTokens, budget) }]
  const scale = (piece.end - piece.start) / piece.text.length
  const border = piece.start + Math.round(cut * scale)
  const halves: readonly Piece[] = [
    { ...piece, text: piece.text.slice(0, cut), end: border },
    { ...piece, text: piece.text.slice(cut), start: border },
  ]
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

/** Ranges [from, to) of units, each within the budget, filled greedily and cut between blocks where that leaves no small chunk. */
function pack(units: readonly Unit[], packing: Packing): (readonly [number, number])[] {
  const { budget, maxChars, lengthOf } = packing
  const ranges: (readonly [number, number])[] = []
  let from = 0
  /** First unit that no chunk has yet. */
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

/** Whether a block begins at this unit that does not fit into what is left. */
function startsUnfitBlock(units: readonly Unit[], at: number, left: number): boolean {
  const block = units[at]?.block
  if (units[at - 1]?.block === block) return false
  let tokens = 0
  for (let i = at; i < units.length && units[i]?.block === block && tokens <= left; i++)
    tokens += units[i]?.numTokens ?? 0
  return tokens > left
}

/** Where the next chunk begins: some sentences before `to`, never the whole last chunk, and never so many that the next unit finds no room. */
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
