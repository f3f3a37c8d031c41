/**
 * The database indexes that make a large index of the pgvector store fast: HNSW over its vectors and GIN over its terms. They are built in the
 * background once documents stop arriving: building over existing rows is much faster than inserting as many one by one.
 */
import type { QueryResultRow } from 'pg'
import type { Database } from './database.ts'

/** Up to this number of chunks, reading all of them is as fast or faster. */
const MIN_CHUNKS = 20_000
/** pgvector's limit for HNSW over `halfvec`. */
const MAX_DIMENSIONS = 4000
/** Key of an advisory lock: only one process builds an index. */
const BUILD_LOCK = 0x686e_7377
/** How long no documents must arrive before the build starts. */
const QUIET_MS = 5_000
/** If documents never stop arriving, the build starts once they add less than this share of chunks per STEADY_MS: the graph can insert that many. */
const STEADY_MS = 60_000
const STEADY_SHARE = 0.02
/** Bytes per node of the graph besides its vector. */
const NODE_BYTES = 600
/** Memory of a build in kilobytes, so that the growing graph stays in memory. */
const MIN_BUILD_KB = 65_536
const MAX_BUILD_KB = 2_097_152
/** PostgreSQL's error code if shared memory is short, as in containers with 64 MiB of it. */
const DISK_FULL = '53100'

export interface LargeIndexOptions {
  readonly minChunks?: number
  readonly quietMs?: number
}

interface IndexSize {
  /** The key in miniserve.indexes. */
  readonly id: number
  readonly dimensions: number
  readonly numChunks: number
}

type Run = <R extends QueryResultRow>(text: string) => Promise<R[]>

interface Waiting {
  /** The time of the measurement `numChunks`, to see how fast the index grows. */
  readonly atMs: number
  readonly numChunks: number
  readonly timer: NodeJS.Timeout
}

/** Builds and drops these database indexes in the background, one at a time. */
export class LargeIndexes {
  readonly #database: Database
  /** An index with fewer chunks gets no database indexes. */
  readonly minChunks: number
  readonly #quietMs: number
  /** Indexes whose build is done, running or queued. */
  readonly #known = new Set<number>()
  readonly #waiting = new Map<number, Waiting>()
  #tail: Promise<void> = Promise.resolve()

  constructor(database: Database, { minChunks = MIN_CHUNKS, quietMs = QUIET_MS }: LargeIndexOptions) {
    this.#database = database
    this.minChunks = minChunks
    this.#quietMs = quietMs
  }

  /** To be called when an index is opened or written to. After a failed build, the next call tries again. */
  consider(size: IndexSize): void {
    const { id, numChunks } = size
    if (this.#known.has(id) || numChunks < this.minChunks) return
    const nowMs = performance.now()
    const waiting = this.#waiting.get(id)
    clearTimeout(waiting?.timer)
    const isMeasured = waiting !== undefined && nowMs - waiting.atMs >= STEADY_MS
    const isSteady = isMeasured && numChunks - waiting.numChunks < STEADY_SHARE * numChunks
    const since = waiting === undefined || isMeasured ? { atMs: nowMs, numChunks } : waiting
    const begin = () => {
      this.#waiting.delete(id)
      this.#known.add(id)
      this.#queue(() => this.#build(size)).catch(() => this.#known.delete(id))
    }
    const timer = setTimeout(begin, isSteady ? 0 : this.#quietMs)
    timer.unref()
    this.#waiting.set(id, { ...since, timer })
  }

  /** Deletes the rows and database indexes of a dropped index. */
  clear(id: number): void {
    clearTimeout(this.#waiting.get(id)?.timer)
    this.#waiting.delete(id)
    this.#known.delete(id)
    this.#queue(() =>
      this.#database.maintain(async (run) => {
        for (const name of [nearestName(id), termsName(id)])
          await run(`drop index concurrently if exists miniserve.${name}`)
        await run(`delete from miniserve.chunks where index_id = ${id}`)
        await run(`delete from miniserve.indexes where index_id = ${id}`)
      }),
    ).catch(() => {})
  }

  close(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
  }

  #queue(work: () => Promise<void>): Promise<void> {
    const done = this.#tail.then(work)
    this.#tail = done.catch(() => {})
    return done
  }

  #build({ id, dimensions, numChunks }: IndexSize): Promise<void> {
    return this.#database.maintain(async (run) => {
      const [lock] = await run<{ locked: boolean }>(
        `select pg_try_advisory_lock(${BUILD_LOCK}, ${id % 2 ** 31}) as locked`,
      )
      if (!lock?.locked) return
      const kilobytes = Math.ceil((1.5 * numChunks * (2 * dimensions + NODE_BYTES)) / 1024)
      const enough = Math.min(Math.max(kilobytes, MIN_BUILD_KB), MAX_BUILD_KB)
      await run(
        `select set_config('maintenance_work_mem', '${enough}kB', false) from pg_settings
         where name = 'maintenance_work_mem' and setting::bigint < ${enough}`,
      )
      await buildOne(run, termsName(id), `using gin (terms) where index_id = ${id}`)
      if (dimensions > MAX_DIMENSIONS) return
      const nearest = `using hnsw ((embedding::halfvec(${dimensions})) halfvec_ip_ops) where index_id = ${id}`
      await buildOne(run, nearestName(id), nearest)
      // Gives the planner statistics on the new expressions.
      await run('analyze miniserve.chunks')
    })
  }
}

async function buildOne(run: Run, name: string, definition: string): Promise<void> {
  // An interrupted build leaves an invalid index, which is never used but occupies the name.
  const [found] = await run<{ valid: boolean }>(
    `select indisvalid as valid from pg_index where indexrelid = to_regclass('miniserve.${name}')`,
  )
  if (found?.valid) return
  const create = `create index concurrently ${name} on miniserve.chunks ${definition}`
  const drop = `drop index concurrently if exists miniserve.${name}`
  if (found) await run(drop)
  try {
    await run(create)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === DISK_FULL)) throw error
    await run(drop)
    await run('set max_parallel_maintenance_workers = 0')
    await run(create)
  }
}

/** The name of an index's HNSW index. */
export const nearestName = (id: number): string => `chunks_hnsw_${id}`
/** The name of an index's GIN index. */
const termsName = (id: number): string => `chunks_terms_${id}`
