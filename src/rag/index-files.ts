/** Keeps an index equal to files: adds new and changed ones, and removes those that are gone. */
import { lstat } from 'node:fs/promises'
import { sep } from 'node:path'
import { createDocumentReader, type DocumentReader } from './document-reader.ts'
import { readDocuments, type FileReport, type FoundFile, type FoundFiles } from './files.ts'
import { fileKind } from './formats.ts'
import { chunkingFor, cuttingOf, ingest, type FileIngestResult, type IngestOptions, type Remark } from './ingest.ts'

interface IndexFilesOptions extends IngestOptions {
  /** Called after each file, with bytes. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

interface IndexFilesResult extends FileIngestResult {
  readonly numFiles: number
  /** Documents removed because their file, or their line in it, is gone. */
  readonly deleted: number
}

const isBelow = (path: string, roots: readonly string[]): boolean =>
  roots.some((root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep))

/**
 * Brings an index up to date with the files found below some roots. Documents from elsewhere stay as they are.
 * @throws RagError when the model or the store fails; documents accepted before stay
 */
export async function indexFiles(found: FoundFiles, options: IndexFilesOptions): Promise<IndexFilesResult> {
  if (options.reader) return indexWith(options.reader, found, options)
  const reader = createDocumentReader()
  try {
    return await indexWith(reader, found, options)
  } finally {
    await reader.close()
  }
}

async function indexWith(
  reader: DocumentReader,
  { roots, files, skipped }: FoundFiles,
  options: IndexFilesOptions,
): Promise<IndexFilesResult> {
  const { index, embedder, onProgress } = options
  const { maxTokens } = await embedder.load()
  const cutting = cuttingOf(chunkingFor(maxTokens))
  const known = new Map((await index.summaries()).map((summary) => [summary.id, summary]))
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const rejected: Remark[] = skipped.map(({ id, reason }) => ({ id, reason }))
  const warnings: Remark[] = []
  const unreadable = skipped.filter(({ isUnreadable }) => isUnreadable).map(({ path }) => path)
  /** Origin and id of each document of the files. */
  const present = new Set<string>()
  /** How many versions of each document were not rejected. */
  const numUsable = new Map<string, number>()
  let doneBytes = 0
  const pathOfId = new Map<string, string>()
  let numUntouched = 0
  const startedMs = Date.now()
  async function* documents() {
    for (const file of files) {
      const other = pathOfId.get(file.id)
      if (other !== undefined) {
        const reason = `${file.path}: ${other} has the same id; index the folder above both, or each into an index of its own`
        rejected.push({ id: file.id, reason })
        continue
      }
      pathOfId.set(file.id, file.path)
      const before = known.get(file.id)
      let stamp = stampOf(file, cutting, startedMs)
      if (stamp !== null && before?.origin === file.path && before.stamp === stamp) {
        present.add(`${file.path}\n${file.id}`)
        numUsable.set(file.id, (numUsable.get(file.id) ?? 0) + 1)
        numUntouched++
      } else {
        const report: FileReport = {
          reject: (remark, isUnreadable) => {
            rejected.push(remark)
            if (isUnreadable) unreadable.push(file.path)
          },
          warn: (remark) => {
            warnings.push(remark)
            // Without a stamp the file is read again next time, which repeats the warning.
            stamp = null
          },
        }
        for await (const document of readDocuments(file, reader, report)) {
          present.add(`${document.origin}\n${document.id}`)
          numUsable.set(document.id, (numUsable.get(document.id) ?? 0) + 1)
          yield { ...document, ...(stamp !== null && { stamp }) }
        }
      }
      doneBytes += file.bytes
      onProgress?.(doneBytes, totalBytes)
    }
  }
  const result = await ingest(documents(), { ...options, reader })
  // If a file's text can no longer be used, its document in the index is out of date.
  for (const { id } of result.rejected) numUsable.set(id, (numUsable.get(id) ?? 0) - 1)
  const isFound = new Set(files.map(({ path }) => path))
  const gone: string[] = []
  for (const { id, origin } of await index.summaries()) {
    if (origin === '' || !isBelow(origin, roots) || isBelow(origin, unreadable)) continue
    if (present.has(`${origin}\n${id}`) && (numUsable.get(id) ?? 0) > 0) continue
    // A file of another kind, which was once given by its own path.
    if (!isFound.has(origin) && (await isFile(origin))) continue
    gone.push(id)
  }
  const deleted = gone.length > 0 ? await index.delete(gone) : 0
  const isRejected = new Set(result.rejected.map(({ id }) => id))
  return {
    ...result,
    accepted: result.accepted + numUntouched,
    unchanged: result.unchanged + numUntouched,
    rejected: [...rejected, ...result.rejected],
    warnings: warnings.filter(({ id }) => !isRejected.has(id)),
    numFiles: files.length,
    deleted,
  }
}

/** A file changed this recently may change again without a visible change of its time. */
const SETTLED_MS = 2000

/** Shows without reading a file that it is unchanged; null if nothing can: JSON lines contain many documents. */
function stampOf({ path, bytes, changedMs }: FoundFile, cutting: string, nowMs: number): string | null {
  return fileKind(path) === 'jsonl' || nowMs - changedMs < SETTLED_MS ? null : `${bytes} ${changedMs} ${cutting}`
}

const isFile = (path: string): Promise<boolean> =>
  lstat(path).then(
    (info) => info.isFile(),
    () => false,
  )
