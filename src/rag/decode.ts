/** Bytes as text, in the encoding that they declare or that fits them. */
import { UnreadableError } from './errors.ts'

const MARKS: readonly (readonly [mark: readonly number[], encoding: string])[] = [
  [[0xef, 0xbb, 0xbf], 'utf-8'],
  [[0xff, 0xfe], 'utf-16le'],
  [[0xfe, 0xff], 'utf-16be'],
]

const markedEncoding = (bytes: Uint8Array): string | null =>
  MARKS.find(([mark]) => mark.every((byte, i) => bytes[i] === byte))?.[1] ?? null

/** Control characters that occur in binary files but not in text, and C1 controls, which Windows-1252 leaves undefined. */
const BINARY = /(?![\t\n\f\r])\p{Cc}/u

/**
 * Text without a declared encoding: UTF-8 or UTF-16 with a byte order mark, else UTF-8, else Windows-1252, which contains Latin-1.
 * @param mayGuess whether bytes that are not UTF-8 may be read as Windows-1252
 * @returns the text, and whether its encoding is a guess
 * @throws UnreadableError for bytes that are not text, and for damaged UTF-8
 */
export function decodeText(bytes: Uint8Array, mayGuess = true): { readonly text: string; readonly isGuessed: boolean } {
  const marked = markedEncoding(bytes)
  const text = decodeValid(bytes, marked ?? 'utf-8')
  if (text !== null) return { text, isGuessed: false }
  const guessed = marked === null && mayGuess ? decodeWindows1252(bytes) : null
  if (guessed === null || BINARY.test(guessed) || isMostlyUtf8(bytes)) throw new UnreadableError('expected UTF-8 text')
  return { text: guessed, isGuessed: true }
}

/** Whether most characters beyond ASCII are valid UTF-8, which does not happen by chance: the file is damaged or cut off. */
function isMostlyUtf8(bytes: Uint8Array): boolean {
  let [numValid, numInvalid] = [0, 0]
  const text = new TextDecoder().decode(bytes)
  // A loop over code units: a large file has millions of such characters, too many for an object each.
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit < 0x80) continue
    if (unit === 0xfffd) numInvalid++
    // The second half of a pair belongs to the character before it.
    else if (unit < 0xdc00 || unit > 0xdfff) numValid++
  }
  return numValid > numInvalid
}

/** The text; null for bytes that are not valid in the encoding. */
function decodeValid(bytes: Uint8Array, encoding: string): string | null {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes)
  } catch {
    return null
  }
}

/** The characters of 0x80 to 0x9F; undefined ones are C1 controls (encoding.spec.whatwg.org). */
const WINDOWS_1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8DŽ\x8F\x90‘’“”•–—˜™š›œ\x9DžŸ'

/** For TextDecoder, which decodes Windows-1252 as Latin-1 in Node.js 20. */
const decodeWindows1252 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    .toString('latin1')
    .replaceAll(/[\x80-\x9F]/g, (control) => WINDOWS_1252.charAt(control.charCodeAt(0) - 0x80))

/** Bytes in which a browser looks for a declaration. */
const PRESCAN_BYTES = 1024

/**
 * HTML in the encoding of its byte order mark or of its own declaration. Without either, in UTF-8 if the bytes are valid, else in Windows-1252,
 * as browsers do.
 */
export function decodeHtml(bytes: Uint8Array): string {
  const declared = markedEncoding(bytes) ?? declaredEncoding(bytes)
  if (declared === 'windows-1252') return decodeWindows1252(bytes)
  if (declared) return new TextDecoder(declared).decode(bytes)
  return decodeValid(bytes, 'utf-8') ?? decodeWindows1252(bytes)
}

function declaredEncoding(bytes: Uint8Array): string | null {
  const head = new TextDecoder('latin1').decode(bytes.subarray(0, PRESCAN_BYTES)).replaceAll(/<!--[^]*?-->/g, '')
  const xml = /^\s*<\?xml[^>]*\bencoding\s*=\s*["']([^"']+)["']/i.exec(head)?.[1]
  const meta = /<meta\b[^>]*\bcharset\s*=\s*["']?\s*([^\s"'/>;]+)/i.exec(head)?.[1]
  const found = known(meta) ?? known(xml)
  // A declaration that can be read as ASCII is not in UTF-16.
  return found?.startsWith('utf-16') ? 'utf-8' : found
}

/** The encoding's canonical name; null for an unknown one. */
function known(label: string | undefined): string | null {
  if (label === undefined) return null
  try {
    return new TextDecoder(label).encoding
  } catch {
    return null
  }
}
