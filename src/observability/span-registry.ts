/**
 * Every open span of every request, in one place: by (request id, name), so that any subscriber finds a parent and nests under it without
 * knowing who opened it. All open spans are kept, so that none is lost. Closing a request ends
 * what is left of it, so nothing is open when nothing is in flight.
 */
import { type Context, type HrTime, ROOT_CONTEXT, type Span, trace as traceApi } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'

interface RegisteredSpan {
  readonly span: Span
  /** Context with the span in it: the parent context of its children. */
  readonly context: Context
}

interface OpenSpan {
  name: string | null
  context: Context | null
  /** Of this process's SDK, which reports its end. */
  readonly isOwn: boolean
}

/** Ended spans that one request keeps; the steps level of a long generation stays far below. */
const MAX_SPANS = 1024

/** The spans of one request: open ones, and ended ones until its root has ended, when all are stored, and exported or not, as a whole. */
export class RequestSpans {
  readonly ended: ReadableSpan[] = []
  /** Whether they are exported; null while the root is open. */
  isExported: boolean | null = null
  readonly #open = new Map<Span, OpenSpan>()

  /** Open spans, first opened first. */
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
    // Those that may outlive the root are kept too: the store shows them.
    if (this.ended.length >= MAX_SPANS) return false
    this.ended.push(span)
    return true
  }

  name(span: Span, name: string, context: Context): void {
    this.#open.set(span, { name, context, isOwn: this.#open.get(span)?.isOwn ?? false })
  }

  /** The span of this name that was opened last. */
  get(name: string): RegisteredSpan | undefined {
    let found: RegisteredSpan | undefined
    for (const [span, open] of this.#open)
      if (open.name === name && open.context) found = { span, context: open.context }
    return found
  }

  /** Takes the name from a span, which stays the request's until it ends. */
  unname(span: Span): void {
    const open = this.#open.get(span)
    if (open?.isOwn) open.name = null
    else this.#open.delete(span)
  }

  /**
   * Ends what is still open, children before their parents, each inside its parent's interval.
   * @param timeOf span time of now. @param mark called before each span ends.
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

/** Open spans by request id and name, so that a subscriber finds a parent without knowing who opened it. */
export class SpanRegistry {
  readonly #requests = new Map<string, RequestSpans>()

  /** A request begins. */
  begin(requestId: string): RequestSpans {
    const spans = new RequestSpans()
    this.#requests.set(requestId, spans)
    return spans
  }

  /** A request is closed: what comes later is not kept open for it. */
  forget(requestId: string): void {
    this.#requests.delete(requestId)
  }

  /** Gives an open span a name. If several have the name, the last one is found first. If the request is over, the span is ended. */
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

  /** Takes a span out of the registry; the caller ends it. A second pop finds the next of that name, or nothing. */
  pop(requestId: string, name: string): RegisteredSpan | undefined {
    const spans = this.#requests.get(requestId)
    const found = spans?.get(name)
    if (found) spans?.unname(found.span)
    return found
  }

  /** Requests that have spans. */
  requestIds(): readonly string[] {
    return [...this.#requests.keys()]
  }

  /** Open spans of all requests. */
  get size(): number {
    let size = 0
    for (const spans of this.#requests.values()) size += spans.size
    return size
  }
}

let current: SpanRegistry | null = null

/** The registry of this process's server, for code that was handed none; null before there is one. */
export const getSpanRegistry = (): SpanRegistry | null => current

/** Makes a registry the process's. */
export const setSpanRegistry = (registry: SpanRegistry): void => {
  current = registry
}
