/**
 * Open spans by (request id, logical name), so that any subscriber finds a parent and nests under it without knowing who opened it.
 * Entries belong to requests: whoever closes a request clears its entries, so the registry is empty when nothing is in flight.
 */
import type { Context, Span } from '@opentelemetry/api'

export interface RegisteredSpan {
  readonly span: Span
  /** Context with the span in it: the parent context of its children. */
  readonly context: Context
}

export class SpanRegistry {
  private readonly byRequest = new Map<string, Map<string, RegisteredSpan>>()

  /** Registers an open span. A name already taken in the request is replaced. */
  open(requestId: string, name: string, span: Span, context: Context): void {
    let spans = this.byRequest.get(requestId)
    if (!spans) this.byRequest.set(requestId, (spans = new Map()))
    spans.set(name, { span, context })
  }

  get(requestId: string, name: string): RegisteredSpan | undefined {
    return this.byRequest.get(requestId)?.get(name)
  }

  /** The context of the first of these names that is open: `getContext(id, 'llm.prefill', 'http.handler')`. */
  getContext(requestId: string, ...names: readonly string[]): Context | undefined {
    const spans = this.byRequest.get(requestId)
    for (const name of names) {
      const found = spans?.get(name)
      if (found) return found.context
    }
    return undefined
  }

  /** Removes and returns an entry; the caller ends the span. A second pop finds nothing. */
  pop(requestId: string, name: string): RegisteredSpan | undefined {
    const spans = this.byRequest.get(requestId)
    const found = spans?.get(name)
    if (!spans || !found) return undefined
    spans.delete(name)
    if (spans.size === 0) this.byRequest.delete(requestId)
    return found
  }

  /** Removes and returns what is left of a request, the deepest names first opened last. */
  clear(requestId: string): readonly (readonly [name: string, entry: RegisteredSpan])[] {
    const spans = this.byRequest.get(requestId)
    this.byRequest.delete(requestId)
    return spans ? [...spans].reverse() : []
  }

  requestIds(): readonly string[] {
    return [...this.byRequest.keys()]
  }

  /** Open spans of all requests. */
  get size(): number {
    let size = 0
    for (const spans of this.byRequest.values()) size += spans.size
    return size
  }
}
