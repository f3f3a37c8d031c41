/** Reads files and pages in a thread of its own: a long PDF or a large page would hold up every other request. */
import type { Block } from './blocks.ts'
import { RagError, UnreadableError } from './errors.ts'
import type { FileContent, FileToRead } from './file-reader.ts'
import type { OrReason, ReaderWorkerApi } from './reader-worker.ts'
import { threadWorker } from './worker-host.ts'
import { CallTimeoutError, WorkerClient, workerUrl, type WorkerDeathListener } from './worker-rpc.ts'

const MAX_WAITING = 256
/** One document's time, far more than the longest PDF that is read takes: the others wait behind it. */
const MAX_READ_MS = 5 * 60 * 1000

/** Both methods throw UnreadableError for a document that cannot be read, and RagError `overloaded` when too many wait. */
export interface DocumentReader {
  read(file: FileToRead): Promise<FileContent>
  html(html: string): Promise<readonly Block[]>
  /** Idempotent. */
  close(): Promise<void>
}

/** Starts the reader thread on first use. @param onDeath is called when the thread crashes */
export function createDocumentReader(onDeath?: WorkerDeathListener): DocumentReader {
  const client = new WorkerClient<ReaderWorkerApi>(threadWorker(workerUrl('./reader-worker', import.meta.url)), {
    name: 'the reader of documents',
    concurrency: 1,
    maxWaiting: MAX_WAITING,
    maxCallMs: MAX_READ_MS,
    failureCode: 'invalid_request',
    drainOnClose: false,
    ...(onDeath && { onDeath }),
  })
  async function valueOf<T>(call: Promise<OrReason<T>>): Promise<T> {
    let answer: OrReason<T>
    try {
      answer = await call
    } catch (error) {
      if (error instanceof RagError && error.code === 'overloaded') throw error
      if (error instanceof CallTimeoutError) {
        throw new UnreadableError(`expected a file that is read in ${MAX_READ_MS / 1000} s`, { cause: error })
      }
      // What ended the thread, such as a page that takes all memory, is no other document's fault.
      throw new UnreadableError('cannot be read', { cause: error })
    }
    if ('reason' in answer) throw new UnreadableError(answer.reason)
    return answer.value
  }
  return {
    read: (file) => valueOf(client.call('read', file)),
    html: (html) => valueOf(client.call('html', { html })),
    close: () => client.close(),
  }
}
