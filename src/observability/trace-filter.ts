/** Queries for stored traces. */
import type { StoredTrace } from './stored-trace.ts'

/** Fields that are absent match every trace. */
export interface TraceQuery {
  /** ok, error, a status such as 404, or a class such as 5xx. */
  readonly status?: string
  readonly route?: string
  readonly model?: string
  /** Short id of the caller's API key. */
  readonly key?: string
  /** The caller's id of its conversation. */
  readonly conversation?: string
  readonly minMs?: number
  readonly maxMs?: number
  /** Started at or after, milliseconds since 1970. */
  readonly sinceMs?: number
  readonly minTokensIn?: number
  readonly minTokensOut?: number
  /** Exact number. */
  readonly tokensOut?: number
  /** The response's id, or the caller's X-Request-Id. */
  readonly requestId?: string
  /** The id of the request, the caller's request, the trace or the conversation, or the beginning of one. */
  readonly id?: string
  readonly limit?: number
}

/** Whether a stored trace matches all fields of a query. */
export function matches(trace: StoredTrace, query: TraceQuery): boolean {
  const { requestId, callerId, traceId, conversationId, durationMs } = trace
  const equals = (wanted: unknown, found: unknown) => wanted === undefined || wanted === found
  const isAtLeast = (least: number | undefined, found: number | null) =>
    least === undefined || (found !== null && found >= least)
  return (
    (query.status === undefined || hasStatus(trace, query.status)) &&
    equals(query.route, trace.route) &&
    equals(query.model, trace.model) &&
    equals(query.key, trace.keyId) &&
    equals(query.conversation, conversationId) &&
    equals(query.tokensOut, trace.tokensOut) &&
    isAtLeast(query.minTokensIn, trace.tokensIn) &&
    isAtLeast(query.minTokensOut, trace.tokensOut) &&
    isAtLeast(query.minMs, durationMs) &&
    (query.maxMs === undefined || durationMs <= query.maxMs) &&
    isAtLeast(query.sinceMs, trace.startMs) &&
    (query.requestId === undefined || [requestId, callerId].includes(query.requestId)) &&
    (query.id === undefined ||
      [requestId, callerId, traceId, conversationId].some((id) => id?.startsWith(query.id ?? '')))
  )
}

function hasStatus(trace: StoredTrace, wanted: string): boolean {
  if (wanted === 'ok') return !trace.isError && (trace.status ?? 0) < 400
  if (wanted === 'error') return trace.isError
  const digit = /^([1-5])xx$/.exec(wanted)?.[1]
  return digit === undefined ? String(trace.status) === wanted : Math.floor((trace.status ?? 0) / 100) === Number(digit)
}
