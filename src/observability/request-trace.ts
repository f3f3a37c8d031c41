/**
 * The trace of one request, from before its body is read until its response is over and none of its work is in flight. The first call of
 * `finish` ends it; later calls do nothing. It never relies on the active context, because disconnects, cancellations and worker messages
 * arrive in callbacks that have none.
 */
import {
  type Attributes,
  type Context,
  type HrTime,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace as traceApi,
  TraceFlags,
  type Tracer,
} from '@opentelemetry/api'
import type { RequestSummary } from '../engine/summary.ts'
import { Activity } from './activity.ts'
import { contractAttributes, eventAttributes } from './attributes.ts'
import { callerSpan, ClientCalls, traceparentOf } from './client-calls.ts'
import { clockAnchor } from './clock.ts'
import { type CapturedContent, contentAttributes } from './content.ts'
import { activeContext, currentRequest, type OpenStage, type RequestScope, runIn, withRequest } from './context.ts'
import {
  CONSTANT_ATTRIBUTES,
  ROOT_SPAN,
  type SpanAttributes,
  type SpanName,
  SPANS,
  type StageName,
} from './contract.ts'
import { type EndingRow, endingRow, firstLineLevel, lastLineLevel } from './endings.ts'
import { openInferenceKind, rootAttributes, stageAttributes } from './open-inference.ts'
import { errorTypeOf, type FinishInput, lastWords } from './last-words.ts'
import { type Ended, RequestFacts } from './request-facts.ts'
import type { Log, LogEvent } from './log.ts'
import { createRequestLog, type RequestLog } from './request-log.ts'
import {
  arrivalAttributes,
  generationAttributes,
  isConversationId,
  type GenerationInfo,
  type OpenRequestInput,
  type ResultInfo,
} from './root-span.ts'
import type { RequestSpans, SpanRegistry } from './span-registry.ts'
import { type EndedStage, roundMs, Stage, type StageOwner, StageTimes } from './stage.ts'
import type { SamplingDecision } from './tail-sampling.ts'
import { idGenerator } from './tracing.ts'

/** What a request's trace needs from the server around it. */
export interface TraceHost {
  /** null: tracing is off. */
  readonly tracer: Tracer | null
  /** Starts spans outside the contract. */
  readonly extensionTracer: Tracer | null
  readonly registry: SpanRegistry
  readonly logger: Log
  readonly captureContent: boolean
  /** Whether OpenInference attributes are added to the contract's. */
  readonly openInference: boolean
  readonly trustRemote: boolean
  /** Removes the trace from the open requests. False if it was not among them. */
  take(trace: RequestTrace): boolean
  /** The body is valid. */
  accepted(trace: RequestTrace): void
  /** The response is over. */
  finished(trace: RequestTrace): void
  /** Whether the trace is exported. Called once, right before the root ends. */
  decide(trace: RequestTrace): SamplingDecision
  /** The root has ended. */
  closed(trace: RequestTrace, decision: SamplingDecision): void
  /** A value did not fit the contract. */
  readonly onBreach: (spanName: string, attribute: string) => void
  onProblem(event: LogEvent, error: unknown): void
}

/** The trace of one request: its root span, open stages, log and facts. `finish` ends it, exactly once. */
export class RequestTrace implements RequestScope, StageOwner {
  readonly traceId: string
  /** Span id of http.handler. */
  readonly spanId: string
  readonly requestId: string
  readonly input: OpenRequestInput
  readonly facts = new RequestFacts()
  readonly anchor = clockAnchor()
  /** Contains the root span: the parent context of the request's spans. */
  readonly context: Context
  readonly log: RequestLog
  readonly spans: RequestSpans | null
  /** The decision of OTEL_TRACES_SAMPLER, which follows the caller's flags by default. */
  readonly isHeadSampled: boolean
  readonly calls: ClientCalls
  /** Its work in flight. The root closes when there is none. */
  readonly activity = new Activity(this.facts.startMs, () => this.#closeWhenDone())
  /** Short id of the caller's API key: decides who may see the trace. */
  keyId: string
  readonly #host: TraceHost
  readonly #root: Span | null
  readonly #stages = new Set<Stage<StageName>>()
  readonly #times = new StageTimes()
  readonly #closeHooks: (() => void)[] = []
  #content: CapturedContent = {}
  #conversationId: string | null = null
  #isClosing = false
  #isClosed = false

  constructor(host: TraceHost, input: OpenRequestInput) {
    this.#host = host
    this.input = input
    this.requestId = input.requestId
    this.keyId = input.keyId ?? 'anonymous'
    this.log = createRequestLog(this, host.logger)
    const remote = callerSpan(input.headers)
    // An application's own instrumentation may have opened a span before this server got the request.
    const around = currentRequest() ? undefined : traceApi.getSpanContext(activeContext())
    const trusted = around ?? (remote && host.trustRemote ? remote : null)
    this.calls = new ClientCalls(this, host.extensionTracer, remote, host.trustRemote)
    const isRecorded = host.tracer !== null && input.kind !== 'other'
    this.spans = isRecorded ? host.registry.begin(input.requestId) : null
    this.#root =
      isRecorded && host.tracer
        ? host.tracer.startSpan(
            ROOT_SPAN,
            {
              kind: SpanKind.SERVER,
              startTime: this.anchor.toHrTime(this.startMs),
              links: remote && !trusted ? [{ context: remote }] : [],
              attributes: this.checked(ROOT_SPAN, arrivalAttributes(input)),
            },
            withRequest(trusted ? traceApi.setSpanContext(ROOT_CONTEXT, trusted) : ROOT_CONTEXT, this),
          )
        : null
    const own = this.#root?.spanContext()
    this.traceId = own?.traceId ?? trusted?.traceId ?? idGenerator.generateTraceId()
    this.spanId = own?.spanId ?? idGenerator.generateSpanId()
    this.isHeadSampled = ((own ?? trusted)?.traceFlags ?? TraceFlags.SAMPLED) === TraceFlags.SAMPLED
    const base = withRequest(ROOT_CONTEXT, this)
    this.context = this.#root ? traceApi.setSpan(base, this.#root) : base
    if (this.#root) {
      host.registry.open(this.requestId, ROOT_SPAN, this.#root, this.context)
      this.event('request.arrived', {}, this.startMs)
    }
    this.log[firstLineLevel(input)]('request.received', {
      method: input.method,
      route: input.route,
      request_id: input.requestId,
      caller_request_id: input.callerId ?? undefined,
    })
  }

  /** Runs a function in the request's context. */
  run<T>(fn: () => T): T {
    return runIn(this.context, fn)
  }

  /** False once the response is over. */
  get isOpen(): boolean {
    return this.facts.ended === null
  }

  get isRecorded(): boolean {
    return this.#root !== null
  }

  get startMs(): number {
    return this.facts.startMs
  }

  /** Sets what the body asked for, once it is valid. */
  setGeneration(info: GenerationInfo): void {
    this.facts.generation = info
    this.set(generationAttributes(info))
    this.#host.accepted(this)
  }

  /** Sets the result of the generation so far. */
  setResult(result: ResultInfo): void {
    this.facts.result = result
  }

  /** Whether content may be recorded on spans (MINISERVE_CAPTURE_CONTENT). */
  get capturesContent(): boolean {
    return this.#host.captureContent
  }

  /** Adds content to the root; ignored unless content is captured. May be called more than once. */
  setContent(content: CapturedContent): void {
    if (!this.#host.captureContent) return
    this.#content = { ...this.#content, ...content }
    this.set(contentAttributes(content))
  }

  /** The conversation that the request belongs to; null if the caller named none. */
  get conversationId(): string | null {
    return this.#conversationId
  }

  /** Sets the conversation's id. Ignored if it is not a plain word of at most 128 characters. */
  setConversation(id: unknown): void {
    if (!isConversationId(id)) return
    this.#conversationId = id
    this.set({ 'gen_ai.conversation.id': id })
  }

  /** Sets the engine's times and counts, once the engine is done with the request. */
  setPhases(summary: RequestSummary): void {
    this.facts.phases = summary
    this.#times.set(summary.durationsMs)
  }

  /** Sets attributes of http.handler. */
  set(attributes: SpanAttributes<typeof ROOT_SPAN>): void {
    if (this.#isClosed) return
    this.#root?.setAttributes(this.checked(ROOT_SPAN, attributes))
  }

  /** Adds an event of the contract to http.handler, or to the given span. */
  event(
    name: string,
    attributes: Readonly<Record<string, unknown>> = {},
    atMs: number = performance.now(),
    on: { readonly span: Span; readonly name: SpanName } | null = this.#root && { span: this.#root, name: ROOT_SPAN },
  ): void {
    if (this.#isClosed || !on) return
    this.activity.touch()
    on.span.addEvent(name, eventAttributes(on.name, name, attributes, this.#host.onBreach), this.time(atMs))
  }

  hold(): () => void {
    return this.activity.hold()
  }

  /** Calls a function right before the root ends. */
  beforeClose(hook: () => void): void {
    this.#closeHooks.push(hook)
  }

  /** Opens a span of the contract below `parent`. Null if spans are not recorded or the trace is closed. */
  startSpan<N extends SpanName>(name: N, parent: Context, startMs: number, attributes: SpanAttributes<N>): Span | null {
    const { tracer, registry } = this.#host
    if (!this.#root || this.#isClosed || !tracer) return null
    const span = tracer.startSpan(
      name,
      {
        startTime: this.time(startMs),
        attributes: {
          ...CONSTANT_ATTRIBUTES[name],
          ...(this.#host.openInference ? openInferenceKind(name) : {}),
          ...this.checked(name, attributes),
        },
      },
      parent,
    )
    registry.open(this.requestId, name, span, traceApi.setSpan(parent, span))
    return span
  }

  /** The attributes that the contract allows, with their aliases. Others are omitted and counted. */
  checked(name: SpanName, attributes: Readonly<Record<string, unknown>>): Attributes {
    const { captureContent, openInference, onBreach } = this.#host
    const checked = contractAttributes(name, attributes, onBreach, captureContent)
    return openInference ? { ...checked, ...stageAttributes(name, attributes, captureContent) } : checked
  }

  openStage<N extends StageName>(name: N, parent: Context, attributes?: SpanAttributes<N>): OpenStage<N> | null {
    if (!this.isOpen) return null
    this.activity.touch()
    const opened = new Stage<N>(this, name, parent, attributes ?? {})
    this.#stages.add(opened)
    return opened
  }

  /** Records the duration of an ended stage for Server-Timing, and writes its log line. */
  stageEnded({ name, context, durationMs, isOk, fields }: EndedStage): void {
    this.activity.touch()
    this.#times.add(name, durationMs)
    const event = SPANS[name].logEvent
    if (event && isOk) runIn(context, () => this.log.info(event, { ...fields, duration_ms: roundMs(durationMs) }))
  }

  /** Converts a performance.now() time to a span time inside the request's own interval. */
  time(atMs: number, mayOutlive = false): HrTime {
    const end = this.facts.ended && !mayOutlive ? this.facts.ended.atMs : Infinity
    return this.anchor.toHrTime(Math.min(Math.max(atMs, this.startMs), end))
  }

  /**
   * Ends the request: records its row of the table of endings. The root's end time is now, but the root stays open until no work is in
   * flight. Returns false, and does nothing, if the request was finished before.
   */
  finish(input: FinishInput): boolean {
    if (!this.#host.take(this)) return false
    const row = endingRow(input.ending, input.status)
    const errorType = errorTypeOf(row, input)
    this.facts.ended = { row, status: input.status, errorType, atMs: performance.now() }
    try {
      this.#recordEnding(row, input)
      this.#host.finished(this)
    } catch (error) {
      this.#host.onProblem('trace.finish_failed', error)
    } finally {
      this.#closeWhenDone()
    }
    return true
  }

  /** Ends the root while work is still in flight, for the watchdog and the shutdown. */
  forceClose(): void {
    if (this.facts.ended && !this.#isClosing) this.#close(true)
  }

  #recordEnding(row: EndingRow, input: FinishInput): void {
    const { attributes, spanMessage, exception, fields } = lastWords(this.facts, this.input, row, input)
    this.set(attributes)
    if (spanMessage !== null) this.#root?.setStatus({ code: SpanStatusCode.ERROR, message: spanMessage })
    if (exception !== null) this.event('exception', exception)
    if (row.event === 'request.departed') this.event('request.departed', { finish_reasons: this.facts.finishReasons })
    else this.event('request.aborted', { reason: row.reason })
    this.log[lastLineLevel(row, this.input)](row.line, fields)
  }

  #closeWhenDone(): void {
    if (this.facts.ended && this.activity.numPending === 0 && !this.#isClosing) this.#close(false)
  }

  #close(isForced: boolean): void {
    const ended = this.facts.ended
    if (!ended) return
    // The hooks release the remaining holds, which must not close the trace again.
    this.#isClosing = true
    let decision: SamplingDecision = { isExported: false, reason: null }
    try {
      for (const hook of this.#closeHooks) hook()
      this.#endSpans(ended, isForced)
      decision = this.#host.decide(this)
      this.set({ ...this.facts.outcome(this.requestId), 'sampling.reason': decision.reason ?? undefined })
      if (this.#host.openInference) {
        this.#root?.setAttributes(rootAttributes(this.input.kind, this.facts, this.#content, this.#conversationId))
      }
    } catch (error) {
      this.#host.onProblem('trace.close_failed', error)
    } finally {
      this.#isClosed = true
      this.#host.registry.forget(this.requestId)
      // The root must end even if something failed above.
      this.#root?.end(this.anchor.toHrTime(ended.atMs))
      this.#host.closed(this, decision)
    }
  }

  #endSpans({ row, errorType }: Ended, isForced: boolean): void {
    const cause = isForced ? 'span_leak' : (errorType ?? row.reason ?? 'closed_early')
    for (const open of [...this.#stages].reverse()) open.close(cause, this.facts.tokensOut)
    this.#stages.clear()
    // Spans that plugins left open. They are no error if the request was served.
    const isError = isForced || row.spanStatus === 'error'
    this.spans?.endAll(this.#root, this.time(performance.now()), (span) => {
      if (!isError) return
      span.setAttribute('error.type', cause)
      span.setStatus({ code: SpanStatusCode.ERROR, message: cause })
    })
  }

  /** Value of the traceresponse header (W3C Trace Context, level 2 draft). */
  traceresponse(): string | null {
    return this.isRecorded ? traceparentOf(this, this.spanId) : null
  }

  /** Value of the Server-Timing header; null if no stage has ended. */
  serverTiming(): string | null {
    return this.#times.header(performance.now() - this.startMs)
  }

  addLogLine(line: string): void {
    if (this.#root) this.log.keep(line)
  }
}
