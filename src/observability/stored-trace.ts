/** The entries of the trace store: requests, and steps of the engine. */
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import type { RequestTrace } from './request-trace.ts'
import type { SamplingDecision } from './tail-sampling.ts'

export interface StoredTrace {
  readonly traceId: string
  /** The root of this tree; a trace id may have several. */
  readonly rootSpanId: string
  /** null for a step of the engine. */
  readonly requestId: string | null
  /** The caller's X-Request-Id. */
  readonly callerId?: string | null
  /** The caller's id of its conversation. */
  readonly conversationId?: string | null
  /** null: shown to the admin key only. */
  readonly keyId: string | null
  readonly route: string
  readonly method: string
  readonly model: string | null
  /** http.status_code; null when there was none. */
  readonly status: number | null
  readonly isError: boolean
  /** Name of the row in the table of endings. */
  readonly ending: string
  /** Milliseconds since 1970. */
  readonly startMs: number
  readonly durationMs: number
  readonly tokensIn: number | null
  readonly tokensOut: number | null
  readonly ttftSeconds: number | null
  /** sampling.reason of an exported trace. */
  readonly keptFor: string | null
  readonly spans: ReadableSpan[]
  readonly logLines: readonly string[]
}

/** The entry of a request whose trace has closed. */
export function storedTrace(trace: RequestTrace, spans: ReadableSpan[], decision: SamplingDecision): StoredTrace {
  const { ended: ending, generation, tokensIn, tokensOut, ttftSeconds, startMs } = trace.facts
  const atMs = ending?.atMs ?? startMs
  return {
    traceId: trace.traceId,
    rootSpanId: trace.spanId,
    requestId: trace.requestId,
    callerId: trace.input.callerId ?? null,
    conversationId: trace.conversationId,
    keyId: trace.keyId,
    route: trace.input.route,
    method: trace.input.method,
    model: generation?.model ?? null,
    status: ending?.row.statusCode ?? ending?.status ?? null,
    isError: ending?.row.spanStatus === 'error',
    ending: ending?.row.ending ?? 'leak',
    startMs: trace.anchor.toEpochMs(startMs),
    durationMs: atMs - startMs,
    tokensIn,
    tokensOut,
    ttftSeconds,
    keptFor: decision.reason,
    spans,
    logLines: trace.log.lines,
  }
}

/** The entry of an engine.step span, which is the root of its own trace. */
export function storedStep(span: ReadableSpan): StoredTrace {
  const { traceId, spanId } = span.spanContext()
  const startMs = span.startTime[0] * 1000 + span.startTime[1] / 1e6
  return {
    traceId,
    rootSpanId: spanId,
    requestId: null,
    callerId: null,
    conversationId: null,
    keyId: null,
    route: span.name,
    method: '',
    model: null,
    status: null,
    isError: false,
    ending: 'success',
    startMs,
    durationMs: span.duration[0] * 1000 + span.duration[1] / 1e6,
    tokensIn: null,
    tokensOut: null,
    ttftSeconds: null,
    keptFor: null,
    spans: [span],
    logLines: [],
  }
}
