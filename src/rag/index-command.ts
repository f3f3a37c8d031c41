/** `miniserve rag index PATH…`: files into an index, with progress for people. */
import { findFiles } from './files.ts'
import { messageOf, RagError } from './errors.ts'
import { READ_KINDS } from './formats.ts'
import { indexFiles } from './index-files.ts'
import type { Rejection } from './ingest.ts'
import type { RagService } from './service.ts'

interface RagIndexArgs {
  readonly rag: Pick<RagService, 'openForWriting' | 'embedder' | 'reader'>
  readonly paths: readonly string[]
  readonly index: string
  /** Whether anything that was skipped makes the command fail. */
  readonly isStrict?: boolean
}

/** Where lines for people go: stderr. */
interface ProgressStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

const BAR_WIDTH = 30
/** Rejected documents that are listed one by one. */
const MAX_LISTED = 20
/** Reasons that are summed up. */
const MAX_REASONS = 8

/** @returns the exit code: 0, or 1 when nothing could be indexed or the model or store failed. */
export async function runRagIndex(
  { rag, paths, index: name, isStrict = false }: RagIndexArgs,
  out: ProgressStream,
): Promise<number> {
  if (paths.length === 0) {
    out.write('rag index: expected at least one file or folder\n')
    return 2
  }
  const started = performance.now()
  const progress = createProgressLine(out)
  try {
    // Before the index is made: a path that is mistyped leaves none behind.
    const found = await findFiles(paths)
    const index = await rag.openForWriting(name)
    const result = await indexFiles(found, {
      index,
      embedder: rag.embedder,
      reader: rag.reader,
      onProgress: progress.update,
    })
    progress.end()
    const { accepted, unchanged, rejected, deleted } = result
    for (const { id, reason } of rejected.slice(0, MAX_LISTED)) out.write(`skipped ${id}: ${reason}\n`)
    if (rejected.length > MAX_LISTED) out.write(`and ${rejected.length - MAX_LISTED} more\n`)
    const seconds = (performance.now() - started) / 1000
    const { numDocuments, numChunks } = await index.info()
    out.write(`${accepted} indexed, ${rejected.length} skipped${reasonsOf(rejected)}\n`)
    out.write(
      `index ${name}: ${numDocuments} documents, ${numChunks} chunks (${accepted - unchanged} new or changed, ` +
        `${unchanged} unchanged, ${deleted} deleted, ${rejected.length} skipped; ${result.chunks} chunks written ` +
        `in ${seconds.toFixed(1)} s)\n`,
    )
    if (result.numFiles === 0) out.write(`no documents found: expected ${READ_KINDS}\n`)
    const isEmpty = accepted === 0 && (rejected.length > 0 || result.numFiles === 0)
    return isEmpty || (isStrict && rejected.length > 0) ? 1 : 0
  } catch (error) {
    progress.end()
    if (!(error instanceof RagError)) throw error
    out.write(`rag index: ${messageOf(error)}\n`)
    return 1
  }
}

/** Reasons with how often each occurred, most frequent first. */
function reasonsOf(rejected: readonly Rejection[]): string {
  const counts = new Map<string, number>()
  for (const { reason } of rejected) counts.set(reason, (counts.get(reason) ?? 0) + 1)
  const sorted = [...counts].toSorted(([, a], [, b]) => b - a)
  const listed = sorted.slice(0, MAX_REASONS).map(([reason, count]) => (count > 1 ? `${reason} (${count})` : reason))
  const more = sorted.length > MAX_REASONS ? [`${sorted.length - MAX_REASONS} other reasons`] : []
  return rejected.length === 0 ? '' : `: ${[...listed, ...more].join('; ')}`
}

/** A bar that is redrawn on a terminal; elsewhere a line every 10 %. */
function createProgressLine(out: ProgressStream): {
  readonly update: (done: number, total: number) => void
  end(): void
} {
  let shown = -1
  let isOpen = false
  return {
    update(done, total) {
      const percent = total === 0 ? 100 : Math.floor((done / total) * 100)
      if (out.isTTY) {
        if (percent === shown) return
        const filled = Math.round((percent / 100) * BAR_WIDTH)
        out.write(`\r[${'#'.repeat(filled)}${'.'.repeat(BAR_WIDTH - filled)}] ${percent} %`)
        isOpen = true
        shown = percent
      } else if (percent >= shown + 10 || (percent === 100 && shown !== 100)) {
        shown = percent - (percent % 10)
        out.write(`indexing: ${shown} %\n`)
      }
    },
    end() {
      if (isOpen) out.write('\n')
      isOpen = false
    },
  }
}
