/** A pool of PostgreSQL connections: statements that can be cancelled, transactions, and one error for whatever goes wrong. */
import { Pool, type PoolClient, type QueryResultRow } from 'pg'
import { messageOf, RagError } from '../errors.ts'

const POOL_SIZE = 8
const CONNECT_TIMEOUT_MS = 5_000
const STATEMENT_TIMEOUT_MS = 30_000

/** Whatever the database or the way to it did wrong, as one error. */
function storeError(error: unknown): RagError {
  if (error instanceof RagError) return error
  return new RagError('store_unavailable', `the pgvector store failed: ${messageOf(error) || 'no connection'}`, null, {
    cause: error,
  })
}

export class Database {
  readonly #pool: Pool
  #isClosed = false

  /** @param url postgres://user:password@host:port/database. Nothing is dialled yet. */
  constructor(url: string) {
    this.#pool = new Pool({
      connectionString: url,
      max: POOL_SIZE,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      statement_timeout: STATEMENT_TIMEOUT_MS,
      application_name: 'miniserve',
    })
    // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
    this.#pool.on('error', () => undefined)
  }

  /**
   * Rows of a statement.
   * @throws RagError store_unavailable; the signal's reason once it is aborted: the statement is then cancelled on the server.
   */
  async query<R extends QueryResultRow>(text: string, values: readonly unknown[], signal?: AbortSignal): Promise<R[]> {
    if (signal) return this.#cancellable(text, values, signal)
    try {
      return (await this.#pool.query<R>(text, [...values])).rows
    } catch (error) {
      throw storeError(error)
    }
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

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await this.#pool.end()
  }

  async #connect(): Promise<PoolClient> {
    try {
      return await this.#pool.connect()
    } catch (error) {
      throw storeError(error)
    }
  }

  async #cancellable<R extends QueryResultRow>(
    text: string,
    values: readonly unknown[],
    signal: AbortSignal,
  ): Promise<R[]> {
    signal.throwIfAborted()
    const client = await this.#connect()
    let cancelling: Promise<unknown> | null = null
    const onAbort = (): void => {
      cancelling = this.#pool.query('select pg_cancel_backend($1)', [backendOf(client)]).catch(() => undefined)
    }
    try {
      signal.throwIfAborted()
      signal.addEventListener('abort', onAbort, { once: true })
      return (await client.query<R>(text, [...values])).rows
    } catch (error) {
      signal.throwIfAborted()
      throw storeError(error)
    } finally {
      signal.removeEventListener('abort', onAbort)
      await cancelling
      // A cancellation that came too late would hit the next statement of this connection.
      client.release(cancelling !== null)
    }
  }
}

/** Process id of the server's side of a connection, which pg keeps and does not declare. */
const backendOf = (client: PoolClient): unknown => Reflect.get(client, 'processID')
