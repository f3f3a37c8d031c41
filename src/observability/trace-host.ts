/** What a RequestTrace needs of the world around it. observability.ts provides it. */
import type { SpanContext, Tracer } from '@opentelemetry/api'
import type { ClockAnchor } from './clock.ts'
import type { Log } from './logging.ts'
import type { OpenRequestInput } from './request-info.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

export interface SamplingDecision {
  readonly isExported: boolean
  /** Value of sampling.reason; null when the trace is not exported. */
  readonly reason: string | null
}

export interface TraceHost {
  /** null: tracing is off. */
  readonly tracer: Tracer | null
  readonly registry: SpanRegistry
  readonly log: Log
  readonly captureContent: boolean
  readonly trustRemote: boolean
  anchor(): ClockAnchor
  newTraceId(): string
  newSpanId(): string
  /** The caller's span from W3C headers; null when there is none or it is malformed. */
  extract(headers: OpenRequestInput['headers']): SpanContext | null
  /** Takes the trace out of the table of open requests; false when it is no longer there. */
  take(trace: RequestTrace): boolean
  /** Whether the trace is exported; asked once, right before the root ends. */
  decide(trace: RequestTrace): SamplingDecision
  /** The root has ended. */
  closed(trace: RequestTrace, decision: SamplingDecision): void
  /** A value did not fit the contract's table. */
  readonly onBreach: (spanName: string, attribute: string) => void
  onProblem(event: string, error: unknown): void
}
