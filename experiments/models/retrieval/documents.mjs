// The documents that the embeddings are trained on, as passages: out/passages.jsonl, {id, headings, text} a line. None of them is among the
// yardstick's (bench/lib/rag/corpus.mjs). Needs `npm run build`, the packages of README.md (installed, or unpacked below FOLDER), and the
// teacher's tokenizer.json as the argument:
//   node documents.mjs "$(python -c 'import teacher; print(teacher.TEACHER_FOLDER)')/tokenizer.json" [--root FOLDER]
import { execFileSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { fileURLToPath } from 'node:url'
import { chunkDocument } from '#dist/rag/chunk.js'
import { createDocumentReader } from '#dist/rag/document-reader.js'
import { findFiles, readDocuments } from '#dist/rag/files.js'
import { chunkingFor } from '#dist/rag/ingest.js'
import { WordPiece } from '#dist/rag/wordpiece.js'

const PYTHON = ['library', 'reference', 'using', 'extending', 'whatsnew', 'c-api']
const RUST = ['book', 'reference', 'edition-guide', 'rust-by-example', 'embedded-book', 'nomicon']
const DJANGO = ['intro', 'topics', 'ref', 'howto', 'faq', 'internals', 'misc']
const HTML = [
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
  ...RUST.map((part) => `/usr/share/doc/rust-doc/html/${part}`),
  ...DJANGO.map((part) => `/usr/share/doc/python-django-doc/html/${part}`),
  ...['admin-guide', 'filesystems', 'networking', 'process'].map(
    (part) => `/usr/share/doc/linux-doc-6.1/html/${part}`,
  ),
  '/usr/share/libreoffice/help/en-US/text',
  '/usr/share/doc/sqlite3-doc',
  '/usr/share/doc/bash-doc',
  '/usr/share/doc/postfix-doc/html',
  '/usr/share/doc/exim4-doc-html',
  '/usr/share/doc/mutt/html',
  '/usr/share/doc/apt-doc',
  '/usr/share/doc/bind9-doc',
  '/usr/share/doc/debian-kernel-handbook',
  '/usr/share/doc/nodejs/api',
]
const MALLARD = '/usr/share/help/C'
const MAN = ['man1', 'man5', 'man7', 'man8'].map((section) => `/usr/share/man/${section}`)
/** Translations lie beside the English pages: NAME.de.html. Pages that repeat all others on one are left out. */
const LEFT_OUT = /\.(?!en)[a-z]{2}(-[a-z]{2})?\.html$|\/(all|genindex|print|search)\.html$|_modules/i
const TEACHER_TOKENS = 512

const { positionals, values } = parseArgs({ allowPositionals: true, options: { root: { type: 'string', default: '' } } })
/** A path as installed, or below the root. */
const placesOf = (path) => [path, values.root + path].filter((place, i, all) => existsSync(place) && all.indexOf(place) === i)

const out = join(dirname(fileURLToPath(import.meta.url)), 'out')
const tokenizer = new WordPiece(JSON.parse(readFileSync(positionals[0] ?? '', 'utf8')))
const countTokens = async (texts) => texts.map((text) => tokenizer.encode(text).length)
mkdirSync(out, { recursive: true })
const lines = createWriteStream(join(out, 'passages.jsonl'))
let count = 0
const reader = createDocumentReader()

/** Files that cannot be read are left out. */
const silent = { reject: () => undefined, warn: () => undefined }

async function write(id, text, format) {
  for (const chunk of await chunkDocument(text, format, chunkingFor(TEACHER_TOKENS), countTokens, reader.html)) {
    lines.write(`${JSON.stringify({ id, headings: chunk.headings, text: chunk.text })}\n`)
    count++
  }
}

for (const folder of HTML.flatMap(placesOf)) {
  const { files } = await findFiles([folder])
  for (const file of files) {
    if (!/\.html(\.gz)?$/.test(file.path) || LEFT_OUT.test(file.path)) continue
    for await (const { id, text, format } of readDocuments(file, reader, silent)) await write(id, text, format)
  }
}
console.log(`${count} passages of HTML`)

// GNOME's help: XML whose titles are headings.
for (const folder of placesOf(MALLARD)) {
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.name.endsWith('.page')) continue
    const path = join(entry.parentPath, entry.name)
    const html = readFileSync(path, 'utf8')
      .replaceAll(/<info>.*?<\/info>/gs, '')
      .replaceAll(/<(\/?)title>/g, '<$1h2>')
    await write(path, html, 'html')
  }
}

// Manual pages, by mandoc where it is.
const mandoc = [...placesOf('/usr/bin/mandoc')][0]
const seen = new Set()
for (const folder of mandoc ? MAN.flatMap(placesOf) : []) {
  for (const name of readdirSync(folder)) {
    const path = realpathSync(join(folder, name))
    // The pages of a command with a thousand subcommands would be most of them.
    if (seen.has(path) || !name.endsWith('.gz') || name.startsWith('gcloud')) continue
    seen.add(path)
    try {
      await write(path, execFileSync(mandoc, ['-T', 'html', path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }), 'html')
    } catch {
      // mandoc says with its exit code that a page has faults; pages that it cannot read are few.
    }
  }
}
await reader.close()
await new Promise((resolve) => lines.end(resolve))
console.log(`${count} passages`)
