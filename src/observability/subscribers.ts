/**
 * Subscribers beside tracing and metrics: plugins, mostly. They hear the engine's events and, around the engine, the life of every
 * request, each in the context of the request's live span, so that what they or the libraries they use trace nests there.
 */
import type { EngineEvent, EngineSubscriber, EngineWork } from '../engine/events.ts'
import { runIn } from './context.ts'
import { ROOT_SPAN, type SpanName } from './contract.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

interface SubscribersParts {
  readonly registry: SpanRegistry
  /** The request's trace, open or waiting for its last work. */
  readonly find: (requestId: string) => RequestTrace | undefined
  /** What a subscriber threw, or rejected with later; `trace`: of the request it was about. */
  readonly onError: (subscriber: string, error: unknown, trace: RequestTrace | undefined) => void
}

/** Of the open spans, the first: blocks that are kept are written when the phase that made them is over. */
const SPANS_OF_WORK: Readonly<Record<EngineWork['part'], readonly SpanName[]>> = {
  step: ['llm.decode', 'llm.prefill', ROOT_SPAN],
  lookup: ['kv.lookup', 'llm.prefill', ROOT_SPAN],
  retrieve: ['kv.retrieve', 'llm.prefill', ROOT_SPAN],
  disk_read: ['kv.disk_read', 'kv.retrieve', 'llm.prefill', ROOT_SPAN],
  store: ['kv.store', ROOT_SPAN],
}

/** The subscribers besides tracing: runs them in the request's context; what one throws is logged and counted. */
export class Subscribers {
  readonly #parts: SubscribersParts
  #others: readonly EngineSubscriber[] = []

  constructor(parts: SubscribersParts) {
    this.#parts = parts
  }

  /** The subscribers as the engine may have them. */
  guard(others: readonly EngineSubscriber[]): readonly EngineSubscriber[] {
    this.#others = others.map((other) => this.#guarded(other))
    return this.#others
  }

  /**
   * Runs the engine's work for a request in the context of its span: the operation's own, else that of the phase the request
   * is in, else http.handler.
   */
  runWork<T>({ requestId, part }: EngineWork, fn: () => T): T {
    const context = this.#parts.registry.getContext(requestId, ...SPANS_OF_WORK[part])
    return context === undefined ? fn() : runIn(context, fn)
  }

  started(trace: RequestTrace): void {
    const { requestId, traceId, startMs } = trace
    const { method, route, kind } = trace.input
    this.#publish(trace, { type: 'requestStarted', requestId, atMs: startMs, traceId, method, route, kind })
  }

  accepted(trace: RequestTrace): void {
    const { generation } = trace.facts
    if (!generation) return
    const { operation, model, numChoices = 1, n = 1, stream = false } = generation
    this.#publish(trace, {
      type: 'requestAccepted',
      requestId: trace.requestId,
      atMs: performance.now(),
      operation,
      model,
      numChoices,
      n,
      stream,
    })
  }

  finished(trace: RequestTrace): void {
    const { ended, tokensIn, tokensOut, finishReasons, startMs } = trace.facts
    if (!ended) return
    this.#publish(trace, {
      type: 'requestFinished',
      requestId: trace.requestId,
      atMs: ended.atMs,
      ending: ended.row.ending,
      status: ended.row.statusCode ?? ended.status,
      durationMs: ended.atMs - startMs,
      tokensIn,
      tokensOut,
      finishReasons: finishReasons ?? [],
    })
  }

  #publish(trace: RequestTrace, event: EngineEvent): void {
    // The request's own context: the engine has none of these events' requests yet, or no more.
    for (const other of this.#others) runIn(trace.context, () => other.onEvent(event))
  }

  #guarded({ name, onEvent }: EngineSubscriber): EngineSubscriber {
    const { find, onError } = this.#parts
    const traceOf = (event: EngineEvent) => ('requestId' in event ? find(event.requestId) : undefined)
    const call = (event: EngineEvent) => {
      try {
        const later = onEvent(event)
        if (later instanceof Promise) later.catch((error: unknown) => onError(name, error, traceOf(event)))
      } catch (error) {
        onError(name, error, traceOf(event))
      }
    }
    return {
      name,
      onEvent: (event) =>
        'requestId' in event
          ? this.runWork({ requestId: event.requestId, part: 'step' }, () => call(event))
          : call(event),
    }
  }
}
