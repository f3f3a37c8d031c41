/** The indexes as one caller sees them: its own, those shared with it, and the bundled one, each by its name. */
import { parseStoredName, SERVER_ACCESS, storedName, type IndexAccess } from './access.ts'
import type { BundledIndex } from './bundled.ts'
import { indexNotFound, RagError } from './errors.ts'
import { isIndexName, type IndexInfo, type IndexSpec, type IndexStore, type VectorIndex } from './vector-index.ts'

/** Name of the bundled index. */
export const BUNDLED_INDEX = 'docs'

/** An index in a list. `name` is what requests name it by. */
export interface ListedIndex extends IndexInfo {
  /** The key that made it; null: the server's. */
  readonly owner: string | null
  readonly isBundled: boolean
}

interface IndexCatalogParts {
  readonly store: IndexStore
  readonly bundled: BundledIndex | null
  /** Every caller may search the server's index of this name. */
  readonly defaultIndex: string
}

/** Index names of one caller, resolved to indexes in the store. Names of different owners do not meet. */
export class IndexCatalog {
  readonly #parts: IndexCatalogParts
  readonly #access: IndexAccess

  constructor(parts: IndexCatalogParts, access: IndexAccess = SERVER_ACCESS) {
    this.#parts = parts
    this.#access = access
  }

  /** The same indexes as another caller sees them. */
  as(access: IndexAccess): IndexCatalog {
    return new IndexCatalog(this.#parts, access)
  }

  /** The index meant by a name, or by none. @throws RagError invalid_request for what cannot be one. */
  checkedName(name: string | null): string {
    const wanted = name ?? this.#parts.defaultIndex
    if (isIndexName(wanted) || (this.#access.isAdmin && parseStoredName(wanted))) return wanted
    throw new RagError(
      'invalid_request',
      'index: expected up to 64 letters, digits, dots, dashes and underscores',
      'index',
    )
  }

  /**
   * The index of a name for searching and reading; null where the caller has none. The bundled one is not among them: see `bundledOf`.
   * An index of another key is not looked for, so that nothing about an answer depends on it.
   */
  async find(name: string): Promise<VectorIndex | null> {
    const { store } = this.#parts
    const { tenant } = this.#access
    if (tenant === null) {
      const stored = await this.#storedNameOf(name)
      return stored === null ? null : store.open(stored)
    }
    if (!isIndexName(name)) return null
    const own = await store.open(storedName(tenant, name))
    return own ?? (this.#sharedAccess(name) === null ? null : store.open(name))
  }

  /** As `find`, and where the bundled index answers in the place of an empty one, that one. @throws RagError index_not_found */
  async open(name: string): Promise<VectorIndex> {
    const index = await this.#findFilled(name)
    if (index) return index
    const bundled = this.bundledOf(name)
    if (bundled) return bundled.open()
    throw indexNotFound()
  }

  /** The bundled index where a name means it. */
  bundledOf(name: string): BundledIndex | null {
    return name === BUNDLED_INDEX ? this.#parts.bundled : null
  }

  /** The index that documents of the caller go into; made where there is none. @throws RagError invalid_request, index_model_mismatch */
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

  /** The index of a name that the caller may change. @throws RagError index_not_found, invalid_request if it may only search it. */
  async openForChange(name: string): Promise<VectorIndex> {
    const index = await this.#findFilled(name)
    if (index) {
      await this.#requireChange(name)
      return index
    }
    throw this.bundledOf(name) ? bundledIsFixed() : indexNotFound()
  }

  /** Drops an index; under the bundled one's name, the bundled one answers again. @throws RagError index_not_found, invalid_request */
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
      // If a key has an index with the name of a shared one, it gets its own; the admin distinguishes them by key.
      const shown = isShadowed && this.#access.isAdmin && owner !== null ? stored : name
      if (!seen.has(shown) || owner !== null) seen.set(shown, { ...info, name: shown, owner, isBundled: false })
    }
    if (bundled && !seen.has(BUNDLED_INDEX)) {
      seen.set(BUNDLED_INDEX, { ...(await (await bundled.open()).info()), owner: null, isBundled: true })
    }
    return [...seen.values()]
  }

  /** Forgets what is known of an index that turned out to have changed. */
  forget(index: VectorIndex): void {
    this.#parts.store.forget?.(index.name)
  }

  /** The caller's index of a name, unless the bundled one answers in its place. */
  async #findFilled(name: string): Promise<VectorIndex | null> {
    const index = await this.find(name)
    if (!index || !this.bundledOf(name)) return index
    return (await index.info()).numChunks === 0 ? null : index
  }

  /** By what name the store has the index; null where the caller has none of it. */
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

  /** Whether documents for a name go into the server's index. @throws RagError invalid_request where that may only be searched. */
  async #takesShared(name: string): Promise<boolean> {
    const access = this.#sharedAccess(name)
    if (access === null || access === 'make') return access !== null
    if (!(await this.#parts.store.exists(name))) return false
    if (access === 'change') return true
    throw sharedIsFixed()
  }

  /** @throws RagError invalid_request where a name means a shared index that the caller may only search. */
  async #requireChange(name: string): Promise<void> {
    const { tenant } = this.#access
    if (tenant === null || (await this.#parts.store.exists(storedName(tenant, name)))) return
    if (this.#sharedAccess(name) === 'read') throw sharedIsFixed()
  }

  /** Stored names of what the caller sees. */
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

/** null for an index that is damaged or gone: the list still shows the others, and a request for it gets an error. */
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
