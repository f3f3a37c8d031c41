/** Worker entry of the reader of documents: what takes long to parse, off the main thread. */
import type { Block } from './blocks.ts'
import { UnreadableError } from './decode.ts'
import { readContent, type FileContent, type FileToRead } from './file-reader.ts'
import { htmlBlocks, HtmlTooComplexError } from './html.ts'
import { serveCalls } from './worker-rpc.ts'

/** A result, or why there is none, for people. */
export type OrReason<T> = { readonly value: T } | { readonly reason: string }

export interface ReaderWorkerApi {
  readonly read: { readonly params: FileToRead; readonly result: OrReason<FileContent> }
  readonly html: { readonly params: { readonly html: string }; readonly result: OrReason<readonly Block[]> }
}

async function orReason<T>(work: () => Promise<T> | T): Promise<OrReason<T>> {
  try {
    return { value: await work() }
  } catch (error) {
    if (error instanceof UnreadableError || error instanceof HtmlTooComplexError) return { reason: error.message }
    throw error
  }
}

serveCalls<ReaderWorkerApi>({
  read: (file) => orReason(() => readContent(file)),
  html: ({ html }) => orReason(() => htmlBlocks(html)),
})
