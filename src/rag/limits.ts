/** How large documents and their files may be. */
import type { FileKind } from './formats.ts'

/** UTF-16 units of a document. */
export const MAX_DOCUMENT_LENGTH = 16 * 1024 * 1024

/** A UTF-8 byte is at most one UTF-16 unit. JSON lines may be many documents; PDF and DOCX are mostly pictures and fonts. */
export const MAX_FILE_BYTES: Readonly<Record<FileKind, number>> = {
  markdown: MAX_DOCUMENT_LENGTH,
  asciidoc: MAX_DOCUMENT_LENGTH,
  rst: MAX_DOCUMENT_LENGTH,
  org: MAX_DOCUMENT_LENGTH,
  text: MAX_DOCUMENT_LENGTH,
  html: MAX_DOCUMENT_LENGTH,
  csv: MAX_DOCUMENT_LENGTH,
  pages: MAX_DOCUMENT_LENGTH,
  jsonl: 16 * MAX_DOCUMENT_LENGTH,
  pdf: 16 * MAX_DOCUMENT_LENGTH,
  docx: 4 * MAX_DOCUMENT_LENGTH,
}
