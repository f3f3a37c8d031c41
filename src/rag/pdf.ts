/** The text of a PDF, page by page: joins lines into paragraphs and hyphenated words, and reads columns one after the other. */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { UnreadableError } from './errors.ts'
import { PAGE_BREAK } from './plain.ts'

interface PdfText {
  /** The pages, separated by PAGE_BREAK. */
  readonly text: string
  /** The numbers of pages, from 1, with an image but no text. */
  readonly scannedPages: readonly number[]
}

const MAX_PAGES = 10_000

/** Reads a PDF. @throws UnreadableError for a file that is not a PDF, is encrypted, or has no text */
export async function readPdf(bytes: Uint8Array): Promise<PdfText> {
  const { getDocument, OPS, VerbosityLevel } = await import('pdfjs-dist/legacy/build/pdf.mjs')
  const packageFolder = dirname(createRequire(import.meta.url).resolve('pdfjs-dist/package.json'))
  const task = getDocument({
    data: bytes,
    verbosity: VerbosityLevel.ERRORS,
    isEvalSupported: false,
    disableFontFace: true,
    useSystemFonts: false,
    cMapUrl: join(packageFolder, 'cmaps/'),
    cMapPacked: true,
    standardFontDataUrl: join(packageFolder, 'standard_fonts/'),
  })
  try {
    const pdf = await task.promise
    if (pdf.numPages > MAX_PAGES)
      throw new UnreadableError(`expected at most ${MAX_PAGES} pages, found ${pdf.numPages}`)
    const images = new Set<number>([OPS.paintImageXObject, OPS.paintInlineImageXObject, OPS.paintImageMaskXObject])
    const pages: string[] = []
    const scannedPages: number[] = []
    for (let number = 1; number <= pdf.numPages; number++) {
      const page = await pdf.getPage(number)
      const { items } = await page.getTextContent()
      const [left = 0, , right = 0] = page.view
      const text = pageText(
        items.flatMap((item) => ('str' in item ? [toPiece(item)] : [])),
        right - left,
      )
      pages.push(text)
      if (text === '' && (await page.getOperatorList()).fnArray.some((operation) => images.has(operation))) {
        scannedPages.push(number)
      }
      page.cleanup()
    }
    if (pages.every((text) => text === '')) {
      throw new UnreadableError(
        scannedPages.length > 0
          ? `no text, only images on ${scannedPages.length} scanned pages: run text recognition (OCR) over it first`
          : 'no text in it',
      )
    }
    return { text: pages.join(PAGE_BREAK), scannedPages }
  } catch (error) {
    if (error instanceof UnreadableError) throw error
    const name = error instanceof Error ? error.name : ''
    throw new UnreadableError(name === 'PasswordException' ? 'the PDF is encrypted' : 'the PDF is damaged', {
      cause: error,
    })
  } finally {
    await task.destroy()
  }
}

/** A run of text on the page. */
interface Piece {
  readonly text: string
  readonly left: number
  readonly right: number
  /** The height of the baseline above the bottom of the page. */
  readonly y: number
  readonly height: number
}

const toPiece = (item: { str: string; transform: number[]; width: number; height: number }): Piece => {
  const [, , , scale = 0, left = 0, y = 0] = item.transform
  return { text: item.str, left, right: left + item.width, y, height: item.height || Math.abs(scale) || 1 }
}

/** A gap of this many heights between pieces of a line separates segments. */
const SEGMENT_GAP = 1.5
/** A gap of this many heights between pieces is a space. */
const SPACE_GAP = 0.15
/** Lines further apart than this many heights belong to different paragraphs. */
const PARAGRAPH_GAP = 1.9
/** The smallest width of a column as a share of the page. Narrower columns are those of a table, which is read by rows. */
const COLUMN_SHARE = 0.25

/** The text of one page. @param width of the page */
export function pageText(pieces: readonly Piece[], width: number): string {
  const segments = toSegments(pieces.filter(({ text }) => text.trim() !== ''))
  return inReadingOrder(segments, width).map(toParagraphs).filter(Boolean).join('\n\n')
}

/** The pieces of each line joined where there are no wide gaps, from top to bottom. */
function toSegments(pieces: readonly Piece[]): readonly Piece[] {
  const sorted = pieces.toSorted((a, b) => b.y - a.y)
  const segments: Piece[] = []
  let line: Piece[] = []
  const flush = (): void => {
    let open: Piece | undefined
    /** The last character of the previous piece: reading it from the joined text would copy that text. */
    let lastSign = ''
    for (const piece of line.toSorted((a, b) => a.left - b.left)) {
      const gap: number = open === undefined ? Infinity : piece.left - open.right
      if (!open || gap > SEGMENT_GAP * open.height) {
        if (open) segments.push(open)
        open = piece
      } else {
        const isApart: boolean = gap > SPACE_GAP * open.height && !/\s/.test(lastSign) && !/^\s/.test(piece.text)
        open = {
          ...open,
          text: open.text + (isApart ? ' ' : '') + piece.text,
          right: Math.max(open.right, piece.right),
          height: Math.max(open.height, piece.height),
        }
      }
      lastSign = piece.text.slice(-1)
    }
    if (open) segments.push(open)
    line = []
  }
  for (const piece of sorted) {
    const first = line[0]
    if (first && first.y - piece.y > 0.5 * Math.max(first.height, piece.height)) flush()
    line.push(piece)
  }
  flush()
  return segments
}

/** Segments in groups in reading order: those that span the page, and between them the left column before the right one. */
function inReadingOrder(segments: readonly Piece[], width: number): readonly (readonly Piece[])[] {
  const gutter = gutterOf(segments, width)
  if (gutter === null) return [segments]
  const groups: Piece[][] = []
  let [left, right]: [Piece[], Piece[]] = [[], []]
  const flush = (): void => {
    for (const group of [left, right]) if (group.length > 0) groups.push(group)
    left = []
    right = []
  }
  for (const segment of segments) {
    if (segment.right <= gutter) left.push(segment)
    else if (segment.left >= gutter) right.push(segment)
    else {
      flush()
      groups.push([segment])
    }
  }
  flush()
  return groups
}

/** The border between two columns; null for a page with one column. */
function gutterOf(segments: readonly Piece[], width: number): number | null {
  const isWide = (side: readonly Piece[]): boolean => {
    const widths = side.map(({ left, right }) => right - left).sort((a, b) => a - b)
    return widths.length >= 3 && (widths[widths.length >> 1] ?? 0) >= COLUMN_SHARE * width
  }
  // The right column begins where many lines do.
  const starts = new Map<number, number>()
  for (const { left } of segments) starts.set(Math.round(left), (starts.get(Math.round(left)) ?? 0) + 1)
  const [start, count] = [...starts]
    .filter(([left]) => left > 0.35 * width && left < 0.75 * width)
    .reduce((best, entry) => (entry[1] > best[1] ? entry : best), [0, 0])
  if (count < 3) return null
  const at = start - 2
  const before = segments.filter(({ right }) => right <= at)
  const behind = segments.filter(({ left }) => left >= at)
  const numAcross = segments.length - before.length - behind.length
  return isWide(before) && isWide(behind) && numAcross <= segments.length / 3 ? at : null
}

/** A letter and a hyphen: at most three UTF-16 units. */
const HYPHENATED = /\p{L}[-\u2010\u00ad]$/u

/** Lines joined into paragraphs, with empty lines between them. */
function toParagraphs(lines: readonly Piece[]): string {
  const parts: string[] = []
  let before: Piece | null = null
  for (const line of lines) {
    const part = line.text.replaceAll(/\s+/g, ' ').trim()
    const lastPart = parts.at(-1) ?? ''
    if (before) {
      const gap = before.y - line.y
      const height = Math.max(before.height, line.height)
      const isSameLine = gap < 0.5 * height
      const isOtherSize = Math.abs(before.height - line.height) > 0.15 * height
      if (isSameLine) parts.push(' | ')
      else if (gap > PARAGRAPH_GAP * height || gap < 0 || isOtherSize) parts.push('\n\n')
      else if (HYPHENATED.test(lastPart.slice(-3)) && /^\p{Ll}/u.test(part)) parts.splice(-1, 1, lastPart.slice(0, -1))
      else parts.push(isList(part) ? '\n' : ' ')
    }
    parts.push(part)
    before = line
  }
  return parts.join('')
}

const isList = (line: string): boolean => /^(?:[•‣▪–*-]|\(?\d{1,3}[.)])\s/.test(line)
