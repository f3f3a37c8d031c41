/** Kinds of files: recognised by name, with the sizes that are read. */
import { basename, extname } from 'node:path'
import type { DocumentFormat } from './blocks.ts'

/** How a file is read. A file of kind `jsonl` contains many documents. */
export type FileKind = DocumentFormat | 'jsonl' | 'pdf' | 'docx'

/** UTF-16 units of a document. */
export const MAX_DOCUMENT_LENGTH = 16 * 1024 * 1024

/** JSON lines may be many documents; PDF and DOCX consist mostly of images and fonts. */
const SIZE_FACTORS: Partial<Record<FileKind, number>> = { jsonl: 16, pdf: 16, docx: 4 }

/** Bytes of a file that is read: a byte of UTF-8 is at most one UTF-16 unit. */
export const maxFileBytes = (kind: FileKind): number => MAX_DOCUMENT_LENGTH * (SIZE_FACTORS[kind] ?? 1)

const KINDS: Readonly<Record<string, FileKind>> = {
  '.md': 'markdown',
  '.markdown': 'markdown',
  '.mdx': 'markdown',
  '.txt': 'text',
  '.text': 'text',
  '.rst': 'rst',
  '.adoc': 'asciidoc',
  '.asciidoc': 'asciidoc',
  '.org': 'org',
  '.tex': 'text',
  '.html': 'html',
  '.htm': 'html',
  '.xhtml': 'html',
  '.csv': 'csv',
  '.tsv': 'csv',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.pdf': 'pdf',
  '.docx': 'docx',
}

/** The supported kinds, for messages. */
export const READ_KINDS =
  '.md, .txt, .rst, .adoc, .html, .csv, .tsv, .jsonl, .pdf and .docx files, any of them as .gz, and text files without an extension'

/** Names of texts without an extension, or with one that is not a file type, such as README.Debian. */
const TEXT_NAME =
  /^(?:readme|copyright|copying|licen[cs]e|notice|news|changes|changelog|history|authors|contributors|credits|thanks|todo|faq|install|upgrading|hacking|bugs|maintainers)(?:\.|$)/i

/** Language tags and character sets after the extension of web servers' files, such as index.html.ja.utf8. */
const WEB_SUFFIX =
  /^\.(?:[a-z]{2}(?:-[a-z]{2,4})?|utf-?8|iso-?8859-?\d{1,2}|euc-?[a-z]{2}|shift_?jis|koi8-?r|big5|gb2312)$/i

/** The file name in a URL or path. In a URL, `?` and `#` end it; in a path, they are part of it. */
function nameOf(source: string): string {
  const isUrl = /^[a-z][a-z0-9+.-]*:\/\//i.test(source)
  return basename(isUrl ? source.replace(/[?#][^]*$/, '') : source)
}

/** Whether a path or URL names a file packed with gzip. */
export const isGzip = (source: string): boolean => /\.gz$/i.test(nameOf(source)) && !/\.tar\.gz$/i.test(nameOf(source))

/** The kind of the file that a path or URL names; null if it is not a document. */
export function fileKind(source: string): FileKind | null {
  let name = nameOf(source)
  if (isGzip(source)) name = name.slice(0, -'.gz'.length)
  const byExtension = KINDS[extname(name).toLowerCase()]
  if (byExtension) return byExtension
  if (TEXT_NAME.test(name)) return 'text'
  if (!name.includes('.', 1)) return 'text'
  let rest = name
  while (WEB_SUFFIX.test(extname(rest))) {
    rest = rest.slice(0, -extname(rest).length)
    if (KINDS[extname(rest).toLowerCase()] === 'html') return 'html'
  }
  return null
}

/** The format of a text by its source; plain text if the source does not show it. */
export function formatOfText(source: string): DocumentFormat {
  const kind = fileKind(source)
  return kind === null || kind === 'jsonl' || kind === 'pdf' || kind === 'docx' ? 'text' : kind
}
