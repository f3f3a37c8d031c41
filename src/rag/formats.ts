/** What a file is, by its name. */
import { basename, extname } from 'node:path'
import type { DocumentFormat } from './blocks.ts'

/** How a file is read; `jsonl` is many documents. */
export type FileKind = DocumentFormat | 'jsonl' | 'pdf' | 'docx'

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

/** For messages. */
export const READ_KINDS =
  '.md, .txt, .rst, .adoc, .html, .csv, .tsv, .jsonl, .pdf and .docx files, any of them as .gz, and text files without an extension'

/** Texts that are named without an extension, or with one that says something else, such as README.Debian. */
const TEXT_NAME =
  /^(?:readme|copyright|copying|licen[cs]e|notice|news|changes|changelog|history|authors|contributors|credits|thanks|todo|faq|install|upgrading|hacking|bugs|maintainers)(?:\.|$)/i

/** Language tags and character sets that web servers' files carry behind their extension: index.html.ja.utf8. */
const WEB_SUFFIX =
  /^\.(?:[a-z]{2}(?:-[a-z]{2,4})?|utf-?8|iso-?8859-?\d{1,2}|euc-?[a-z]{2}|shift_?jis|koi8-?r|big5|gb2312)$/i

/** The part of a URL or path that names the file: `?` and `#` begin something else in a URL, and are letters in a path. */
function nameOf(source: string): string {
  const isUrl = /^[a-z][a-z0-9+.-]*:\/\//i.test(source)
  return basename(isUrl ? source.replace(/[?#][^]*$/, '') : source)
}

/** Whether what a path or URL names is packed with gzip. */
export const isGzip = (source: string): boolean => /\.gz$/i.test(nameOf(source)) && !/\.tar\.gz$/i.test(nameOf(source))

/** Kind by a path's or URL's name; null when it is not one of a document. */
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

/** The format of a text that came without a file, by what it is called; plain text where that says nothing. */
export function formatOfText(source: string): DocumentFormat {
  const kind = fileKind(source)
  return kind === null || kind === 'jsonl' || kind === 'pdf' || kind === 'docx' ? 'text' : kind
}
