/** The index of this project's own documentation: built from the shipped files, kept in the cache folder. */
import { existsSync } from 'node:fs'
import type { DocumentReader } from './document-reader.ts'
import type { Embedder } from './embedder.ts'
import { RagError } from './errors.ts'
import { findFiles } from './files.ts'
import { indexFiles } from './index-files.ts'
import { shared } from './shared-work.ts'
import { createMemoryStore } from './stores/memory.ts'
import type { VectorIndex } from './vector-index.ts'
import type { WorkerDeathListener } from './worker-rpc.ts'

export interface BundledIndex {
  /** The index, up to date with the files. The first call builds it; a failed build is tried again. */
  open(): Promise<VectorIndex>
  close(): Promise<void>
}

interface BundledIndexOptions {
  readonly name: string
  /** Files and folders. */
  readonly files: readonly string[]
  readonly folder: string
  readonly embedder: Embedder
  readonly reader?: DocumentReader
  readonly onWorkerDeath?: WorkerDeathListener
}

/** The index of the shipped README and docs. It is built on first use and kept in the cache folder. */
export function bundledIndex({
  name,
  files,
  folder,
  embedder,
  reader,
  onWorkerDeath,
}: BundledIndexOptions): BundledIndex {
  const store = createMemoryStore(folder, onWorkerDeath)
  async function build(): Promise<VectorIndex> {
    const { fingerprint, dimensions } = await embedder.load()
    const spec = { model: fingerprint, dimensions }
    let index: VectorIndex
    try {
      index = await store.openOrCreate(name, spec)
    } catch (error) {
      // It can be made again at any time: from another model's vectors, and from a damaged file.
      if (!(error instanceof RagError) || !['index_model_mismatch', 'index_corrupt'].includes(error.code)) throw error
      await store.drop(name)
      index = await store.openOrCreate(name, spec)
    }
    // A checkout in the making, or a package cut down, may lack some.
    const present = files.filter((file) => existsSync(file))
    await indexFiles(await findFiles(present), { index, embedder, ...(reader && { reader }) })
    return index
  }

  return { open: shared(build), close: () => store.close() }
}
