/**
 * Admission before any work: limits how many requests may come in at a time, and how many bytes. A server that parses and tokenizes before
 * it refuses would spend its time on requests that it will not serve. Pools are counted separately, so that an upload of documents does
 * not keep completions out. The engine checks the exact limit in tokens later.
 */
import type { EngineStats } from '../engine/request.ts'
import { ApiError, tooLarge } from './errors.ts'

/** Requests that are counted together: for the engine's queue, for retrieval, for the tokenizer. */
export type AdmissionPool = 'generation' | 'retrieval' | 'tokenizer'

/** The bodies of a pool that are in memory may take this many times the largest body. */
const BODY_BUDGET: Readonly<Record<AdmissionPool, number>> = { generation: 8, retrieval: 4, tokenizer: 2 }

/** A pipelining client gets its answers in order, so more requests at a time gain it nothing. */
const MAX_REQUESTS_PER_CONNECTION = 32

interface AdmissionOptions {
  readonly maxQueuedRequests: number
  readonly maxRequestBytes: number
  readonly stats: () => Pick<EngineStats, 'numWaiting'>
  /** `ready`, or why requests are refused. */
  readonly state: () => 'ready' | 'loading' | 'draining'
}

/** A request's place before its work begins. */
export interface AdmissionPlace {
  /** Bytes that its body may have. */
  readonly maxBytes: number
  /**
   * Counts bytes of the body. They count as in memory until they are dropped or the place is released.
   * @throws ApiError 429 if all bodies together would need more memory than they may.
   */
  arrived(numBytes: number): void
  /** Bytes of the body that are no longer in memory. */
  dropped(numBytes: number): void
  /** The whole body is read and parsed. Retrieval then gives its place back: its own queues are bounded. */
  parsed(): void
  /** Gives the place back, once the engine has the request or when it is refused. Later calls do nothing. */
  release(): void
}

/** Admits requests before their bodies are read. Limits how many wait, and the bytes of their bodies, per pool. */
export class Admission {
  readonly #options: AdmissionOptions
  readonly #pools: Record<AdmissionPool, { entering: number; bytes: number }> = {
    generation: { entering: 0, bytes: 0 },
    retrieval: { entering: 0, bytes: 0 },
    tokenizer: { entering: 0, bytes: 0 },
  }
  readonly #connections = new WeakMap<object, number>()

  constructor(options: AdmissionOptions) {
    this.#options = options
  }

  /**
   * Takes a place. A declared length that cannot fit is refused at once, but only bytes that arrive are counted: a client that
   * declares much and sends little does not keep others out.
   * @param contentLength null: unknown
   * @throws ApiError 503 while loading or draining, 413, 429.
   */
  admit(pool: AdmissionPool, contentLength: number | null): AdmissionPlace {
    const { maxQueuedRequests, maxRequestBytes, stats, state } = this.#options
    const now = state()
    if (now !== 'ready')
      throw new ApiError(now, now === 'loading' ? 'the model is loading' : 'the server is shutting down')
    if (contentLength !== null && contentLength > maxRequestBytes) throw tooLarge(maxRequestBytes, contentLength)
    const counts = this.#pools[pool]
    const waiting = counts.entering + (pool === 'generation' ? stats().numWaiting : 0)
    if (waiting >= maxQueuedRequests) {
      throw new ApiError('queue_full', `the queue is full: ${waiting} of ${maxQueuedRequests} requests are waiting`)
    }
    this.#requireRoom(pool, contentLength ?? 0)
    counts.entering++
    let heldBytes = 0
    let isHeld = true
    const release = () => {
      if (!isHeld) return
      isHeld = false
      counts.entering--
      counts.bytes -= heldBytes
      heldBytes = 0
    }
    return {
      maxBytes: maxRequestBytes,
      arrived: (numBytes) => {
        if (!isHeld) return
        this.#requireRoom(pool, numBytes)
        heldBytes += numBytes
        counts.bytes += numBytes
      },
      dropped: (numBytes) => {
        const left = Math.max(0, heldBytes - numBytes)
        counts.bytes -= heldBytes - left
        heldBytes = left
      },
      parsed: pool === 'retrieval' ? release : () => {},
      release,
    }
  }

  /** Counts a request of the connection until the returned function is called. @throws ApiError 429 for one too many. */
  enterConnection(connection: object): () => void {
    const open = this.#connections.get(connection) ?? 0
    if (open >= MAX_REQUESTS_PER_CONNECTION) {
      throw new ApiError(
        'too_many_pipelined',
        `expected at most ${MAX_REQUESTS_PER_CONNECTION} unanswered requests on one connection, found more`,
      )
    }
    this.#connections.set(connection, open + 1)
    return () => this.#connections.set(connection, (this.#connections.get(connection) ?? 1) - 1)
  }

  #requireRoom(pool: AdmissionPool, numBytes: number): void {
    const { bytes } = this.#pools[pool]
    const maxBytes = this.#options.maxRequestBytes * BODY_BUDGET[pool]
    if (bytes + numBytes <= maxBytes) return
    throw new ApiError(
      'bytes_in_flight',
      `too many bytes are in flight: request bodies take ${bytes} of ${maxBytes}, this one needs ${numBytes} more`,
    )
  }
}
