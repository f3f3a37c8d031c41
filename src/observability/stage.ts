/** The stages of a request: the span of each from its start to its end, and how long they took. */
import {
  type Attributes,
  type Context,
  type HrTime,
  type Span,
  SpanStatusCode,
  trace as traceApi,
} from '@opentelemetry/api'
import { describeError, exceptionAttributes } from './attributes.ts'
import { type OpenStage, runIn } from './context.ts'
import type { SpanAttributes, SpanName, StageName } from './contract.ts'
import type { LogFields } from './log.ts'

/** What a stage needs from its request. */
export interface StageOwner {
  readonly capturesContent: boolean
  startSpan<N extends SpanName>(name: N, parent: Context, startMs: number, attributes: SpanAttributes<N>): Span | null
  /** The attributes that the contract allows. */
  checked(name: SpanName, attributes: Readonly<Record<string, unknown>>): Attributes
  /** Converts a performance.now() time to a span time. */
  time(atMs: number): HrTime
  stageEnded(stage: EndedStage): void
}

export interface EndedStage {
  readonly name: StageName
  readonly context: Context
  readonly durationMs: number
  readonly isOk: boolean
  /** The stage's attributes, for its log line. */
  readonly fields: LogFields
}

/** One stage of a request: sets checked attributes on its span, and ends it once. */
export class Stage<N extends StageName> implements OpenStage<N> {
  readonly name: N
  readonly capturesContent: boolean
  readonly span: Span | null
  readonly context: Context
  readonly #owner: StageOwner
  readonly #startMs = performance.now()
  readonly #fields: Record<string, unknown> = {}
  #endMs: number | null = null
  #isEnded = false

  constructor(owner: StageOwner, name: N, parent: Context, attributes: SpanAttributes<N>) {
    this.#owner = owner
    this.name = name
    this.capturesContent = owner.capturesContent
    this.span = owner.startSpan(name, parent, this.#startMs, attributes)
    this.context = this.span ? traceApi.setSpan(parent, this.span) : parent
    Object.assign(this.#fields, attributes)
  }

  set(attributes: SpanAttributes<N>): void {
    if (this.#isEnded) return
    Object.assign(this.#fields, attributes)
    this.span?.setAttributes(this.#owner.checked(this.name, attributes))
    const { 'error.type': errorType } = attributes as { readonly 'error.type'?: string }
    if (errorType !== undefined) this.span?.setStatus({ code: SpanStatusCode.ERROR, message: errorType })
  }

  run<T>(fn: () => T): T {
    return runIn(this.context, fn)
  }

  end(attributes?: SpanAttributes<N>): void {
    if (this.#endMs !== null) return
    if (attributes) this.set(attributes)
    this.#settle(true)
  }

  fail(error: unknown): void {
    if (this.#endMs !== null) return
    const { type, code } = describeError(error)
    this.#mark(code ?? type)
    this.span?.addEvent('exception', exceptionAttributes(error), this.#owner.time(performance.now()))
    this.#settle(false)
  }

  /** Ends the span together with its request; `cause` is why a stage that is still open was cut short. `tokensOut`: the request's final count. */
  close(cause: string, tokensOut: number | null): void {
    if (this.#isEnded) return
    if (this.#endMs === null) {
      this.#mark(cause)
      this.#endMs = performance.now()
    }
    if (this.name === 'format.output' && tokensOut !== null) this.span?.setAttribute('llm.tokens.out', tokensOut)
    this.#endSpan(this.#endMs)
  }

  #mark(errorType: string): void {
    this.span?.setAttribute('error.type', errorType)
    this.span?.setStatus({ code: SpanStatusCode.ERROR, message: errorType })
  }

  #settle(isOk: boolean): void {
    this.#endMs = performance.now()
    // format.output ends with the request, when the engine's final token count is known.
    if (this.name !== 'format.output') this.#endSpan(this.#endMs)
    const durationMs = this.#endMs - this.#startMs
    this.#owner.stageEnded({ name: this.name, context: this.context, durationMs, isOk, fields: this.#fields })
  }

  #endSpan(atMs: number): void {
    this.#isEnded = true
    this.span?.end(this.#owner.time(atMs))
  }
}

/** Milliseconds for log lines and headers, rounded to microseconds. */
export const roundMs = (ms: number): number => Math.round(ms * 1000) / 1000

/** How long each stage of a request took, for its Server-Timing header. */
export class StageTimes {
  readonly #durations = new Map<string, number>()

  /** Adds a stage that ended. Stages of the same name are summed. */
  add(name: string, ms: number): void {
    this.#durations.set(name, (this.#durations.get(name) ?? 0) + ms)
  }

  /** Replaces the sums of these names. */
  set(durationsMs: Readonly<Record<string, number>>): void {
    for (const [name, ms] of Object.entries(durationsMs)) this.#durations.set(name, ms)
  }

  /** Value of the Server-Timing header; null if no stage has ended. */
  header(totalMs: number): string | null {
    if (this.#durations.size === 0) return null
    const stages = [...this.#durations].map(([name, ms]) => `${name};dur=${roundMs(ms)}`)
    return [...stages, `total;dur=${roundMs(totalMs)}`].join(', ')
  }
}
