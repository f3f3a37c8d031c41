/** A stage's span from its start to its one end. */
import { type Context, type Span, SpanStatusCode, trace as traceApi } from '@opentelemetry/api'
import { describeError } from './attributes.ts'
import { type OpenStage, runIn } from './context.ts'
import type { SpanAttributes, StageName } from './contract.ts'
import type { LogFields } from './logging.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

export class Stage<N extends StageName> implements OpenStage<N> {
  readonly name: N
  private readonly trace: RequestTrace
  private readonly span: Span | null
  private readonly context: Context
  private readonly registry: SpanRegistry
  private readonly startMs = performance.now()
  private readonly fields: LogFields = {}
  private endMs: number | null = null
  private isEnded = false

  constructor(trace: RequestTrace, name: N, parent: Context, attributes: SpanAttributes<N>, registry: SpanRegistry) {
    this.trace = trace
    this.name = name
    this.registry = registry
    this.span = trace.startSpan(name, parent, this.startMs, attributes)
    this.context = this.span ? traceApi.setSpan(parent, this.span) : parent
    if (this.span) registry.open(trace.requestId, name, this.span, this.context)
    Object.assign(this.fields, attributes)
  }

  set(attributes: SpanAttributes<N>): void {
    if (this.isEnded) return
    Object.assign(this.fields, attributes)
    this.span?.setAttributes(this.trace.checked(this.name, attributes))
  }

  run<T>(fn: () => T): T {
    return runIn(this.context, fn)
  }

  end(attributes?: SpanAttributes<N>): void {
    if (this.endMs !== null) return
    if (attributes) this.set(attributes)
    this.settle(true)
  }

  fail(error: unknown): void {
    if (this.endMs !== null) return
    const { type, code, isClientFault } = describeError(error)
    this.span?.setAttribute('error.type', code ?? type)
    if (!isClientFault) this.span?.setStatus({ code: SpanStatusCode.ERROR })
    this.settle(false)
  }

  /** Ends the span with its request: as cut short by `cause` when nobody ended it. `tokensOut`: the request's final count. */
  close(cause: string, tokensOut: number | null): void {
    if (this.isEnded) return
    if (this.endMs === null) {
      this.span?.setAttribute('error.type', cause)
      this.span?.setStatus({ code: SpanStatusCode.ERROR })
      this.endMs = performance.now()
    }
    if (this.name === 'format.output' && tokensOut !== null) this.span?.setAttribute('llm.tokens.out', tokensOut)
    this.endSpan(this.endMs)
  }

  private settle(isOk: boolean): void {
    this.endMs = performance.now()
    if (this.name !== 'format.output') this.endSpan(this.endMs)
    this.trace.stageEnded(this, this.context, this.endMs - this.startMs, isOk, this.fields)
  }

  private endSpan(atMs: number): void {
    this.isEnded = true
    if (!this.span) return
    // A name opened twice at the same time (batches of queries) belongs to the later one in the registry.
    if (this.registry.get(this.trace.requestId, this.name)?.span === this.span) {
      this.registry.pop(this.trace.requestId, this.name)
    }
    this.span.end(this.trace.time(atMs))
  }
}
