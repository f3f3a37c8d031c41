/**
 * Indexes in PostgreSQL with the pgvector extension, for data that outgrows one process. The schema `miniserve` has four tables: indexes, documents,
 * chunks, and the number of an index's chunks with each term. Vector search is exact until an index is large; a large index has an HNSW index of
 * its own, which is approximate.
 */
import { parseStoredName } from '../access.ts'
import { RagError, storeUnavailable } from '../errors.ts'
import { shared } from '../../promises.ts'
import { checkSpec, type IndexSpec, type IndexStore } from '../vector-index.ts'
import { Database } from './database.ts'
import { type LargeIndexOptions, LargeIndexes } from './large-indexes.ts'
import { checkName } from './memory-local.ts'
import { PgvectorIndex } from './pgvector-index.ts'
import { migrate } from './pgvector-schema.ts'

/** Prefix of the name of a dropped index whose rows are not deleted yet. No index can have such a name. */
const DROPPED = '~'

/** Attempts at updating the tables. */
const MIGRATION_TRIES = 5

const isDeadlock = (error: unknown): boolean =>
  error instanceof RagError && error.cause instanceof Error && 'code' in error.cause && error.cause.code === '40P01'

/** Opens the store on first use. @param url postgres://user:password@host:port/database; the user must be allowed to create a schema */
export const createPgvectorStore = (url: string, options: LargeIndexOptions = {}): IndexStore =>
  new PgvectorStore(url, options)

class PgvectorStore implements IndexStore {
  readonly #database: Database
  readonly #large: LargeIndexes
  /** Makes or updates the tables. Tried again after a failure, since the database may be back. */
  readonly #prepare = shared(() => this.#migrate())

  constructor(url: string, options: LargeIndexOptions) {
    this.#database = new Database(url)
    this.#large = new LargeIndexes(this.#database, options)
  }

  async names(): Promise<readonly string[]> {
    await this.#prepare()
    const rows = await this.#database.query<{ name: string }>(
      `select name from miniserve.indexes where name not like '${DROPPED}%'`,
      [],
    )
    return rows.map(({ name }) => name).sort()
  }

  async exists(name: string): Promise<boolean> {
    return (await this.open(name)) !== null
  }

  async open(name: string): Promise<PgvectorIndex | null> {
    if (!parseStoredName(name)) return null
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string; num_chunks: string } & IndexSpec>(
      'select index_id, model, dimensions, num_chunks from miniserve.indexes where name = $1',
      [name],
    )
    if (!row) return null
    const id = Number(row.index_id)
    this.#large.consider({ id, dimensions: row.dimensions, numChunks: Number(row.num_chunks) })
    return new PgvectorIndex(this.#database, id, name, row, this.#large)
  }

  async openOrCreate(name: string, spec: IndexSpec): Promise<PgvectorIndex> {
    checkName(name)
    await this.#prepare()
    await this.#database.query(
      'insert into miniserve.indexes (name, model, dimensions) values ($1, $2, $3) on conflict do nothing',
      [name, spec.model, spec.dimensions],
    )
    const index = await this.open(name)
    if (!index) throw storeUnavailable('the index disappeared right after it was created')
    checkSpec(index, spec)
    return index
  }

  async drop(name: string): Promise<boolean> {
    if (!parseStoredName(name)) return false
    await this.#prepare()
    const [row] = await this.#database.query<{ index_id: string }>(
      `update miniserve.indexes set name = '${DROPPED}' || index_id where name = $1 returning index_id`,
      [name],
    )
    if (row) this.#large.clear(Number(row.index_id))
    return row !== undefined
  }

  close(): Promise<void> {
    this.#large.close()
    return this.#database.close()
  }

  async #migrate(): Promise<void> {
    for (let numTries = 1; ; numTries++) {
      try {
        await this.#database.transaction(migrate)
        break
      } catch (error) {
        // A search by an older server may hold some of the tables and wait for others: the database then cancels one of the two.
        if (numTries === MIGRATION_TRIES || !isDeadlock(error)) throw error
      }
    }
    // Indexes dropped by a server that ended before it deleted their rows.
    const rows = await this.#database.query<{ index_id: string }>(
      `select index_id from miniserve.indexes where name like '${DROPPED}%'`,
      [],
    )
    for (const { index_id: id } of rows) this.#large.clear(Number(id))
  }
}
