/** The indexes that one caller may use, by name: its own, the shared ones and the bundled one. */
import { parseStoredName, SERVER_ACCESS, storedName, type IndexAccess } from './access.ts'
import type { BundledIndex } from './bundled.ts'
import { indexNotFound, RagError } from './errors.ts'
import {
  INDEX_NAME_WORDS,
  isIndexName,
  type IndexInfo,
  type IndexSpec,
  type IndexStore,
  type VectorIndex,
} from './vector-index.ts'

/** The name of the bundled index. */
export const BUNDLED_INDEX = 'docs'

/** An index in a list. `name` is the name for requests. */
export interface ListedIndex extends IndexInfo {
  /** The key that made it; null: the server. */
  readonly owner: string | null
  readonly isBundled: boolean
}

interface IndexCatalogParts {
  readonly store: IndexStore
  readonly bundled: BundledIndex | null
  /** The name of the server's index that every caller may search. */
  readonly defaultIndex: string
}

/** Resolves the index names of one caller to indexes in the store. Equal names of different owners do not collide. */
export class IndexCatalog {
  readonly #parts: IndexCatalogParts
  readonly #access: IndexAccess

  constructor(parts: IndexCatalogParts, access: IndexAccess = SERVER_ACCESS) {
    this.#parts = parts
    this.#access = access
  }

  /** The catalog of another caller. */
  as(access: IndexAccess): IndexCatalog {
    return new IndexCatalog(this.#parts, access)
  }

  /** The name of an index; without a name, that of the default index. @throws RagError invalid_request for an invalid name */
  checkedName(name: string | null): string {
    const wanted = name ?? this.#parts.defaultIndex
    if (isIndexName(wanted) || (this.#access.isAdmin && parseStoredName(wanted))) return wanted
    throw new RagError('invalid_request', `index: expected ${INDEX_NAME_WORDS}`, 'index')
  }

  /**
   * Finds an index for searching and reading; null if the caller has none of that name. Does not find the bundled index: see `bundledOf`. Never looks for
   * an index of another key, so that answers cannot reveal it.
   */
  async find(name: string): Promise<VectorIndex | null> {
    const { store } = this.#parts
    const { tenant, isAdmin } = this.#access
    if (isIndexName(name)) {
      const own = await store.open(storedName(tenant, name))
      if (own) return own
      if (tenant !== null) return this.#sharedAccess(name) === null ? null : store.open(name)
    }
    if (!isAdmin) return null
    const stored = await this.#storedNameOf(name)
    return stored === null ? null : store.open(stored)
  }

  /** As `find`, but returns the bundled index in place of a missing or empty one of its name. @throws RagError index_not_found */
  async open(name: string): Promise<VectorIndex> {
    const index = await this.#findFilled(name)
    if (index) return index
    const bundled = this.bundledOf(name)
    if (bundled) return bundled.open()
    throw indexNotFound()
  }

  /** The bundled index if it has this name. */
  bundledOf(name: string): BundledIndex | null {
    return name === BUNDLED_INDEX ? this.#parts.bundled : null
  }

  /** The index for the caller's documents; makes it if necessary. @throws RagError invalid_request, index_model_mismatch */
  async openForWriting(name: string, spec: IndexSpec): Promise<VectorIndex> {
    const { store } = this.#parts
    const { tenant } = this.#access
    const wanted = this.checkedName(name)
    if (tenant === null) {
      const stored = await this.#storedNameOf(wanted)
      if (stored === null && !isIndexName(wanted)) throw indexNotFound()
      return store.openOrCreate(stored ?? wanted, spec)
    }
    const own = storedName(tenant, wanted)
    if (!(await store.exists(own)) && (await this.#takesShared(wanted))) return store.openOrCreate(wanted, spec)
    return store.openOrCreate(own, spec)
  }

  /** An index that the caller may change. @throws RagError index_not_found; invalid_request for one that it may only search */
  async openForChange(name: string): Promise<VectorIndex> {
    const index = await this.#findFilled(name)
    if (index) {
      await this.#requireChange(name)
      return index
    }
    throw this.bundledOf(name) ? bundledIsFixed() : indexNotFound()
  }

  /** Drops an index. If it had the bundled index's name, the bundled index answers again. @throws RagError index_not_found, invalid_request */
  async drop(name: string): Promise<void> {
    const stored = await this.#storedNameOf(name)
    if (stored !== null) {
      await this.#requireChange(name)
      if (await this.#parts.store.drop(stored)) return
    }
    throw this.bundledOf(name) ? bundledIsFixed() : indexNotFound()
  }

  async list(): Promise<readonly ListedIndex[]> {
    const { bundled, store } = this.#parts
    const seen = new Map<string, ListedIndex>()
    const owned = (await this.#visible()).map((stored) => ({ stored, ...(parseStoredName(stored) ?? NOT_NAMED) }))
    for (const { stored, tenant: owner, name } of owned) {
      const info = await infoOf(store, stored)
      if (!info || (bundled && name === BUNDLED_INDEX && info.numDocuments === 0)) continue
      const isShadowed = owned.some((other) => other.name === name && other.stored !== stored)
      // For a key, its own index hides a shared one of the same name; the admin distinguishes them by key.
      const shown = isShadowed && this.#access.isAdmin && owner !== null ? stored : name
      if (!seen.has(shown) || owner !== null) seen.set(shown, { ...info, name: shown, owner, isBundled: false })
    }
    if (bundled && !seen.has(BUNDLED_INDEX)) {
      seen.set(BUNDLED_INDEX, { ...(await (await bundled.open()).info()), owner: null, isBundled: true })
    }
    return [...seen.values()]
  }

  /** Forgets what the store has cached about an index that turned out to have changed. */
  forget(index: VectorIndex): void {
    this.#parts.store.forget?.(index.name)
  }

  /** As `find`, but null for an empty index in whose place the bundled index answers. */
  async #findFilled(name: string): Promise<VectorIndex | null> {
    const index = await this.find(name)
    if (!index || !this.bundledOf(name)) return index
    return (await index.info()).numChunks === 0 ? null : index
  }

  /** The stored name of an index; null if the caller has none of that name. */
  async #storedNameOf(name: string): Promise<string | null> {
    const { store } = this.#parts
    const { tenant, isAdmin } = this.#access
    if (tenant !== null) {
      if (!isIndexName(name)) return null
      const own = storedName(tenant, name)
      if (await store.exists(own)) return own
      return this.#sharedAccess(name) && (await store.exists(name)) ? name : null
    }
    if (await store.exists(name)) return isIndexName(name) || isAdmin ? name : null
    if (!isAdmin || !isIndexName(name)) return null
    const [first, ...others] = (await store.names()).filter((stored) => stored.endsWith(`:${name}`))
    return first !== undefined && others.length === 0 ? first : null
  }

  #sharedAccess(name: string): ReturnType<IndexAccess['sharedAccess']> {
    return this.#access.sharedAccess(name) ?? (name === this.#parts.defaultIndex ? 'read' : null)
  }

  /** Whether documents for a name go into the server's index. @throws RagError invalid_request if the caller may only search it */
  async #takesShared(name: string): Promise<boolean> {
    const access = this.#sharedAccess(name)
    if (access === null || access === 'make') return access !== null
    if (!(await this.#parts.store.exists(name))) return false
    if (access === 'change') return true
    throw sharedIsFixed()
  }

  /** Checks that the caller may change an index. @throws RagError invalid_request for a shared index that it may only search */
  async #requireChange(name: string): Promise<void> {
    const { tenant } = this.#access
    if (tenant === null || (await this.#parts.store.exists(storedName(tenant, name)))) return
    if (this.#sharedAccess(name) === 'read') throw sharedIsFixed()
  }

  /** The stored names of the indexes that the caller may see. */
  async #visible(): Promise<string[]> {
    const { tenant, isAdmin } = this.#access
    return (await this.#parts.store.names()).filter((stored) => {
      const parsed = parseStoredName(stored)
      if (!parsed) return false
      if (parsed.tenant !== null) return isAdmin || parsed.tenant === tenant
      return tenant === null || this.#sharedAccess(parsed.name) !== null
    })
  }
}

const NOT_NAMED = { tenant: null, name: '' }

/** The info of an index; null if it is damaged or gone, so that a list still shows the others. */
async function infoOf(store: IndexStore, stored: string): Promise<IndexInfo | null> {
  try {
    return (await (await store.open(stored))?.info()) ?? null
  } catch (error) {
    if (error instanceof RagError && error.code.startsWith('index_')) return null
    throw error
  }
}

const bundledIsFixed = (): RagError =>
  new RagError(
    'invalid_request',
    'index: the bundled index cannot be changed; POST documents to make your own of that name',
    'index',
  )

const sharedIsFixed = (): RagError =>
  new RagError('invalid_request', 'index: shared with this key for searching only; use another name', 'index')
