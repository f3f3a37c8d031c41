/** Bytes as text, in the encoding that they declare. */

/** A file that is not what its name says. The message is the reason for people. */
export class UnreadableError extends Error {
  override readonly name = 'UnreadableError'
}

const MARKS: readonly (readonly [mark: readonly number[], encoding: string])[] = [
  [[0xef, 0xbb, 0xbf], 'utf-8'],
  [[0xff, 0xfe], 'utf-16le'],
  [[0xfe, 0xff], 'utf-16be'],
]

const markedEncoding = (bytes: Uint8Array): string | null =>
  MARKS.find(([mark]) => mark.every((byte, i) => bytes[i] === byte))?.[1] ?? null

/** Plain text and Markdown: UTF-8, or UTF-16 with a byte order mark. @throws UnreadableError */
export function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder(markedEncoding(bytes) ?? 'utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new UnreadableError('expected UTF-8 text')
  }
}

/** Bytes that a browser looks through for a declaration. */
const PRESCAN_BYTES = 1024

/**
 * HTML: the byte order mark, then what the response's header says, then the page's own declaration, then UTF-8 if it is that, else the
 * western European encoding that browsers fall back to.
 */
export function decodeHtml(bytes: Uint8Array, charset: string | null = null): string {
  const declared = markedEncoding(bytes) ?? known(charset) ?? declaredEncoding(bytes)
  if (declared) return new TextDecoder(declared).decode(bytes)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return new TextDecoder('windows-1252').decode(bytes)
  }
}

function declaredEncoding(bytes: Uint8Array): string | null {
  const head = new TextDecoder('latin1').decode(bytes.subarray(0, PRESCAN_BYTES)).replaceAll(/<!--[^]*?-->/g, '')
  const xml = /^\s*<\?xml[^>]*\bencoding\s*=\s*["']([^"']+)["']/i.exec(head)?.[1]
  const meta = /<meta\b[^>]*\bcharset\s*=\s*["']?\s*([^\s"'/>;]+)/i.exec(head)?.[1]
  const found = known(meta ?? null) ?? known(xml ?? null)
  // A page whose declaration can be read as ASCII is not in UTF-16.
  return found?.startsWith('utf-16') ? 'utf-8' : found
}

/** The encoding's canonical name; null for an unknown one. */
function known(label: string | null): string | null {
  if (label === null) return null
  try {
    return new TextDecoder(label).encoding
  } catch {
    return null
  }
}
