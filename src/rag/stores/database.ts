/** A pool of PostgreSQL connections: statements that can be cancelled, transactions, and one error for all failures. */
import { Client, Pool, type PoolClient, type QueryResultRow } from 'pg'
import { clientCall } from '../../observability/context.ts'
import { RagError } from '../errors.ts'

const POOL_SIZE = 8
const CONNECT_TIMEOUT_MS = 5_000
const STATEMENT_TIMEOUT_MS = 30_000
/** How long a connection for cancellations is kept. */
const CANCELLER_IDLE_MS = 10_000
/**
 * Of each session. Filters apply to the candidates that the graph gives: iterative scans go on until the filter has enough, in the order of the
 * graph, which is sorted afterwards. Compiling a statement costs more than it saves in those that are run here.
 */
const SESSION_SETTINGS =
  'set hnsw.iterative_scan = relaxed_order; set hnsw.max_scan_tuples = 100000; set hnsw.scan_mem_multiplier = 8; set jit = off'

/** Whatever the database or the way to it did wrong, as one error. */
function storeError(error: unknown): RagError {
  if (error instanceof RagError) return error
  // The database's own message may quote values, and the way to it: it is for the log.
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : ''
  return new RagError('store_unavailable', `the database cannot be reached or failed${code}`, null, { cause: error })
}

/** Runs statements with a deadline and an abort signal. Errors become RagError store_unavailable. */
export class Database {
  readonly #url: string
  readonly #pool: Pool
  /** Of its own: in the pool, a cancellation would wait for the connections of what it is to cancel. */
  readonly #cancellers: Pool
  readonly #maintaining = new Set<Client>()
  /** The size of HNSW's list of candidates that a connection has. */
  readonly #efSearch = new WeakMap<PoolClient, number>()
  #isClosed = false

  /** @param url postgres://user:password@host:port/database. Nothing is dialled yet. */
  constructor(url: string) {
    this.#url = url
    this.#cancellers = new Pool({
      connectionString: url,
      max: 1,
      idleTimeoutMillis: CANCELLER_IDLE_MS,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      statement_timeout: STATEMENT_TIMEOUT_MS,
      application_name: 'miniserve cancel',
    })
    this.#pool = new Pool({
      connectionString: url,
      max: POOL_SIZE,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      statement_timeout: STATEMENT_TIMEOUT_MS,
      application_name: 'miniserve',
      // Not as options of the connection, which poolers refuse.
      onConnect: async (client) => {
        // pgvector's settings are known once it is loaded.
        await client.query(`select '[1]'::vector`).catch(() => undefined)
        await client.query(SESSION_SETTINGS).catch(() => undefined)
      },
    })
    // Without listeners, a connection that breaks would end the process. The pool replaces an idle one, and listens to no other: what a
    // statement runs on fails that statement too.
    for (const pool of [this.#pool, this.#cancellers]) {
      pool.on('error', () => undefined)
      pool.on('connect', (client) => client.on('error', () => undefined))
    }
  }

  /**
   * Rows of a statement.
   * @param efSearch size of HNSW's list of candidates for it
   * @throws RagError store_unavailable; the signal's reason once it is aborted: the statement is then cancelled on the server.
   */
  query<R extends QueryResultRow>(
    text: string,
    values: readonly unknown[],
    signal?: AbortSignal,
    efSearch?: number,
  ): Promise<R[]> {
    const operation = /^\s*(\w+)/.exec(text)?.[1]?.toUpperCase() ?? 'QUERY'
    const { hostname, port, pathname } = new URL(URL.canParse(this.#url) ? this.#url : 'postgres://localhost')
    const attributes = {
      'db.system.name': 'postgresql',
      'db.operation.name': operation,
      'db.namespace': pathname.slice(1) || undefined,
      'server.address': hostname,
      'server.port': Number(port) || 5432,
    }
    return clientCall(`${operation} postgresql`, attributes, () => this.#rows<R>(text, values, signal, efSearch))
  }

  /** Runs statements as one change: all of them or, when something is thrown, none. @throws RagError */
  async transaction(work: (client: PoolClient) => Promise<void>): Promise<void> {
    const client = await this.#connect()
    let isBroken = false
    try {
      await client.query('begin')
      await work(client)
      await client.query('commit')
    } catch (error) {
      isBroken = true
      await client.query('rollback').catch(() => undefined)
      throw storeError(error)
    } finally {
      // A connection that failed is not given back: its state is not known.
      client.release(isBroken)
    }
  }

  /** Statements without a time limit, one after the other on a connection of their own, outside of any transaction. @throws RagError */
  async maintain(
    work: (run: <R extends QueryResultRow>(text: string) => Promise<R[]>) => Promise<unknown>,
  ): Promise<void> {
    if (this.#isClosed) return
    const client = new Client({
      connectionString: this.#url,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      application_name: 'miniserve maintenance',
    })
    client.on('error', () => undefined)
    this.#maintaining.add(client)
    try {
      await client.connect()
      await work(async <R extends QueryResultRow>(text: string) => (await client.query<R>(text)).rows)
    } catch (error) {
      throw storeError(error)
    } finally {
      this.#maintaining.delete(client)
      await client.end().catch(() => undefined)
    }
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    // What is being built is built by the next server.
    await Promise.allSettled([...this.#maintaining].map((client) => client.end()))
    await Promise.all([this.#pool.end(), this.#cancellers.end()])
  }

  async #connect(): Promise<PoolClient> {
    try {
      return await this.#pool.connect()
    } catch (error) {
      throw storeError(error)
    }
  }

  async #rows<R extends QueryResultRow>(
    text: string,
    values: readonly unknown[],
    signal: AbortSignal | undefined,
    efSearch: number | undefined,
  ): Promise<R[]> {
    signal?.throwIfAborted()
    const client = await this.#connect()
    let cancelling: Promise<unknown> | null = null
    let isBroken = false
    const onAbort = (): void => {
      cancelling = this.#cancellers.query('select pg_cancel_backend($1)', [backendOf(client)]).catch(() => undefined)
    }
    try {
      signal?.throwIfAborted()
      signal?.addEventListener('abort', onAbort, { once: true })
      if (efSearch !== undefined && this.#efSearch.get(client) !== efSearch) {
        await client.query(`set hnsw.ef_search = ${efSearch}`)
        this.#efSearch.set(client, efSearch)
      }
      return (await client.query<R>(text, [...values])).rows
    } catch (error) {
      signal?.throwIfAborted()
      isBroken = !isStatementError(error)
      throw storeError(error)
    } finally {
      signal?.removeEventListener('abort', onAbort)
      await cancelling
      // A cancellation that came too late would hit the next statement of this connection.
      client.release(isBroken || cancelling !== null)
    }
  }
}

/** The database refused the statement, and the connection is well: its errors have a code of five characters, the network's have names. */
const isStatementError = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code)

/** Process id of the server's side of a connection, which pg keeps and does not declare. */
const backendOf = (client: PoolClient): unknown => Reflect.get(client, 'processID')
