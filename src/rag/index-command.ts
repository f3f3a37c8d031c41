/** `miniserve rag index PATH…`: indexes files and reports what was done. */
import { findFiles } from './files.ts'
import { messageOf, RagError } from './errors.ts'
import { READ_KINDS } from './formats.ts'
import { indexFiles } from './index-files.ts'
import type { Remark } from './ingest.ts'
import type { RagService } from './service.ts'

interface RagIndexArgs {
  readonly rag: Pick<RagService, 'openForWriting' | 'embedder' | 'reader'>
  readonly paths: readonly string[]
  readonly index: string
  /** Of the index files, for messages; null: the store has none. */
  readonly folder: string | null
  /** Whether a skipped file or a warning makes the command fail. */
  readonly isStrict?: boolean
  /** Shows the progress, in bytes of files. */
  readonly progress?: { readonly update: (done: number, total: number) => void; end(): void }
}

/** Skipped files, and warnings, that are listed one by one. */
const MAX_LISTED = 20
/** Reasons that the summary lists. */
const MAX_REASONS = 8

/** Runs the command. @returns the exit code: 1 if nothing could be indexed, or the model or the store failed; 2 without paths */
export async function runRagIndex(
  { rag, paths, index: name, folder, isStrict = false, progress }: RagIndexArgs,
  out: { write(text: string): unknown },
): Promise<number> {
  if (paths.length === 0) {
    out.write('rag index: expected at least one file or folder\n')
    return 2
  }
  const started = performance.now()
  try {
    // Before the index is opened: a mistyped path must not create one.
    const found = await findFiles(paths)
    const index = await rag.openForWriting(name)
    const result = await indexFiles(found, {
      index,
      embedder: rag.embedder,
      reader: rag.reader,
      ...(progress && { onProgress: progress.update }),
    })
    progress?.end()
    const { accepted, unchanged, rejected: skipped, warnings, deleted } = result
    list('skipped', skipped, out)
    list('warning', warnings, out)
    const seconds = (performance.now() - started) / 1000
    const { numDocuments, numChunks } = await index.info()
    out.write(`${accepted} indexed, ${skipped.length} skipped${reasonsOf(skipped)}\n`)
    out.write(
      `index ${name}: ${numDocuments} documents, ${numChunks} chunks (${accepted - unchanged} new or changed, ` +
        `${unchanged} unchanged, ${deleted} deleted, ${skipped.length} skipped; ${result.chunks} chunks written ` +
        `in ${seconds.toFixed(1)} s)\n`,
    )
    if (result.numFiles === 0) out.write(`no documents found: expected ${READ_KINDS}\n`)
    const isEmpty = accepted === 0 && (skipped.length > 0 || result.numFiles === 0)
    return isEmpty || (isStrict && skipped.length + warnings.length > 0) ? 1 : 0
  } catch (error) {
    progress?.end()
    if (!(error instanceof RagError)) throw error
    const where = error.code === 'store_unavailable' && folder !== null ? ` (in ${folder})` : ''
    out.write(`rag index: ${messageOf(error)}${where}\n`)
    return 1
  }
}

/** Writes the first remarks, one per line, and how many more there are. */
function list(kind: string, remarks: readonly Remark[], out: { write(text: string): unknown }): void {
  for (const { id, reason } of remarks.slice(0, MAX_LISTED)) out.write(`${kind} ${id}: ${reason}\n`)
  if (remarks.length > MAX_LISTED) out.write(`${kind}: ${remarks.length - MAX_LISTED} more\n`)
}

/** The reasons with their counts, most frequent first. */
function reasonsOf(skipped: readonly Remark[]): string {
  const counts = new Map<string, number>()
  for (const { reason } of skipped) counts.set(reason, (counts.get(reason) ?? 0) + 1)
  const sorted = [...counts].toSorted(([, a], [, b]) => b - a)
  const listed = sorted.slice(0, MAX_REASONS).map(([reason, count]) => (count > 1 ? `${reason} (${count})` : reason))
  const more = sorted.length > MAX_REASONS ? [`${sorted.length - MAX_REASONS} other reasons`] : []
  return skipped.length === 0 ? '' : `: ${[...listed, ...more].join('; ')}`
}
