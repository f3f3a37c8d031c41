/**
 * Every open span of every request, by request id and name, so that a subscriber can nest below a span without knowing who opened it.
 * Closing a request ends the spans that are still open.
 */
import { type Context, type HrTime, ROOT_CONTEXT, type Span, trace as traceApi } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'

interface RegisteredSpan {
  readonly span: Span
  /** The parent context of the span's children. */
  readonly context: Context
}

interface OpenSpan {
  name: string | null
  context: Context | null
  /** Whether the span is of this process's SDK, which reports its end. */
  readonly isOwn: boolean
}

/** Maximum number of ended spans per request. Even the steps level of a long generation stays far below. */
const MAX_SPANS = 1024

/** The open and ended spans of one request. They are stored, and exported or not, as a whole when the root has ended. */
export class RequestSpans {
  readonly ended: ReadableSpan[] = []
  /** Whether the spans are exported; null while the root is open. */
  isExported: boolean | null = null
  readonly #open = new Map<Span, OpenSpan>()

  /** Open spans in the order in which they were opened. */
  get open(): readonly Span[] {
    return [...this.#open.keys()]
  }

  get size(): number {
    return this.#open.size
  }

  /** A span was started for the request. */
  started(span: Span): void {
    this.#open.set(span, { name: null, context: null, isOwn: true })
  }

  /** A span of the request ended. False when there is no room left. */
  endedSpan(span: ReadableSpan & Partial<Span>): boolean {
    this.#open.delete(span as unknown as Span)
    // Spans that end after the root are kept too: the store shows them.
    if (this.ended.length >= MAX_SPANS) return false
    this.ended.push(span)
    return true
  }

  name(span: Span, name: string, context: Context): void {
    this.#open.set(span, { name, context, isOwn: this.#open.get(span)?.isOwn ?? false })
  }

  /** The last opened span of this name. */
  get(name: string): RegisteredSpan | undefined {
    let found: RegisteredSpan | undefined
    for (const [span, open] of this.#open)
      if (open.name === name && open.context) found = { span, context: open.context }
    return found
  }

  /** Removes the name of a span. The span still belongs to the request until it ends. */
  unname(span: Span): void {
    const open = this.#open.get(span)
    if (open?.isOwn) open.name = null
    else this.#open.delete(span)
  }

  /**
   * Ends all open spans, children before parents, each inside its parent's interval.
   * @param now current span time @param mark called before each span ends
   */
  endAll(except: Span | null, now: HrTime, mark: (span: Span) => void): void {
    for (const span of this.open.toReversed()) {
      if (span === except) continue
      mark(span)
      const { startTime, parentSpanContext } = span as unknown as ReadableSpan
      const parent = this.ended.find((ended) => ended.spanContext().spanId === parentSpanContext?.spanId)
      span.end(latest(startTime, parent ? earliest(parent.endTime, now) : now))
      // A span of another SDK does not report its end here.
      this.#open.delete(span)
    }
  }
}

const isBefore = (a: HrTime, b: HrTime): boolean => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1])
const earliest = (a: HrTime, b: HrTime): HrTime => (isBefore(a, b) ? a : b)
const latest = (a: HrTime, b: HrTime): HrTime => (isBefore(a, b) ? b : a)

/** Open spans by request id and name. */
export class SpanRegistry {
  readonly #requests = new Map<string, RequestSpans>()

  /** A request begins. */
  begin(requestId: string): RequestSpans {
    const spans = new RequestSpans()
    this.#requests.set(requestId, spans)
    return spans
  }

  /** A request is closed. Spans that come later are ended at once. */
  forget(requestId: string): void {
    this.#requests.delete(requestId)
  }

  /** Registers an open span under a name. If several spans have the name, `get` finds the last one. If the request is over, the span is ended. */
  open(requestId: string, name: string, span: Span, context: Context = traceApi.setSpan(ROOT_CONTEXT, span)): void {
    const spans = this.#requests.get(requestId)
    if (spans) spans.name(span, name, context)
    else span.end()
  }

  get(requestId: string, name: string): RegisteredSpan | undefined {
    return this.#requests.get(requestId)?.get(name)
  }

  /** The context of the first of these names that is open: `getContext(id, 'llm.prefill', 'http.handler')`. */
  getContext(requestId: string, ...names: readonly string[]): Context | undefined {
    for (const name of names) {
      const found = this.get(requestId, name)
      if (found) return found.context
    }
    return undefined
  }

  /** Removes a span from the registry, and leaves it to the caller to end it. */
  pop(requestId: string, name: string): RegisteredSpan | undefined {
    const spans = this.#requests.get(requestId)
    const found = spans?.get(name)
    if (found) spans?.unname(found.span)
    return found
  }

  /** Ids of the requests that have spans. */
  requestIds(): readonly string[] {
    return [...this.#requests.keys()]
  }

  /** Number of open spans of all requests. */
  get size(): number {
    let size = 0
    for (const spans of this.#requests.values()) size += spans.size
    return size
  }
}

let current: SpanRegistry | null = null

/** The registry of this process's server, for code that is not given one; null before it exists. */
export const getSpanRegistry = (): SpanRegistry | null => current

/** Sets the registry of the process. */
export const setSpanRegistry = (registry: SpanRegistry): void => {
  current = registry
}
