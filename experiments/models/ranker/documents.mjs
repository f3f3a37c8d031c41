// The documents that the ranker's questions are about, from Debian's packages (README.md names them): none of them is one of the yardstick's.
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'

const PYTHON = ['library', 'reference', 'using', 'extending', 'c-api']
const FOLDERS = [
  ['git', '/usr/share/doc/git-doc'],
  ['apache', '/usr/share/doc/apache2-doc/manual/en'],
  ['postgresql', '/usr/share/doc/postgresql-doc-15/html'],
  ...PYTHON.map((part) => [`python/${part}`, `/usr/share/doc/python3.11/html/${part}`]),
  ['dref', '/usr/share/debian-reference'],
  ['faq', '/usr/share/doc/debian/FAQ'],
]
/** Translations, release notes (they name everything once), pages that only list others, and what is there under a second name. */
const LEFT_OUT = /faq\/.*\.en\.html$|\.(?!en)[a-z]{2}(-[a-z]{2})?\.html$|release-|bookindex|directive-dict|module-dict|quickreference|\/changelog/

/** Copies the documents to `folder`/train. @returns that folder. @throws Error naming a package's folder that is absent. */
export function trainingDocuments(folder) {
  const docs = join(folder, 'train')
  for (const [below, path] of FOLDERS) {
    if (!existsSync(path)) throw new Error(`${path}: no such folder; install the packages that README.md names`)
    mkdirSync(dirname(join(docs, below)), { recursive: true })
    cpSync(path, join(docs, below), { recursive: true, dereference: true })
  }
  for (const file of readdirSync(docs, { recursive: true, withFileTypes: true })) {
    const path = join(file.parentPath, file.name)
    if (file.isFile() && (!path.endsWith('.html') || LEFT_OUT.test(path))) rmSync(path)
  }
  return docs
}
