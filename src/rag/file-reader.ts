/** The text of a file of any supported kind, read in the calling thread; document-reader.ts does so in a thread of its own. */
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import type { DocumentFormat } from './blocks.ts'
import { decodeHtml, decodeText } from './decode.ts'
import { UnreadableError } from './errors.ts'
import { maxFileBytes, type FileKind } from './formats.ts'
import { readPdf } from './pdf.ts'

export interface FileContent {
  readonly text: string
  /** `jsonl`: the text contains many documents. */
  readonly format: DocumentFormat | 'jsonl'
  /** A human-readable warning about how the file was read; null: none. */
  readonly warning: string | null
}

export interface FileToRead {
  readonly bytes: Uint8Array
  /** null: unknown. Such a file is read only if it is UTF-8 text. */
  readonly kind: FileKind | null
  readonly isGzip: boolean
}

const unpack = promisify(gunzip)

/** Reads a file's bytes. @throws UnreadableError */
export async function readContent({ bytes: packed, kind, isGzip }: FileToRead): Promise<FileContent> {
  const bytes = isGzip ? await unzip(packed, maxFileBytes(kind ?? 'text')) : packed
  if (bytes.byteLength === 0) throw new UnreadableError('the file is empty')
  switch (kind) {
    case 'pdf': {
      const { text, scannedPages } = await readPdf(new Uint8Array(bytes))
      const pages = `page${scannedPages.length > 1 ? 's' : ''} ${ranges(scannedPages)}`
      const warning =
        scannedPages.length > 0 ? `${pages}: no text, only a scanned image; the other pages are read` : null
      return { text, format: 'pages', warning }
    }
    case 'docx':
      return { text: withHeaderRows(await docxAsHtml(bytes)), format: 'html', warning: null }
    case 'html':
      return { text: decodeHtml(bytes), format: 'html', warning: null }
    default: {
      const { text, isGuessed } = decodeText(bytes, kind !== null)
      return {
        text,
        format: kind ?? 'text',
        warning: isGuessed ? 'the text is not UTF-8; it is read as Windows-1252' : null,
      }
    }
  }
}

async function unzip(packed: Uint8Array, maxBytes: number): Promise<Uint8Array> {
  try {
    return await unpack(packed, { maxOutputLength: maxBytes })
  } catch (error) {
    const isTooLarge = error instanceof RangeError
    throw new UnreadableError(
      isTooLarge ? `expected at most ${maxBytes} bytes unpacked, found more` : 'expected a gzip file',
      { cause: error },
    )
  }
}

async function docxAsHtml(bytes: Uint8Array): Promise<string> {
  const { default: mammoth } = await import('mammoth')
  try {
    // Images would become base64 in the text.
    const ignoreImages = mammoth.images.imgElement(async () => ({ src: '' }))
    const { value } = await mammoth.convertToHtml({ buffer: Buffer.from(bytes) }, { convertImage: ignoreImages })
    return value
  } catch (error) {
    throw new UnreadableError('the DOCX is damaged', { cause: error })
  }
}

/** UTF-16 units of a cell that may name a column or be a number. */
const MAX_SHORT_CELL = 80

/**
 * Marks the header cells of Word's tables: the first row of each innermost table, if it names the columns. Finds tables by their tags, because
 * a pattern over a table of millions of characters overflows the stack.
 *
 * @param html with the tags `<table>`, `<tr>` and `<td …>` as mammoth writes them
 */
export function withHeaderRows(html: string): string {
  const parts: string[] = []
  let done = 0
  for (let open = html.indexOf('<table>'); open >= 0; open = html.indexOf('<table>', done)) {
    const close = html.indexOf('</table>', open)
    if (close < 0) break
    const innermost = html.lastIndexOf('<table>', close)
    parts.push(html.slice(done, innermost), withHeaderRow(html.slice(innermost, close)))
    done = close
  }
  parts.push(html.slice(done))
  return parts.join('')
}

/** Word rarely marks a header row: it is recognised by bold text, or by how it differs from the rows below. */
function withHeaderRow(table: string): string {
  if (table.includes('<th')) return table
  const rows = table.split('</tr>').filter((row) => row.includes('<tr>'))
  const [head = '', ...rest] = rows
  const cells = rows.map((row) => [...row.matchAll(/<td[^>]*>([^]*?)<\/td>/g)].map(([, cell = '']) => cell))
  const [names = [], ...values] = cells
  return rest.length > 0 && isHeaderRow(names, values)
    ? table.replace(head, () => head.replaceAll(/<(\/?)td\b/g, '<$1th'))
    : table
}

const textOf = (cell: string): string => cell.replaceAll(/<[^>]*>/g, '').trim()

/** Whether a cell is a number, perhaps with a unit. Two patterns, since a single one takes quadratic time. */
function isNumber(cell: string | undefined): boolean {
  const text = textOf(cell ?? '')
  return text.length <= MAX_SHORT_CELL && /\d/.test(text) && /^[-+\d.,:%€$£ ]+$/.test(text)
}

function isHeaderRow(names: readonly string[], rows: readonly (readonly string[])[]): boolean {
  const isBold = (cell: string): boolean => cell.includes('<strong>')
  const texts = names.map(textOf)
  if (names.length < 2 || texts.some((text) => text.length > MAX_SHORT_CELL) || names.some(isNumber)) return false
  if (names.every((name) => name === '' || isBold(name)) && !rows.every((row) => row.every(isBold))) return true
  // Either a column has only numbers below a word, or there are three columns, unlike in a list of names and values.
  const isMeasured = names.some((_, column) => rows.every((row) => isNumber(row[column])))
  return texts.every((text) => text !== '') && (isMeasured || names.length > 2)
}

/** Ascending numbers as "1, 3-5". */
function ranges(numbers: readonly number[]): string {
  const parts: [number, number][] = []
  for (const number of numbers) {
    const last = parts.at(-1)
    if (last && last[1] === number - 1) last[1] = number
    else parts.push([number, number])
  }
  return parts.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ')
}
