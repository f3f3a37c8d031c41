/** Keeps an index equal to files: new and changed ones are read, those gone are taken out. */
import { resolve, sep } from 'node:path'
import { fileId, findFiles, readDocuments } from './files.ts'
import { ingest, type IngestOptions, type IngestResult, type Rejection } from './ingest.ts'

export interface IndexFilesOptions extends IngestOptions {
  /** Ids are paths from here. */
  readonly workingFolder: string
  /** After each file, in bytes of all files. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

export interface IndexFilesResult extends IngestResult {
  readonly numFiles: number
  /** Documents taken out because their file, or their place in it, is gone. */
  readonly deleted: number
}

const isBelow = (path: string, roots: readonly string[]): boolean =>
  roots.some((root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep))

export async function indexFiles(paths: readonly string[], options: IndexFilesOptions): Promise<IndexFilesResult> {
  const { index, workingFolder, onProgress } = options
  const files = await findFiles(paths)
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const unused: Rejection[] = []
  const unreadable = new Set<string>()
  /** Documents of the files as they are now. */
  const present = new Set<string>()
  let doneBytes = 0
  async function* documents() {
    for (const file of files) {
      const id = fileId(file.path, workingFolder)
      for await (const document of readDocuments(file, id, (rejection) => {
        unused.push({ id: rejection.id, reason: rejection.reason })
        if (rejection.isUnreadable) unreadable.add(file.path)
      })) {
        present.add(`${document.origin}\n${document.id}`)
        yield document
      }
      doneBytes += file.bytes
      onProgress?.(doneBytes, totalBytes)
    }
  }
  const result = await ingest(documents(), options)
  const roots = paths.map((path) => resolve(path))
  const gone = (await index.summaries()).filter(
    ({ id, origin }) =>
      origin !== '' && isBelow(origin, roots) && !unreadable.has(origin) && !present.has(`${origin}\n${id}`),
  )
  const deleted = gone.length > 0 ? await index.delete(gone.map(({ id }) => id)) : 0
  return { ...result, rejected: [...unused, ...result.rejected], numFiles: files.length, deleted }
}
