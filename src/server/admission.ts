/**
 * Admission before any work: how many requests, and how many of their bytes, may be on their way to the engine. A server that parses
 * and tokenizes before it refuses spends its time on requests it will not serve. The exact bound in tokens is the engine's, at submit.
 */
import type { EngineStats } from '../engine/request.ts'
import { ApiError } from './errors.ts'

export interface AdmissionOptions {
  readonly maxQueuedRequests: number
  readonly maxRequestBytes: number
  readonly stats: () => EngineStats
  /** 'ready', or why requests are refused. */
  readonly state: () => 'ready' | 'loading' | 'draining'
}

/** A request's place before the engine has it. */
export interface AdmissionPlace {
  /**
   * Counts more bytes of the body, held in memory until the place is released.
   * @throws ApiError 429 when the bodies being read take more memory than they may.
   */
  arrived(numBytes: number): void
  /** Gives the place back, once the engine has the request or when it is refused; calling it again does nothing. */
  release(): void
}

export interface Admission {
  /**
   * Takes a place for a request with this Content-Length (null: unknown). A declared length is refused early when it cannot fit, but
   * only bytes that came count: a client that promises much and sends little keeps nobody out.
   * @throws ApiError 503 while loading or draining, 413, 429.
   */
  admit(contentLength: number | null): AdmissionPlace
}

/** Bodies being read and parsed at the same time may take this many times the largest body. */
const BODY_BUDGET_FACTOR = 8

export function createAdmission(options: AdmissionOptions): Admission {
  const { maxQueuedRequests, maxRequestBytes } = options
  const maxBytes = maxRequestBytes * BODY_BUDGET_FACTOR
  let entering = 0
  let enteringBytes = 0

  function requireRoom(numBytes: number): void {
    if (enteringBytes + numBytes <= maxBytes) return
    throw new ApiError(
      429,
      'rate_limit_error',
      `too many bytes are in flight: request bodies take ${enteringBytes} of ${maxBytes}, this one needs ${numBytes} more`,
      { code: 'bytes_in_flight', retryAfter: 1 },
    )
  }

  return {
    admit(contentLength) {
      const state = options.state()
      if (state !== 'ready') {
        throw new ApiError(
          503,
          'server_error',
          state === 'loading' ? 'the model is loading' : 'the server is shutting down',
          { code: state, retryAfter: state === 'loading' ? 2 : 5 },
        )
      }
      if (contentLength !== null && contentLength > maxRequestBytes) {
        throw new ApiError(
          413,
          'invalid_request_error',
          `body: expected at most ${maxRequestBytes} bytes, found ${contentLength}`,
          { code: 'request_too_large' },
        )
      }
      const waiting = options.stats().numWaiting
      if (waiting + entering >= maxQueuedRequests) {
        throw new ApiError(
          429,
          'rate_limit_error',
          `the queue is full: ${waiting + entering} of ${maxQueuedRequests} requests wait`,
          { code: 'queue_full', retryAfter: 1 },
        )
      }
      requireRoom(contentLength ?? 0)
      entering++
      let heldBytes = 0
      let isHeld = true
      return {
        arrived(numBytes) {
          if (!isHeld) return
          requireRoom(numBytes)
          heldBytes += numBytes
          enteringBytes += numBytes
        },
        release() {
          if (!isHeld) return
          isHeld = false
          entering--
          enteringBytes -= heldBytes
        },
      }
    },
  }
}
