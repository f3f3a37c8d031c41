/** Documents from files: which files of a folder are documents, and what they contain. */
import { readdir, realpath, stat } from 'node:fs/promises'
import type { Dirent, Stats } from 'node:fs'
import { dirname, extname, join, relative, resolve, sep } from 'node:path'
import { readFile } from '../regular-file.ts'
import { z } from 'zod'
import type { DocumentReader } from './document-reader.ts'
import { RagError, systemReasonOf, UnreadableError } from './errors.ts'
import { formatOfText, isGzip, fileKind, maxFileBytes, READ_KINDS } from './formats.ts'
import type { Remark, SourceDocument } from './ingest.ts'

const metadataScalar = z.union([z.string(), z.number(), z.boolean(), z.null()])

export const metadataSchema = z.record(
  z.string(),
  z.union([...metadataScalar.options, z.array(metadataScalar)], {
    error: 'a string, a number, a boolean, null or a list of them',
  }),
)

/** One line of a JSON lines file. */
const jsonLine = z.object(
  {
    id: z.union([z.string().min(1), z.number()], 'a string or a number').optional(),
    text: z.string('a string'),
    source: z.string('a string').optional(),
    metadata: metadataSchema.optional(),
  },
  'a JSON object',
)

export interface FoundFile {
  /** Absolute. */
  readonly path: string
  /** Its path relative to the parent folder of its root, with slashes: independent of the working directory and the machine. */
  readonly id: string
  readonly bytes: number
  /** When it was last changed, in ms since 1970. */
  readonly changedMs: number
}

/** An entry of a folder that is not read. */
interface SkippedEntry extends Remark {
  /** Absolute. */
  readonly path: string
  /** Its content is unknown, so the index keeps the documents it had from there. */
  readonly isUnreadable: boolean
}

export interface FoundFiles {
  /** The given paths, made absolute. */
  readonly roots: readonly string[]
  /** Sorted by path. */
  readonly files: readonly FoundFile[]
  /** Sorted by path; without hidden entries and node_modules. */
  readonly skipped: readonly SkippedEntry[]
}

/**
 * Finds the files below the given paths that are documents, and the entries that are skipped. Hidden files and node_modules are left out.
 * Links are followed within their root. A file that is given itself is taken whatever its name.
 * @throws RagError invalid_request naming a path that cannot be read
 */
export async function findFiles(paths: readonly string[]): Promise<FoundFiles> {
  const walk = new FileWalk()
  const roots = paths.map((given) => ({ given, path: resolve(given) }))
  // The outermost of nested roots names the files, in whatever order the roots are given.
  for (const { given, path } of roots.toSorted((a, b) => a.path.length - b.path.length)) {
    try {
      await walk.root(path)
    } catch (error) {
      throw new RagError('invalid_request', `${given}: cannot be read: ${systemReasonOf(error)}`)
    }
  }
  const byPath = (a: { readonly path: string }, b: { readonly path: string }): number => (a.path < b.path ? -1 : 1)
  return {
    roots: roots.map(({ path }) => path),
    files: [...walk.files.values()].toSorted(byPath),
    skipped: [...walk.skipped.values()].toSorted(byPath),
  }
}

class FileWalk {
  readonly files = new Map<string, FoundFile>()
  readonly skipped = new Map<string, SkippedEntry>()
  /** Folders reached through a link. Each is followed once, or links in both directions would never end. */
  readonly #linked = new Set<string>()
  #root = ''
  #realRoot = ''

  async root(path: string): Promise<void> {
    this.#root = path
    this.#realRoot = await realpath(path)
    const info = await stat(path)
    if (info.isDirectory()) await this.#folder(path, [this.#realRoot])
    else if (info.isFile()) this.#add(path, info)
    else this.#skip(path, 'expected a file or a folder, found a device, pipe or socket')
  }

  /** @param above the real paths of the folder and of the folders it was reached through */
  async #folder(folder: string, above: readonly string[]): Promise<void> {
    let entries: Dirent<Buffer>[]
    try {
      entries = await readdir(folder, { withFileTypes: true, encoding: 'buffer' })
    } catch (error) {
      return this.#skip(folder, systemReasonOf(error), true)
    }
    for (const entry of entries) {
      const name = nameOf(entry.name)
      if (name.text.startsWith('.') || name.text === 'node_modules') continue
      const path = join(folder, name.text)
      if (!name.isText) {
        this.#skip(path, 'expected a name in UTF-8')
        continue
      }
      try {
        await this.#entry(entry, path, above)
      } catch (error) {
        this.#skip(path, systemReasonOf(error), true)
      }
    }
  }

  async #entry(entry: Dirent<Buffer>, path: string, above: readonly string[]): Promise<void> {
    if (entry.isSymbolicLink()) return this.#link(path, above)
    if (entry.isDirectory()) return this.#folder(path, [...above, await realpath(path)])
    if (entry.isFile()) return this.#file(path, await stat(path))
    this.#skip(path, 'a device, pipe or socket')
  }

  async #link(path: string, above: readonly string[]): Promise<void> {
    const target = await realpath(path).catch(() => null)
    if (target === null) return this.#skip(path, 'a broken link')
    if (target !== this.#realRoot && !target.startsWith(this.#realRoot + sep)) {
      return this.#skip(path, 'a link to a place outside of the folder')
    }
    const info = await stat(target)
    if (info.isFile()) return this.#file(path, info)
    if (!info.isDirectory()) return this.#skip(path, 'a link to a device, pipe or socket')
    if (above.includes(target)) return this.#skip(path, 'a link to a folder that it lies in')
    if (this.#linked.has(target)) return this.#skip(path, 'a link to a folder that another link leads to')
    this.#linked.add(target)
    return this.#folder(path, [...above, target])
  }

  #file(path: string, info: Stats): void {
    if (fileKind(path)) return this.#add(path, info)
    this.#skip(path, `${extname(path).toLowerCase()} files are not read`)
  }

  #add(path: string, { size: bytes, mtimeMs: changedMs }: Stats): void {
    if (!this.files.has(path)) this.files.set(path, { path, id: this.#idOf(path), bytes, changedMs })
    this.skipped.delete(path)
  }

  #skip(path: string, reason: string, isUnreadable = false): void {
    if (!this.files.has(path)) this.skipped.set(path, { path, id: this.#idOf(path), reason, isUnreadable })
  }

  #idOf(path: string): string {
    return relative(dirname(this.#root), path).split(sep).join('/')
  }
}

/** Names are bytes. One that is not UTF-8, from an old system, cannot be given as a path. */
function nameOf(bytes: Buffer): { readonly text: string; readonly isText: boolean } {
  const text = bytes.toString('utf8')
  return { text, isText: Buffer.from(text).equals(bytes) }
}

/** Where the reader of a file reports what callers should know of its documents. */
export interface FileReport {
  /** A document is left out. `isUnreadable`: the file could not be read at all, so the index keeps the documents it had from there. */
  reject(remark: Remark, isUnreadable?: boolean): void
  /** A document is read, but not everything in it, or not for certain. */
  warn(remark: Remark): void
}

/** Reads the documents of a file. */
export async function* readDocuments(
  { path, id, bytes }: FoundFile,
  reader: Pick<DocumentReader, 'read'>,
  report: FileReport,
): AsyncGenerator<SourceDocument> {
  const maxBytes = maxFileBytes(fileKind(path) ?? 'text')
  if (bytes > maxBytes) return report.reject({ id, reason: `expected at most ${maxBytes} bytes, found ${bytes}` })
  let content: Uint8Array
  try {
    content = await readFile(path)
  } catch (error) {
    return report.reject({ id, reason: systemReasonOf(error) }, true)
  }
  yield* documentsOf({ id, name: path, content, origin: path }, reader, report)
}

export interface NamedContent {
  readonly id: string
  /** Determines the kind of file. */
  readonly name: string
  readonly content: Uint8Array
  /** The path of the file; empty for one sent over HTTP. */
  readonly origin: string
}

/** Reads the documents in the bytes of a file. */
export async function* documentsOf(
  { id, name, content, origin }: NamedContent,
  reader: Pick<DocumentReader, 'read'>,
  report: FileReport,
): AsyncGenerator<SourceDocument> {
  const kind = fileKind(name)
  let file
  try {
    file = await reader.read({ bytes: content, kind, isGzip: isGzip(name) })
  } catch (error) {
    if (!(error instanceof UnreadableError)) throw error
    // For a file of another kind, such as a picture given by its path, the supported kinds help more.
    const hint = kind === null ? `; the kinds that are read are ${READ_KINDS}` : ''
    return report.reject({ id, reason: error.message + hint })
  }
  const { text, format, warning } = file
  if (warning !== null) report.warn({ id, reason: warning })
  if (format !== 'jsonl') {
    yield { id, text, source: id, format, metadata: {}, origin }
    return
  }
  let lineNumber = 0
  for (const line of text.split('\n')) {
    lineNumber++
    if (line.trim() === '') continue
    const parsed = parseLine(line)
    if (typeof parsed === 'string') {
      report.reject({ id: `${id}:${lineNumber}`, reason: parsed })
      continue
    }
    const source = parsed.source ?? id
    yield {
      id: parsed.id === undefined ? `${id}#${lineNumber}` : String(parsed.id),
      text: parsed.text,
      source,
      format: formatOfText(source),
      metadata: parsed.metadata ?? {},
      origin,
    }
  }
}

function parseLine(line: string): z.output<typeof jsonLine> | string {
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch {
    return 'expected a JSON object'
  }
  const result = jsonLine.safeParse(json)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const expected = issue?.code === 'invalid_type' && issue.expected === 'record' ? 'an object' : issue?.message
  return `${issue?.path.length ? `${issue.path.join('.')}: ` : ''}expected ${expected ?? 'another form'}`
}
