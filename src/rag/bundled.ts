/** The index of this project's own documentation, built from the shipped files. */
import { existsSync } from 'node:fs'
import type { DocumentReader } from './document-reader.ts'
import type { Embedder } from './embedder.ts'
import { RagError } from './errors.ts'
import { findFiles } from './files.ts'
import { indexFiles } from './index-files.ts'
import { shared } from '../promises.ts'
import { createMemoryStore } from './stores/memory.ts'
import type { VectorIndex } from './vector-index.ts'
import type { WorkerDeathListener } from './worker-rpc.ts'

export interface BundledIndex {
  /** The index, up to date with the files. The first call builds it; after a failure, the next call tries again. */
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

/** The index of the given files, built on first use and kept in `folder`. */
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
      // An index of another model, or in a damaged file, can always be made again.
      if (!(error instanceof RagError) || !['index_model_mismatch', 'index_corrupt'].includes(error.code)) throw error
      await store.drop(name)
      index = await store.openOrCreate(name, spec)
    }
    // An incomplete checkout or package may lack some files.
    const present = files.filter((file) => existsSync(file))
    await indexFiles(await findFiles(present), { index, embedder, ...(reader && { reader }) })
    return index
  }

  return { open: shared(build), close: () => store.close() }
}
