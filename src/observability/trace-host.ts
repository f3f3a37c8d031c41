/** What a request's trace needs of the server around it. */
import type { SpanContext, Tracer } from '@opentelemetry/api'
import type { ClockAnchor } from './clock.ts'
import type { Log, LogEvent } from './log.ts'
import type { OpenRequestInput } from './root-span.ts'
import type { SpanRegistry } from './span-registry.ts'
import type { SamplingDecision } from './tail-sampling.ts'

export interface TraceHost<Trace> {
  /** null: tracing is off. */
  readonly tracer: Tracer | null
  /** Of spans that are not the contract's. */
  readonly extensionTracer: Tracer | null
  readonly registry: SpanRegistry
  readonly log: Log
  readonly captureContent: boolean
  /** Whether OpenInference attributes are added to the contract's. */
  readonly openInference: boolean
  readonly trustRemote: boolean
  anchor(): ClockAnchor
  newTraceId(): string
  newSpanId(): string
  /** The caller's span from W3C headers; null when there is none or it is malformed. */
  extract(headers: OpenRequestInput['headers']): SpanContext | null
  /** Takes the trace out of the table of open requests; false when it is no longer there. */
  take(trace: Trace): boolean
  /** The body is valid. */
  accepted(trace: Trace): void
  /** The response is over. */
  finished(trace: Trace): void
  /** Whether the trace is exported; asked once, right before the root ends. */
  decide(trace: Trace): SamplingDecision
  /** The root has ended. */
  closed(trace: Trace, decision: SamplingDecision): void
  /** A value did not fit the contract's table. */
  readonly onBreach: (spanName: string, attribute: string) => void
  onProblem(event: LogEvent, error: unknown): void
}
