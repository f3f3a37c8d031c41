/** Documents from files: which files of a folder are documents, and what is in them. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { dirname, extname, join, relative, resolve, sep } from 'node:path'
import { z } from 'zod'
import type { DocumentFormat } from './blocks.ts'
import { messageOf, RagError } from './errors.ts'
import { MAX_DOCUMENT_LENGTH, type Rejection, type SourceDocument } from './ingest.ts'

const FORMATS: Readonly<Record<string, DocumentFormat | 'jsonl'>> = {
  '.md': 'markdown',
  '.markdown': 'markdown',
  '.mdx': 'markdown',
  '.txt': 'text',
  '.text': 'text',
  '.rst': 'text',
  '.html': 'html',
  '.htm': 'html',
  '.xhtml': 'html',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
}

/** Format by a path's or URL's extension; null when it is not one of a document. */
export function formatOf(path: string): DocumentFormat | 'jsonl' | null {
  const suffix = path.search(/[?#]/)
  return FORMATS[extname(suffix < 0 ? path : path.slice(0, suffix)).toLowerCase()] ?? null
}

const metadataScalar = z.union([z.string(), z.number(), z.boolean(), z.null()])

export const metadataSchema = z.record(
  z.string(),
  z.union([...metadataScalar.options, z.array(metadataScalar)], {
    error: 'a string, a number, a boolean, null or a list of them',
  }),
)

/** A line of a JSON lines file. */
const jsonLine = z.object({
  id: z.union([z.string().min(1), z.number()]).optional(),
  text: z.string(),
  source: z.string().optional(),
  metadata: metadataSchema.optional(),
})

export interface FoundFile {
  /** Absolute. */
  readonly path: string
  /** Its path from the folder that its root lies in, with slashes: the same from wherever the root was named, and on every machine. */
  readonly id: string
  readonly bytes: number
}

export interface FoundFiles {
  /** The given paths, absolute. */
  readonly roots: readonly string[]
  /** By path. */
  readonly files: readonly FoundFile[]
}

/**
 * The documents' files below the given paths, sorted. Hidden files, node_modules and links inside folders are left out; a file that
 * is named itself is taken whatever its extension.
 * @throws RagError invalid_request naming the path that is not there.
 */
export async function findFiles(paths: readonly string[]): Promise<FoundFiles> {
  const found = new Map<string, FoundFile>()
  const add = (path: string, root: string, bytes: number): void => {
    const id = relative(dirname(root), path).split(sep).join('/')
    if (!found.has(path)) found.set(path, { path, id, bytes })
  }
  const walk = async (folder: string, root: string): Promise<void> => {
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.name.startsWith('.') || entry.name === 'node_modules') continue
      if (entry.isDirectory()) await walk(path, root)
      else if (entry.isFile() && formatOf(path)) add(path, root, (await stat(path)).size)
    }
  }
  const roots = paths.map((given) => ({ given, path: resolve(given) }))
  // Of roots inside each other the outermost names the files, in whatever order they were given.
  for (const { given, path } of roots.toSorted((a, b) => a.path.length - b.path.length)) {
    try {
      const info = await stat(path)
      if (info.isDirectory()) await walk(path, path)
      else add(path, path, info.size)
    } catch (error) {
      throw new RagError('invalid_request', `${given}: cannot be read: ${messageOf(error)}`)
    }
  }
  return {
    roots: roots.map(({ path }) => path),
    files: [...found.values()].toSorted((a, b) => (a.path < b.path ? -1 : 1)),
  }
}

export interface UnreadDocument extends Rejection {
  /** The file could not be read at all: what it held is not known to be gone. */
  readonly isUnreadable?: boolean
}

/** The documents of a file. What cannot be used is handed to `reject`. */
export async function* readDocuments(
  { path, id, bytes }: FoundFile,
  reject: (rejection: UnreadDocument) => void,
): AsyncGenerator<SourceDocument> {
  const format = formatOf(path) ?? 'text'
  // A UTF-8 byte is at most one UTF-16 unit. JSON lines may be many documents.
  if (bytes > MAX_DOCUMENT_LENGTH * (format === 'jsonl' ? 16 : 1)) {
    return reject({ id, reason: `expected at most ${MAX_DOCUMENT_LENGTH} bytes, found ${bytes}` })
  }
  let content: Uint8Array
  try {
    content = await readFile(path)
  } catch (error) {
    return reject({ id, reason: messageOf(error), isUnreadable: true })
  }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(content)
  } catch {
    return reject({ id, reason: 'expected UTF-8 text' })
  }
  if (format !== 'jsonl') {
    yield { id, text, source: id, format, metadata: {}, origin: path }
    return
  }
  let lineNumber = 0
  for (const line of text.split('\n')) {
    lineNumber++
    if (line.trim() === '') continue
    const parsed = parseLine(line)
    if (typeof parsed === 'string') {
      reject({ id: `${id}:${lineNumber}`, reason: parsed })
      continue
    }
    const source = parsed.source ?? id
    const named = formatOf(source)
    yield {
      id: parsed.id === undefined ? `${id}#${lineNumber}` : String(parsed.id),
      text: parsed.text,
      source,
      format: named === null || named === 'jsonl' ? 'text' : named,
      metadata: parsed.metadata ?? {},
      origin: path,
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
  return `${issue?.path.join('.') || 'line'}: ${issue?.message ?? 'not as expected'}`
}
