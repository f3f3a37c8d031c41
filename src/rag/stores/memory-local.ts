/** The memory store in the thread that makes it: a folder with one file an index, each loaded when first asked for. */
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, RagError } from '../errors.ts'
import { isIndexName, type IndexInfo, type IndexSpec, type IndexStore, type VectorIndex } from '../vector-index.ts'
import { withFileLock } from './file-lock.ts'
import { createIndexFile, JournaledIndex } from './journaled-index.ts'

const EXTENSION = '.idx'
const LOCK_TIMEOUT_MS = 40_000

/** @throws RagError invalid_request for a name that no index can have. */
export function checkName(name: string): void {
  if (isIndexName(name)) return
  throw new RagError(
    'invalid_request',
    'index: expected up to 64 letters, digits, dots, dashes and underscores',
    'index',
  )
}

/** @throws RagError index_model_mismatch for an index that was made for something else. */
export function checkSpec(index: VectorIndex, { model, dimensions }: IndexSpec): void {
  if (index.model === model && index.dimensions === dimensions) return
  throw new RagError(
    'index_model_mismatch',
    `index ${index.name} was built with the embedding model ${index.model} (${index.dimensions} dimensions), not with ${model} ` +
      `(${dimensions}): start with that --embedding-model, or index into another name`,
    'index',
  )
}

export class LocalMemoryStore implements IndexStore {
  readonly #folder: string
  readonly #open = new Map<string, JournaledIndex>()

  constructor(folder: string) {
    this.#folder = folder
  }

  async list(): Promise<readonly IndexInfo[]> {
    if (!existsSync(this.#folder)) return []
    const names = readdirSync(this.#folder)
      .filter((file) => file.endsWith(EXTENSION))
      .map((file) => file.slice(0, -EXTENSION.length))
      .sort()
    const infos: IndexInfo[] = []
    for (const name of names) {
      try {
        const index = await this.open(name)
        if (index) infos.push(await index.info())
      } catch (error) {
        // One damaged file does not hide the others; who asks for its index is told.
        if (!(error instanceof RagError) || error.code !== 'index_corrupt') throw error
      }
    }
    return infos
  }

  async open(name: string): Promise<JournaledIndex | null> {
    if (!isIndexName(name)) return null
    const path = this.#path(name)
    const known = this.#open.get(name)
    if (!existsSync(path)) {
      known?.close()
      this.#open.delete(name)
      return null
    }
    if (known) return known
    try {
      const index = new JournaledIndex(path)
      this.#open.set(name, index)
      return index
    } catch (error) {
      if (error instanceof RagError) throw error
      throw new RagError('store_unavailable', `${path}: cannot be read: ${messageOf(error)}`, null, { cause: error })
    }
  }

  async openOrCreate(name: string, spec: IndexSpec): Promise<JournaledIndex> {
    checkName(name)
    const index = (await this.open(name)) ?? (await this.#create(name, spec))
    checkSpec(index, spec)
    return index
  }

  async drop(name: string): Promise<boolean> {
    if (!isIndexName(name) || !existsSync(this.#path(name))) return false
    await withFileLock(`${this.#path(name)}.lock`, LOCK_TIMEOUT_MS, () => rmSync(this.#path(name), { force: true }))
    this.#open.get(name)?.close()
    this.#open.delete(name)
    return true
  }

  async close(): Promise<void> {
    for (const index of this.#open.values()) index.close()
    this.#open.clear()
  }

  async #create(name: string, spec: IndexSpec): Promise<JournaledIndex> {
    const path = this.#path(name)
    try {
      mkdirSync(this.#folder, { recursive: true })
      await withFileLock(`${path}.lock`, LOCK_TIMEOUT_MS, () => {
        // Another process may have made it while this one waited.
        if (!existsSync(path) || statSync(path).size === 0) createIndexFile(path, name, spec)
      })
    } catch (error) {
      if (error instanceof RagError) throw error
      throw new RagError('store_unavailable', `${path}: cannot be made: ${messageOf(error)}`, null, { cause: error })
    }
    const index = await this.open(name)
    if (!index) throw new RagError('store_unavailable', `${path}: vanished right after it was made`)
    return index
  }

  #path(name: string): string {
    return join(this.#folder, name + EXTENSION)
  }
}
