/** The memory store in the calling thread: a folder with one file per index, each loaded on first use. */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseStoredName, storedName } from '../access.ts'
import { RagError, storeUnavailable, systemReasonOf } from '../errors.ts'
import { makeFolder } from '../../regular-file.ts'
import { checkSpec, INDEX_NAME_WORDS, type IndexSpec, type IndexStore } from '../vector-index.ts'
import { withFileLock } from './file-lock.ts'
import { createIndexFile } from './index-file.ts'
import { JournaledIndex } from './journaled-index.ts'

const EXTENSION = '.idx'
/** The extension of the folder with a key's own indexes; index files never have it. */
const TENANT_EXTENSION = '.key'

/** Validates the stored name of a new index. @throws RagError invalid_request */
export function checkName(name: string): void {
  if (parseStoredName(name)) return
  throw new RagError('invalid_request', `index: expected ${INDEX_NAME_WORDS}`, 'index')
}

/** The path of an index file; null for a name that no index can have. */
export function indexPath(folder: string, stored: string): string | null {
  const parsed = parseStoredName(stored)
  if (!parsed) return null
  const { tenant, name } = parsed
  return join(folder, ...(tenant === null ? [] : [tenant + TENANT_EXTENSION]), name + EXTENSION)
}

/** The stored names of the indexes below a folder, in order. */
export function indexNames(folder: string): string[] {
  const namesIn = (path: string): string[] => {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return []
    const files = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isFile() || entry.isSymbolicLink())
    const names = files.map(({ name }) => name).filter((name) => name.endsWith(EXTENSION))
    return names.map((name) => name.slice(0, -EXTENSION.length)).sort()
  }
  const tenants = existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => name.endsWith(TENANT_EXTENSION))
        .sort()
    : []
  return [
    ...namesIn(folder),
    ...tenants.flatMap((tenant) =>
      namesIn(join(folder, tenant)).map((name) => storedName(tenant.slice(0, -TENANT_EXTENSION.length), name)),
    ),
  ].filter((stored) => parseStoredName(stored))
}

/** Indexes in memory, with open files, at the same time: any key may make any number of indexes. */
const MAX_LOADED = 32
/** An index unused for this long is unloaded. */
const IDLE_MS = 15 * 60_000

interface Loaded {
  readonly index: JournaledIndex
  usedMs: number
}

interface LocalMemoryStoreOptions {
  readonly maxLoaded?: number
  readonly idleMs?: number
}

/** The index files of one folder. The least recently used indexes are closed if too many are open. */
export class LocalMemoryStore implements IndexStore {
  readonly #folder: string
  readonly #maxLoaded: number
  readonly #idleMs: number
  /** Least recently used first. */
  readonly #loaded = new Map<string, Loaded>()
  readonly #timer: NodeJS.Timeout

  constructor(folder: string, { maxLoaded = MAX_LOADED, idleMs = IDLE_MS }: LocalMemoryStoreOptions = {}) {
    this.#folder = folder
    this.#maxLoaded = maxLoaded
    this.#idleMs = idleMs
    this.#timer = setInterval(() => this.unloadIdle(performance.now()), idleMs)
    this.#timer.unref()
  }

  /** Indexes in memory. */
  get numLoaded(): number {
    return this.#loaded.size
  }

  async names(): Promise<readonly string[]> {
    return indexNames(this.#folder)
  }

  async exists(name: string): Promise<boolean> {
    const path = indexPath(this.#folder, name)
    return path !== null && existsSync(path)
  }

  async open(name: string): Promise<JournaledIndex | null> {
    const path = indexPath(this.#folder, name)
    if (path === null) return null
    if (!existsSync(path)) {
      this.#unload(name)
      return null
    }
    const known = this.#loaded.get(name)
    this.#loaded.delete(name)
    try {
      const index = known?.index ?? new JournaledIndex(path, name)
      // In the background; fails harmlessly if the file is read-only.
      if (!known) index.settle().catch(() => undefined)
      this.#loaded.set(name, { index, usedMs: performance.now() })
      this.#unloadMost()
      return index
    } catch (error) {
      if (error instanceof RagError) throw error
      throw storeUnavailable(`index ${name} cannot be read: ${systemReasonOf(error)}`, error)
    }
  }

  async openOrCreate(name: string, spec: IndexSpec): Promise<JournaledIndex> {
    checkName(name)
    const index = (await this.open(name)) ?? (await this.#create(name, spec))
    checkSpec(index, spec)
    return index
  }

  async drop(name: string): Promise<boolean> {
    const path = indexPath(this.#folder, name)
    if (path === null || !existsSync(path)) return false
    await withFileLock(`${path}.lock`, () => rmSync(path, { force: true }))
    this.#unload(name)
    return true
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    const indexes = [...this.#loaded.values()].map(({ index }) => index)
    this.#loaded.clear()
    await Promise.allSettled(indexes.map((index) => index.settle()))
    for (const index of indexes) index.close()
  }

  /** Unloads indexes that were not used for long. @param nowMs as of `performance.now()` */
  unloadIdle(nowMs: number): void {
    for (const [name, { usedMs }] of this.#loaded) if (nowMs - usedMs >= this.#idleMs) this.#unload(name)
  }

  /** Unloads indexes down to the limit, except the last one, which is in use, and those being written. */
  #unloadMost(): void {
    const names = [...this.#loaded.keys()].slice(0, -1)
    for (const name of names) {
      if (this.#loaded.size <= this.#maxLoaded) return
      this.#unload(name)
    }
  }

  #unload(name: string): void {
    const loaded = this.#loaded.get(name)
    if (!loaded || loaded.index.isWriting) return
    loaded.index.close()
    this.#loaded.delete(name)
  }

  async #create(name: string, spec: IndexSpec): Promise<JournaledIndex> {
    const path = indexPath(this.#folder, name)
    if (path === null) throw new Error('a name that checkName lets pass has a path')
    try {
      makeFolder(dirname(path))
      await withFileLock(`${path}.lock`, () => {
        // Another process may have made it while this one waited.
        if (!existsSync(path) || statSync(path).size === 0) createIndexFile(path, name, spec)
      })
    } catch (error) {
      if (error instanceof RagError) throw error
      throw storeUnavailable(`index ${name} cannot be created: ${systemReasonOf(error)}`, error)
    }
    const index = await this.open(name)
    if (!index) throw storeUnavailable(`index ${name} disappeared right after it was created`)
    return index
  }
}
