/** Reads files and pages in a separate thread: a long PDF or a large page would hold up every other request. */
import type { Block } from './blocks.ts'
import { RagError, UnreadableError } from './errors.ts'
import type { FileContent, FileToRead } from './file-reader.ts'
import type { ReaderWorkerApi } from './reader-worker.ts'
import { threadWorker } from './worker-host.ts'
import { CallTimeoutError, WorkerClient, workerUrl, type WorkerDeathListener } from './worker-rpc.ts'

const MAX_WAITING = 256
/** Time per document, far more than the longest PDF takes, because other documents wait for it. */
const MAX_READ_MS = 5 * 60 * 1000

/** Both methods throw UnreadableError for a document that cannot be read, and RagError overloaded if too many wait. */
export interface DocumentReader {
  read(file: FileToRead): Promise<FileContent>
  html(html: string): Promise<readonly Block[]>
  /** Idempotent. */
  close(): Promise<void>
}

/** Starts the reader thread on first use. @param onDeath called when the thread crashes */
export function createDocumentReader(onDeath?: WorkerDeathListener): DocumentReader {
  const client = new WorkerClient<ReaderWorkerApi>(threadWorker(workerUrl('./reader-worker', import.meta.url)), {
    name: 'the reader of documents',
    concurrency: 1,
    maxWaiting: MAX_WAITING,
    maxCallMs: MAX_READ_MS,
    failureCode: 'invalid_request',
    drainOnClose: false,
    onDeath,
  })
  async function readable<T>(call: Promise<T>): Promise<T> {
    try {
      return await call
    } catch (error) {
      if (error instanceof UnreadableError || (error instanceof RagError && error.code === 'overloaded')) throw error
      const isLate = error instanceof CallTimeoutError
      const reason = isLate ? `expected a file that is read in ${MAX_READ_MS / 1000} s` : 'cannot be read'
      // A document that ended the thread, such as a page that takes all memory, must not fail the others.
      throw new UnreadableError(reason, { cause: error })
    }
  }
  return {
    read: (file) => readable(client.call('read', file)),
    html: (html) => readable(client.call('html', { html })),
    close: () => client.close(),
  }
}
