/** Thread entry of the document reader: parses files and pages off the main thread. */
import type { Block } from './blocks.ts'
import { readContent, type FileContent, type FileToRead } from './file-reader.ts'
import { htmlBlocks } from './html.ts'
import { serveCalls } from './worker-rpc.ts'

export interface ReaderWorkerApi {
  readonly read: { readonly params: FileToRead; readonly result: FileContent }
  readonly html: { readonly params: { readonly html: string }; readonly result: readonly Block[] }
}

serveCalls<ReaderWorkerApi>({
  read: readContent,
  html: async ({ html }) => htmlBlocks(html),
})
