/** Approximate indexes of the pgvector store, built beside the requests: a build takes minutes, and upserts go on meanwhile. */
import type { Database } from './database.ts'

/** pgvector's limit for HNSW over `vector`. */
const HNSW_MAX_DIMENSIONS = 2000
/** Of an advisory lock: one process builds, the others leave it to that one. */
const BUILD_LOCK = 0x686e_7377

interface IndexSize {
  /** Of miniserve.indexes. */
  readonly id: number
  readonly dimensions: number
  readonly numChunks: number
}

/** Builds HNSW indexes of large indexes in the background, one at a time. */
export class HnswBuilder {
  readonly #database: Database
  readonly #minChunks: number
  readonly #known = new Set<number>()
  #tail: Promise<void> = Promise.resolve()

  /** @param minChunks chunks of an index from which on it is worth it. */
  constructor(database: Database, minChunks: number) {
    this.#database = database
    this.#minChunks = minChunks
  }

  /** Builds one in the background where an index has grown large enough. A build that fails is tried again by the next call. */
  consider({ id, dimensions, numChunks }: IndexSize): void {
    if (this.#known.has(id) || numChunks < this.#minChunks || dimensions > HNSW_MAX_DIMENSIONS) return
    this.#known.add(id)
    this.#tail = this.#tail
      .then(() => this.#build(id, dimensions))
      .catch(() => {
        this.#known.delete(id)
      })
  }

  drop(id: number): void {
    this.#known.delete(id)
    this.#tail = this.#tail
      .then(() => this.#database.maintain((run) => run(`drop index concurrently if exists miniserve.${nameOf(id)}`)))
      .catch(() => {})
  }

  #build(id: number, dimensions: number): Promise<void> {
    return this.#database.maintain(async (run) => {
      const [lock] = await run<{ locked: boolean }>(
        `select pg_try_advisory_lock(${BUILD_LOCK}, ${id % 2 ** 31}) as locked`,
      )
      if (!lock?.locked) return
      // What a build that was cut short left behind is never used, and would be taken for a finished one.
      const [found] = await run<{ valid: boolean }>(
        `select indisvalid as valid from pg_index where indexrelid = to_regclass('miniserve.${nameOf(id)}')`,
      )
      if (found?.valid) return
      if (found) await run(`drop index concurrently miniserve.${nameOf(id)}`)
      await run(
        `create index concurrently ${nameOf(id)} on miniserve.chunks
         using hnsw ((embedding::vector(${dimensions})) vector_ip_ops) where index_id = ${id}`,
      )
    })
  }
}

const nameOf = (id: number): string => `chunks_hnsw_${id}`
