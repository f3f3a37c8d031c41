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

export interface Admission {
  /**
   * Takes a place for a request with this Content-Length (null: unknown, counted as the largest). Call the returned function once the
   * engine has it, or when it is refused; calling it again does nothing.
   * @throws ApiError 503 while loading or draining, 413, 429.
   */
  admit(contentLength: number | null): () => void
}

/** Bodies being read and parsed at the same time may take this many times the largest body. */
const BODY_BUDGET_FACTOR = 8

export function createAdmission(options: AdmissionOptions): Admission {
  const { maxQueuedRequests, maxRequestBytes } = options
  let entering = 0
  let enteringBytes = 0
  return {
    admit(contentLength) {
      const state = options.state()
      if (state !== 'ready') {
        throw new ApiError(
          503,
          'server_error',
          state === 'loading' ? 'the model is loading' : 'the server is shutting down',
          {
            code: state,
            retryAfter: state === 'loading' ? 2 : 5,
          },
        )
      }
      const bytes = contentLength ?? maxRequestBytes
      if (bytes > maxRequestBytes) {
        throw new ApiError(
          413,
          'invalid_request_error',
          `body: expected at most ${maxRequestBytes} bytes, found ${bytes}`,
          {
            code: 'request_too_large',
          },
        )
      }
      const waiting = options.stats().numWaiting
      if (waiting + entering >= maxQueuedRequests || enteringBytes + bytes > maxRequestBytes * BODY_BUDGET_FACTOR) {
        throw new ApiError(
          429,
          'rate_limit_error',
          `the queue is full: ${waiting + entering} of ${maxQueuedRequests} requests wait`,
          {
            code: 'queue_full',
            retryAfter: 1,
          },
        )
      }
      entering++
      enteringBytes += bytes
      let isHeld = true
      return () => {
        if (!isHeld) return
        isHeld = false
        entering--
        enteringBytes -= bytes
      }
    },
  }
}
