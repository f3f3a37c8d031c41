/** Thread entry of the document reader: parses files and pages off the main thread. */
import type { Block } from './blocks.ts'
import { UnreadableError } from './errors.ts'
import { readContent, type FileContent, type FileToRead } from './file-reader.ts'
import { htmlBlocks } from './html.ts'
import { serveCalls } from './worker-rpc.ts'

/** A result, or a human-readable reason why there is none. */
export type OrReason<T> = { readonly value: T } | { readonly reason: string }

export interface ReaderWorkerApi {
  readonly read: { readonly params: FileToRead; readonly result: OrReason<FileContent> }
  readonly html: { readonly params: { readonly html: string }; readonly result: OrReason<readonly Block[]> }
}

async function orReason<T>(work: () => Promise<T> | T): Promise<OrReason<T>> {
  try {
    return { value: await work() }
  } catch (error) {
    if (error instanceof UnreadableError) return { reason: error.message }
    throw error
  }
}

serveCalls<ReaderWorkerApi>({
  read: (file) => orReason(() => readContent(file)),
  html: ({ html }) => orReason(() => htmlBlocks(html)),
})
