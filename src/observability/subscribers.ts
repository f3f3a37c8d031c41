/**
 * Subscribers other than tracing and metrics, which are mostly plugins. They get the engine's events and events of every request, each in
 * the context of the request's current span, so that their own spans nest there.
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
  /** Called with the error of a subscriber that threw or rejected; `trace`: the request's trace. */
  readonly onError: (subscriber: string, error: unknown, trace: RequestTrace | undefined) => void
}

/** The parents of the engine's work, in order of preference: the first open one is used. */
const SPANS_OF_WORK: Readonly<Record<EngineWork['part'], readonly SpanName[]>> = {
  step: ['llm.decode', 'llm.prefill', ROOT_SPAN],
  lookup: ['kv.lookup', 'llm.prefill', ROOT_SPAN],
  retrieve: ['kv.retrieve', 'llm.prefill', ROOT_SPAN],
  disk_read: ['kv.disk_read', 'kv.retrieve', 'llm.prefill', ROOT_SPAN],
  store: ['kv.store', ROOT_SPAN],
}

/** Runs subscribers in the request's context. Their errors are logged and counted. */
export class Subscribers {
  readonly #parts: SubscribersParts
  #others: readonly EngineSubscriber[] = []

  constructor(parts: SubscribersParts) {
    this.#parts = parts
  }

  /** Subscribers that never throw, for the engine. */
  guard(others: readonly EngineSubscriber[]): readonly EngineSubscriber[] {
    this.#others = others.map((other) => this.#guarded(other))
    return this.#others
  }

  /** Runs the engine's work for a request in the context of the operation's span, else of the current phase, else of http.handler. */
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
    // In the request's own context: the engine does not know the request yet, or no longer.
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
