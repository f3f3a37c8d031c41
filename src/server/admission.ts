/**
 * Admission before any work: how many requests, and how many of their bytes, may be on their way. A server that parses and tokenizes
 * before it refuses spends its time on requests it will not serve. What is counted apart cannot keep the others out: documents that come
 * in for minutes leave the way to the engine free. The exact bound in tokens is the engine's, at submit.
 */
import type { EngineStats } from '../engine/request.ts'
import { ApiError, tooLarge } from './errors.ts'

/** What is counted together: requests for the engine's queue, requests for the retrieval models and stores, questions to the tokenizer. */
export type AdmissionPool = 'generation' | 'retrieval' | 'tokenizer'

/** Bodies of one pool that are read and parsed at the same time may take this many times the largest body. */
const BODY_BUDGET: Readonly<Record<AdmissionPool, number>> = { generation: 8, retrieval: 4, tokenizer: 2 }

/** A client that pipelines waits for the answers in order: more of its requests than this gain it nothing. */
const MAX_REQUESTS_PER_CONNECTION = 32

interface AdmissionOptions {
  readonly maxQueuedRequests: number
  readonly maxRequestBytes: number
  readonly stats: () => EngineStats
  /** 'ready', or why requests are refused. */
  readonly state: () => 'ready' | 'loading' | 'draining'
}

interface Applicant {
  readonly pool: AdmissionPool
  /** null: unknown. */
  readonly contentLength: number | null
}

/** A request's place before its work begins. */
interface AdmissionPlace {
  /**
   * Counts more bytes of the body, held in memory until they are dropped or the place is released.
   * @throws ApiError 429 when the bodies being read take more memory than they may.
   */
  arrived(numBytes: number): void
  /** Bytes of the body that are no longer in memory. */
  dropped(numBytes: number): void
  /** Gives the place back, once the engine has the request or when it is refused; calling it again does nothing. */
  release(): void
}

export interface Admission {
  /**
   * Takes a place. A declared length is refused early when it cannot fit, but only bytes that came count: a client that announces much and
   * sends little does not keep others out.
   * @throws ApiError 503 while loading or draining, 413, 429.
   */
  admit(applicant: Applicant): AdmissionPlace
  /** Counts a request of the connection until the function it returns is called. @throws ApiError 429 for one too many. */
  enterConnection(connection: object): () => void
}

/** Creates the admission control. Limits count requests that wait and bytes of bodies, per pool. */
export function createAdmission(options: AdmissionOptions): Admission {
  const { maxQueuedRequests, maxRequestBytes } = options
  const pools: Record<AdmissionPool, { entering: number; bytes: number }> = {
    generation: { entering: 0, bytes: 0 },
    retrieval: { entering: 0, bytes: 0 },
    tokenizer: { entering: 0, bytes: 0 },
  }
  const connections = new WeakMap<object, number>()

  function requireState(): void {
    const state = options.state()
    if (state === 'ready') return
    throw new ApiError(state, state === 'loading' ? 'the model is loading' : 'the server is shutting down')
  }

  function requireRoom(pool: AdmissionPool, numBytes: number): void {
    const { bytes } = pools[pool]
    const maxBytes = maxRequestBytes * BODY_BUDGET[pool]
    if (bytes + numBytes <= maxBytes) return
    throw new ApiError(
      'bytes_in_flight',
      `too many bytes are in flight: request bodies take ${bytes} of ${maxBytes}, this one needs ${numBytes} more`,
    )
  }

  return {
    admit({ pool, contentLength }) {
      requireState()
      if (contentLength !== null && contentLength > maxRequestBytes) throw tooLarge(maxRequestBytes, contentLength)
      const counts = pools[pool]
      const waiting = counts.entering + (pool === 'generation' ? options.stats().numWaiting : 0)
      if (waiting >= maxQueuedRequests) {
        throw new ApiError('queue_full', `the queue is full: ${waiting} of ${maxQueuedRequests} requests are waiting`)
      }
      requireRoom(pool, contentLength ?? 0)
      counts.entering++
      let heldBytes = 0
      let isHeld = true
      return {
        arrived(numBytes) {
          if (!isHeld) return
          requireRoom(pool, numBytes)
          heldBytes += numBytes
          counts.bytes += numBytes
        },
        dropped(numBytes) {
          const left = Math.max(0, heldBytes - numBytes)
          counts.bytes -= heldBytes - left
          heldBytes = left
        },
        release() {
          if (!isHeld) return
          isHeld = false
          counts.entering--
          counts.bytes -= heldBytes
          heldBytes = 0
        },
      }
    },
    enterConnection(connection) {
      const open = connections.get(connection) ?? 0
      if (open >= MAX_REQUESTS_PER_CONNECTION) {
        throw new ApiError(
          'too_many_pipelined',
          `expected at most ${MAX_REQUESTS_PER_CONNECTION} unanswered requests on one connection, found more`,
        )
      }
      connections.set(connection, open + 1)
      return () => connections.set(connection, (connections.get(connection) ?? 1) - 1)
    },
  }
}
