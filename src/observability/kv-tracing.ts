/** Operations on KV tiers. Each keeps its request's trace open and, at the steps level, has a span. */
import { type Span, SpanStatusCode } from '@opentelemetry/api'
import type { KvDoneEvent, KvSubmittedEvent } from '../engine/events.ts'
import { ROOT_SPAN, type SpanName, SPANS } from './contract.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

interface KvOperation {
  readonly span: Span | null
  /** The span is below llm.prefill, so it must not end later, although an abort ends the phase while the operation runs. */
  readonly isBelowPrefill: boolean
  /** When llm.prefill ended; Infinity while it runs. */
  endBoundMs: number
  readonly release: () => void
  readonly trace: RequestTrace
}

const ROOT_ONLY = [ROOT_SPAN] as const
const KV_PARENTS: Readonly<Record<KvSubmittedEvent['operation'], readonly SpanName[]>> = {
  lookup: ['llm.prefill', ROOT_SPAN],
  retrieve: ['llm.prefill', ROOT_SPAN],
  disk_read: ['kv.retrieve', 'llm.prefill', ROOT_SPAN],
  store: ROOT_ONLY,
}

interface KvTracingParts {
  readonly registry: SpanRegistry
  /** Whether operations have spans. */
  readonly hasSpans: boolean
  /** The request's trace, created if its start was not seen; undefined if it has been closed. */
  readonly traceOf: (requestId: string) => RequestTrace | undefined
  /** When the request's first token came, which is the end of llm.prefill; null before. */
  readonly firstTokenMs: (requestId: string) => number | null
}

/** Traces KV operations. An operation that never ends is ended with its request. */
export class KvTracing {
  readonly #parts: KvTracingParts
  readonly #operations = new Map<string, KvOperation>()

  constructor(parts: KvTracingParts) {
    this.#parts = parts
  }

  /** Number of running operations. */
  get size(): number {
    return this.#operations.size
  }

  /** Limits the spans of running operations to the end of llm.prefill. */
  prefillEnded(trace: RequestTrace, endMs: number): void {
    for (const operation of this.#operations.values()) {
      if (operation.trace === trace) operation.endBoundMs = Math.min(operation.endBoundMs, endMs)
    }
  }

  onSubmitted(event: KvSubmittedEvent): void {
    const trace = this.#parts.traceOf(event.requestId)
    if (!trace) return
    const { registry, hasSpans, firstTokenMs } = this.#parts
    const name = `kv.${event.operation}` as const
    // llm.prefill is over with the first token, even though its span is still open.
    const isPrefilling = firstTokenMs(event.requestId) === null
    const parents = KV_PARENTS[event.operation].filter((parent) => parent !== 'llm.prefill' || isPrefilling)
    const parentName = parents.find((parent) => registry.get(event.requestId, parent))
    const parent = parentName && registry.getContext(event.requestId, parentName)
    const span = hasSpans && parent ? trace.startSpan(name, parent, event.atMs, { 'kv.blocks': event.numBlocks }) : null
    this.#operations.set(operationKey(event), {
      span,
      isBelowPrefill: parentName !== undefined && parentName !== ROOT_SPAN && isPrefilling,
      endBoundMs: Infinity,
      release: trace.hold(),
      trace,
    })
  }

  onDone(event: KvDoneEvent): void {
    const key = operationKey(event)
    const operation = this.#operations.get(key)
    if (!operation) return
    this.#operations.delete(key)
    const { span, trace, release } = operation
    const name = `kv.${event.operation}` as const
    try {
      if (!span) return
      span.setAttributes(
        trace.checked(name, {
          'kv.blocks': event.numBlocks,
          'kv.bytes': event.bytes,
          'kv.ok': event.ok,
          'error.type': event.errorType,
        }),
      )
      if (!event.ok) span.setStatus({ code: SpanStatusCode.ERROR, message: event.errorType ?? 'kv_error' })
      const prefillEndMs = Math.min(operation.endBoundMs, this.#parts.firstTokenMs(event.requestId) ?? Infinity)
      const endMs = operation.isBelowPrefill ? Math.min(event.atMs, prefillEndMs) : event.atMs
      span.end(trace.time(endMs, SPANS[name].mayOutliveParent))
    } finally {
      release()
    }
  }
}

const operationKey = (event: KvSubmittedEvent | KvDoneEvent): string => `${event.requestId}/${event.operationId}`
