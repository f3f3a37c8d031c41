// The documents of the yardstick: documentation packages of Debian 12, installed when they are absent, and npm's own Markdown. 302 files.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { dirname, extname, join } from 'node:path'

/** Folder below `docs`, the package that brings it, and where it lies then. */
const DEBIAN = [
  { folder: 'handbook', name: 'debian-handbook', path: '/usr/share/doc/debian-handbook/html/en-US' },
  { folder: 'devref', name: 'developers-reference', path: '/usr/share/developers-reference' },
  { folder: 'policy', name: 'debian-policy', path: '/usr/share/doc/debian-policy/policy.html' },
  ...['tutorial', 'faq', 'howto'].map((part) => ({
    folder: `python/${part}`,
    name: 'python3.11-doc',
    path: `/usr/share/doc/python3.11/html/${part}`,
  })),
]
const KEPT = new Set(['.html', '.md'])

/** npm's documents lie beside the npm that runs this, or in a Node that a package or an image brought. */
function npmDocs() {
  const candidates = [
    process.env.npm_execpath && join(dirname(realpathSync(process.env.npm_execpath)), '..', 'docs', 'content'),
    join(dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'docs', 'content'),
    '/usr/lib/node_modules/npm/docs/content',
  ]
  const found = candidates.find((path) => path && existsSync(path))
  if (!found) throw new Error("npm's docs/content: expected it beside npm, found it nowhere")
  return found
}

/** Copies the documents to `folder`/docs. @returns that folder. */
export function yardstickDocuments(folder) {
  const absent = [...new Set(DEBIAN.filter(({ path }) => !existsSync(path)).map(({ name }) => name))]
  if (absent.length > 0) {
    console.error(`installing ${absent.join(', ')}`)
    execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...absent], { stdio: 'ignore' })
  }
  const docs = join(folder, 'docs')
  for (const { folder: below, path } of [...DEBIAN, { folder: 'npm', path: npmDocs() }]) {
    mkdirSync(dirname(join(docs, below)), { recursive: true })
    cpSync(path, join(docs, below), { recursive: true, dereference: true })
  }
  for (const file of readdirSync(docs, { recursive: true, withFileTypes: true })) {
    if (file.isFile() && !KEPT.has(extname(file.name))) rmSync(join(file.parentPath ?? file.path, file.name))
  }
  return docs
}
