/** A pool of PostgreSQL connections with cancellable statements, transactions, and one error for all failures. */
import { Client, Pool, type PoolClient, type QueryResultRow } from 'pg'
import { clientCall } from '../../observability/context.ts'
import { RagError, storeUnavailable } from '../errors.ts'

const POOL_SIZE = 8
const CONNECT_TIMEOUT_MS = 5_000
const STATEMENT_TIMEOUT_MS = 30_000
/** How long an idle connection for cancellations is kept. */
const CANCELLER_IDLE_MS = 10_000
/**
 * Settings of each session. A filter applies to the candidates of the graph: iterative scans continue until enough of them pass, in the graph's
 * order, and the result is sorted afterwards. Just-in-time compilation costs more than it saves for these statements.
 */
const SESSION_SETTINGS =
  'set hnsw.iterative_scan = relaxed_order; set hnsw.max_scan_tuples = 100000; set hnsw.scan_mem_multiplier = 8; set jit = off'

/** Any failure of the database or of the connection as one error. */
function storeError(error: unknown): RagError {
  if (error instanceof RagError) return error
  // The database's own message may contain values or its address, so it goes only to the log.
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : ''
  return storeUnavailable(`the database failed or cannot be reached${code}`, error)
}

/** Runs statements with a deadline and an abort signal. Errors become RagError store_unavailable. */
export class Database {
  readonly #url: string
  readonly #pool: Pool
  /** A separate pool: in the main one, a cancellation could wait for the very statements that it should cancel. */
  readonly #cancellers: Pool
  readonly #maintaining = new Set<Client>()
  /** The length of HNSW's list of candidates set for each connection. */
  readonly #efSearch = new WeakMap<PoolClient, number>()
  #isClosed = false

  /** Does not connect yet. @param url postgres://user:password@host:port/database */
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
      // Not as connection options, which poolers refuse.
      onConnect: async (client) => {
        // Loads pgvector, which makes its settings known.
        await client.query(`select '[1]'::vector`).catch(() => undefined)
        await client.query(SESSION_SETTINGS).catch(() => undefined)
      },
    })
    // Without listeners, a broken connection would end the process. The pool replaces idle connections; one in use fails its statement, too.
    for (const pool of [this.#pool, this.#cancellers]) {
      pool.on('error', () => undefined)
      pool.on('connect', (client) => client.on('error', () => undefined))
    }
  }

  /**
   * Runs a statement and returns its rows.
   * @param efSearch the length of HNSW's list of candidates
   * @throws RagError store_unavailable; the signal's reason once it is aborted, after cancelling the statement on the server
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

  /** Runs statements as one transaction, which is rolled back if anything is thrown. @throws RagError */
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
      // A connection that failed is closed, because its state is unknown.
      client.release(isBroken)
    }
  }

  /** Runs statements without a time limit, one after the other on a separate connection, outside any transaction. @throws RagError */
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
    // The next server builds what is unfinished.
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
      // A late cancellation would hit the next statement of this connection.
      client.release(isBroken || cancelling !== null)
    }
  }
}

/** Whether the database refused the statement over a healthy connection. Its errors have codes of five characters; network errors have names. */
const isStatementError = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code)

/** The process id of the server's side of a connection, which pg has but does not declare. */
const backendOf = (client: PoolClient): unknown => Reflect.get(client, 'processID')
