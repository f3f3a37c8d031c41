// The documents that the embeddings are trained on, as passages: out/passages.jsonl, {id, headings, text} a line. None of them is among the
// yardstick's (bench/lib/rag/corpus.mjs). Needs `npm run build`, the packages of README.md, and the teacher's tokenizer.json as the argument:
//   node documents.mjs "$(python -c 'import teacher; print(teacher.TEACHER_FOLDER)')/tokenizer.json"
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chunkDocument } from '#dist/rag/chunk.js'
import { createDocumentReader } from '#dist/rag/document-reader.js'
import { findFiles, readDocuments } from '#dist/rag/files.js'
import { chunkingFor } from '#dist/rag/ingest.js'
import { WordPiece } from '#dist/rag/wordpiece.js'

const PYTHON = ['library', 'reference', 'using', 'extending', 'whatsnew', 'c-api']
const ROOTS = [
  '/usr/share/doc/git-doc',
  '/usr/share/doc/apache2-doc/manual/en',
  '/usr/share/doc/postgresql-doc-15/html',
  ...PYTHON.map((part) => `/usr/share/doc/python3.11/html/${part}`),
  '/usr/share/debian-reference',
  '/usr/share/doc/debian/FAQ',
  '/usr/share/doc/maint-guide/html',
  '/usr/share/doc/debmake-doc/html',
  '/usr/share/doc/installation-guide-amd64/en',
  '/usr/share/doc/aptitude/html/en',
  '/usr/share/doc/harden-doc/html/en-US',
]
/** Translations lie beside the English pages: NAME.de.html. */
const TRANSLATION = /\.(?!en)[a-z]{2}(-[a-z]{2})?\.html$/i
const TEACHER_TOKENS = 512

const out = join(dirname(fileURLToPath(import.meta.url)), 'out')
const tokenizer = new WordPiece(JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')))
const countTokens = async (texts) => texts.map((text) => tokenizer.encode(text).length)

const reader = createDocumentReader()
const lines = []
const { files } = await findFiles(ROOTS)
for (const file of files) {
  if (!file.path.endsWith('.html') || TRANSLATION.test(file.path)) continue
  for await (const { id, text, format } of readDocuments(file, reader, ({ reason }) => console.error(`${file.path}: ${reason}`))) {
    for (const chunk of await chunkDocument(text, format, chunkingFor(TEACHER_TOKENS), countTokens, reader.html)) {
      lines.push(JSON.stringify({ id, headings: chunk.headings, text: chunk.text }))
    }
  }
}
await reader.close()
mkdirSync(out, { recursive: true })
writeFileSync(join(out, 'passages.jsonl'), `${lines.join('\n')}\n`)
console.log(`${lines.length} passages`)
