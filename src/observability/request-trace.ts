/**
 * One request's trace, from before its body is read until its response is over and none of its work is in flight. Whoever takes
 * the request out of the table first finishes it; later calls find nothing and do nothing. Works on this object alone, never on the
 * active context: disconnects, cancels and worker messages arrive in callbacks that have none.
 */
import {
  type Attributes,
  type Context,
  type HrTime,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace as traceApi,
  TraceFlags,
  type Tracer,
} from '@opentelemetry/api'
import type { RequestSummary } from '../engine/summary.ts'
import { contractAttributes, describeError, eventAttributes, exceptionAttributes } from './attributes.ts'
import { ClientCalls, traceparentOf, type UpstreamCall } from './client-calls.ts'
import type { ClockAnchor } from './clock.ts'
import { type CapturedContent, contentJson } from './content.ts'
import {
  type ClientAttributes,
  type ClientCall,
  currentRequest,
  type OpenStage,
  type RequestScope,
  runIn,
  withRequest,
} from './context.ts'
import {
  CONSTANT_ATTRIBUTES,
  ROOT_SPAN,
  type SpanAttributes,
  type SpanName,
  SPAN_TABLE,
  SPANS,
  type StageName,
} from './contract.ts'
import { type EndingName, type EndingRow, endingRow, ERROR_CODE, firstLineLevel, lastLineLevel } from './endings.ts'
import type { Log, LogEvent, LogFields, LogLevel } from './log.ts'
import {
  arrivalAttributes,
  generationAttributes,
  type GenerationInfo,
  type OpenRequestInput,
  outcomeAttributes,
  type ResultInfo,
} from './root-span.ts'
import type { RequestSpans, SpanRegistry } from './span-registry.ts'
import { type EndedStage, Stage, type StageOwner } from './stage.ts'
import type { SamplingDecision } from './tail-sampling.ts'

/** Bound of the log lines a trace keeps for its page. */
const MAX_LOG_LINES = 64
const MAX_LOG_BYTES = 32_768

/** What a request's trace needs around it. */
export interface TraceHost {
  /** null: tracing is off. */
  readonly tracer: Tracer | null
  /** Of spans that are not the contract's. */
  readonly extensionTracer: Tracer | null
  readonly registry: SpanRegistry
  readonly log: Log
  readonly captureContent: boolean
  readonly trustRemote: boolean
  anchor(): ClockAnchor
  newTraceId(): string
  newSpanId(): string
  /** The caller's span from W3C headers; null when there is none or it is malformed. */
  extract(headers: OpenRequestInput['headers']): SpanContext | null
  /** Takes the trace out of the table of open requests; false when it is no longer there. */
  take(trace: RequestTrace): boolean
  /** The body is valid. */
  accepted(trace: RequestTrace): void
  /** The response is over. */
  finished(trace: RequestTrace): void
  /** Whether the trace is exported; asked once, right before the root ends. */
  decide(trace: RequestTrace): SamplingDecision
  /** The root has ended. */
  closed(trace: RequestTrace, decision: SamplingDecision): void
  /** A value did not fit the contract's table. */
  readonly onBreach: (spanName: string, attribute: string) => void
  onProblem(event: LogEvent, error: unknown): void
}

export interface FinishInput {
  readonly ending: EndingName
  /** The status sent; null: none was. */
  readonly status: number | null
  /** Its class, stable code and frames are recorded; its message where the class is this project's own. */
  readonly error?: unknown
}

export class RequestTrace implements RequestScope, StageOwner {
  readonly traceId: string
  /** Span id of http.handler. */
  readonly spanId: string
  readonly requestId: string
  readonly input: OpenRequestInput
  readonly startMs = performance.now()
  readonly anchor: ClockAnchor
  /** The root span in it; parent context of the request's spans. */
  readonly context: Context
  readonly log: Log
  readonly spans: RequestSpans | null
  readonly logLines: string[] = []
  /** The head decision: OTEL_TRACES_SAMPLER, by default after the caller's flags. */
  readonly isHeadSampled: boolean
  readonly #host: TraceHost
  readonly #root: Span | null
  readonly #calls: ClientCalls
  readonly #stages = new Set<Stage<StageName>>()
  readonly #durations = new Map<string, number>()
  readonly #closeHooks: (() => void)[] = []
  #logBytes = 0
  #keyId: string
  #generation: GenerationInfo | null = null
  #result: ResultInfo | null = null
  #summary: RequestSummary | null = null
  #firstChunkMs: number | null = null
  #numPending = 0
  #ended: { readonly row: EndingRow; readonly status: number | null; readonly atMs: number } | null = null
  #isClosing = false
  #isClosed = false
  #lastActiveMs = this.startMs
  /** Prompt tokens of the sequences the engine queued; null: it never took the request. */
  #acceptedTokens: number | null = null

  constructor(host: TraceHost, input: OpenRequestInput) {
    this.#host = host
    this.input = input
    this.requestId = input.requestId
    this.#keyId = input.keyId ?? 'anonymous'
    this.anchor = host.anchor()
    const write = (level: LogLevel) => (event: LogEvent, fields?: LogFields) => this.#writeLog(level, event, fields)
    this.log = {
      trace: write('trace'),
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      fatal: write('fatal'),
    }
    const remote = host.extract(input.headers)
    const trusted = remote && host.trustRemote ? remote : null
    this.#calls = new ClientCalls(this, host.extensionTracer, remote, host.trustRemote)
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
    this.traceId = own?.traceId ?? trusted?.traceId ?? host.newTraceId()
    this.spanId = own?.spanId ?? host.newSpanId()
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

  get keyId(): string {
    return this.#keyId
  }

  /** Short id of the caller's API key: decides who may see the trace. */
  setKeyId(keyId: string): void {
    this.#keyId = keyId
  }

  /** False once the response is over. */
  get isOpen(): boolean {
    return this.#ended === null
  }

  get isRecorded(): boolean {
    return this.#root !== null
  }

  get generation(): GenerationInfo | null {
    return this.#generation
  }

  get result(): ResultInfo | null {
    return this.#result
  }

  get phases(): RequestSummary | null {
    return this.#summary
  }

  get ending(): { readonly row: EndingRow; readonly status: number | null; readonly atMs: number } | null {
    return this.#ended
  }

  /** Work in flight for the request. */
  get pending(): number {
    return this.#numPending
  }

  /** performance.now() of the last sign of life, for the watchdog. */
  get lastActiveMs(): number {
    return this.#lastActiveMs
  }

  touch(): void {
    this.#lastActiveMs = performance.now()
  }

  /** What the body asked for, once it is valid. */
  setGeneration(info: GenerationInfo): void {
    this.#generation = info
    this.set(generationAttributes(info))
    this.#host.accepted(this)
  }

  /** What came of the generation so far. */
  setResult(result: ResultInfo): void {
    this.#result = result
  }

  /** MINISERVE_CAPTURE_CONTENT: the one way for content onto a span. */
  get capturesContent(): boolean {
    return this.#host.captureContent
  }

  /** Content on the root; only where MINISERVE_CAPTURE_CONTENT is on, else nothing. May be called as it becomes known. */
  setContent({ systemInstructions, input, output, tools }: CapturedContent): void {
    const json = (items: readonly unknown[] | undefined) => (items?.length ? contentJson(items) : undefined)
    if (!this.#host.captureContent) return
    this.set({
      'gen_ai.system_instructions': json(systemInstructions),
      'gen_ai.input.messages': json(input),
      'gen_ai.output.messages': json(output),
      'gen_ai.tool.definitions': json(tools),
    })
  }

  /** The first chunk of the stream is on its way. */
  firstChunk(): void {
    this.#firstChunkMs ??= performance.now()
  }

  /** Seconds from the request's arrival to its first token; null before. */
  get ttftSeconds(): number | null {
    const atMs = this.#summary?.firstTokenMs ?? null
    return atMs === null ? null : Math.max(0, atMs - this.startMs) / 1000
  }

  /** The engine took a sequence of the request. */
  accepted(numPromptTokens: number, countsPrompt: boolean): void {
    this.#acceptedTokens = (this.#acceptedTokens ?? 0) + (countsPrompt ? numPromptTokens : 0)
  }

  /** The engine's times and counts, when it is done with the request. */
  setPhases(summary: RequestSummary): void {
    this.#summary = summary
    for (const [name, ms] of Object.entries(summary.durationsMs)) this.#durations.set(name, ms)
  }

  /** Sets attributes of http.handler. */
  set(attributes: SpanAttributes<typeof ROOT_SPAN>): void {
    if (this.#isClosed) return
    this.#root?.setAttributes(this.checked(ROOT_SPAN, attributes))
  }

  /** Adds an event of the contract to http.handler, or to the span given. */
  event(
    name: string,
    attributes: Readonly<Record<string, unknown>> = {},
    atMs: number = performance.now(),
    on: { readonly span: Span; readonly name: SpanName } | null = this.#root && { span: this.#root, name: ROOT_SPAN },
  ): void {
    if (this.#isClosed || !on) return
    this.touch()
    on.span.addEvent(name, eventAttributes(on.name, name, attributes, this.#host.onBreach), this.time(atMs))
  }

  hold(): () => void {
    this.#numPending += 1
    this.touch()
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.#numPending -= 1
      this.touch()
      this.#closeWhenDone()
    }
  }

  /** Runs right before the root ends, when the response is over and nothing is in flight. */
  beforeClose(hook: () => void): void {
    this.#closeHooks.push(hook)
  }

  /** Opens a contract span below `parent` under its name; null when none is recorded or the trace is closed. */
  startSpan<N extends SpanName>(name: N, parent: Context, startMs: number, attributes: SpanAttributes<N>): Span | null {
    const { tracer, registry } = this.#host
    if (!this.#root || this.#isClosed || !tracer) return null
    const span = tracer.startSpan(
      name,
      {
        startTime: this.time(startMs),
        attributes: { ...CONSTANT_ATTRIBUTES[name], ...this.checked(name, attributes) },
      },
      parent,
    )
    registry.open(this.requestId, name, span, traceApi.setSpan(parent, span))
    return span
  }

  /** Contract attributes of a span with their aliases; what does not fit the table is left out and counted. */
  checked(name: SpanName, attributes: Readonly<Record<string, unknown>>): Attributes {
    const checked = contractAttributes(name, attributes, this.#host.onBreach)
    if (this.#host.captureContent) return checked
    const specs = SPAN_TABLE[name]?.attributes
    for (const key in checked) if (specs?.[key]?.isContent) delete checked[key]
    return checked
  }

  openStage<N extends StageName>(name: N, parent: Context, attributes?: SpanAttributes<N>): OpenStage<N> | null {
    if (!this.isOpen) return null
    this.touch()
    const opened = new Stage<N>(this, name, parent, attributes ?? {})
    this.#stages.add(opened)
    return opened
  }

  /** A stage ended: its duration for Server-Timing and its line of the story. */
  stageEnded({ name, context, durationMs, isOk, fields }: EndedStage): void {
    this.touch()
    this.#durations.set(name, (this.#durations.get(name) ?? 0) + durationMs)
    const event = SPANS[name].logEvent
    if (event && isOk) runIn(context, () => this.log.info(event, { ...fields, duration_ms: round(durationMs) }))
  }

  /** A time of performance.now() as span time, inside the request's own interval. */
  time(atMs: number, mayOutlive = false): HrTime {
    const end = this.#ended && !mayOutlive ? this.#ended.atMs : Infinity
    return this.anchor.toHrTime(Math.min(Math.max(atMs, this.startMs), end))
  }

  /**
   * The response is over. The first call counts: it records the row of the table of endings; the root ends now, or, with work in
   * flight, when the last of it is released (its end time is now all the same). Returns false when the request was finished before.
   */
  finish(input: FinishInput): boolean {
    if (!this.#host.take(this)) return false
    const row = endingRow(input.ending, input.status)
    this.#ended = { row, status: input.status, atMs: performance.now() }
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

  /** Ends the root with work still in flight: the watchdog's and the shutdown's last word. */
  forceClose(): void {
    if (this.#ended && !this.#isClosing) this.#close(true)
  }

  #recordEnding(row: EndingRow, input: FinishInput): void {
    const status = row.statusCode ?? input.status
    const described = input.error === undefined ? null : describeError(input.error)
    const code = described?.code ?? (status === null ? null : String(status))
    const errorType = row.errorType === ERROR_CODE ? code : row.errorType
    this.set({
      'http.status_code': status ?? undefined,
      'error.type': errorType ?? undefined,
      'llm.request.param': described?.param ?? undefined,
    })
    if (row.spanStatus === 'error') {
      this.#root?.setStatus({ code: SpanStatusCode.ERROR, message: described?.code ?? row.errorType ?? row.ending })
      if (described && row.ending !== 'client_disconnect') this.event('exception', exceptionAttributes(input.error))
    }
    if (row.event === 'request.departed') this.event('request.departed', { finish_reasons: this.finishReasons })
    else this.event('request.aborted', { reason: row.reason })
    this.log[lastLineLevel(row, this.input)](row.line, {
      request_id: this.requestId,
      route: this.input.route,
      status: status ?? undefined,
      duration_ms: round((this.#ended?.atMs ?? this.startMs) - this.startMs),
      tokens_in: this.tokensIn ?? undefined,
      tokens_out: this.tokensOut ?? undefined,
      finish_reasons: this.finishReasons,
      reason: row.reason ?? undefined,
      error_type: described?.type,
      error_code: described?.code ?? undefined,
      param: described?.param ?? undefined,
      error: row.line === 'request.failed' ? input.error : undefined,
    })
  }

  #closeWhenDone(): void {
    if (this.#ended && this.#numPending === 0 && !this.#isClosing) this.#close(false)
  }

  #close(isForced: boolean): void {
    const ended = this.#ended
    if (!ended) return
    // The hooks release what the request still holds, which must not close it a second time.
    this.#isClosing = true
    let decision: SamplingDecision = { isExported: false, reason: null }
    try {
      for (const hook of this.#closeHooks) hook()
      this.#endSpans(ended.row, isForced)
      decision = this.#host.decide(this)
      this.set({ ...this.#outcome(ended.row), 'sampling.reason': decision.reason ?? undefined })
    } catch (error) {
      this.#host.onProblem('trace.close_failed', error)
    } finally {
      this.#isClosed = true
      this.#host.registry.forget(this.requestId)
      // Nothing gates the end: a root that was opened ends here, whatever went wrong above.
      this.#root?.end(this.anchor.toHrTime(ended.atMs))
      this.#host.closed(this, decision)
    }
  }

  #outcome(row: EndingRow): SpanAttributes<typeof ROOT_SPAN> {
    const tokensIn = this.tokensIn
    if (this.#acceptedTokens === null || tokensIn === null || row.isRefusal) return {}
    return outcomeAttributes({
      requestId: this.requestId,
      isScored: this.#result?.isScored ?? this.#generation?.maxTokens === 0,
      tokensIn,
      tokensOut: this.tokensOut,
      finishReasons: this.finishReasons,
      summary: this.#summary,
      result: this.#result,
      firstChunkSeconds: this.#firstChunkMs === null ? null : (this.#firstChunkMs - this.startMs) / 1000,
    })
  }

  /** Why each choice ended: as the response says it where it was sent whole, else as the engine does; undefined before. */
  get finishReasons(): readonly string[] | undefined {
    const shown = this.#result?.finishReasons ?? []
    const ended = this.#summary?.finishReasons ?? []
    const isWhole = this.#ended?.row.ending === 'success' && shown.length > 0
    const reasons = isWhole || shown.length >= ended.length ? shown : ended
    return reasons.length > 0 ? reasons : undefined
  }

  /** Generated tokens, of the engine's count where it has ended, else of the response's. */
  get tokensOut(): number | null {
    return this.#summary?.tokensOut ?? this.#result?.tokensOut ?? null
  }

  /** Tokens of the final prompt, likewise; null before the engine took the request. */
  get tokensIn(): number | null {
    return this.#summary?.tokensIn ?? this.#result?.tokensIn ?? this.#acceptedTokens
  }

  #endSpans(row: EndingRow, isForced: boolean): void {
    const cause = isForced ? 'span_leak' : (row.errorType ?? row.reason ?? 'closed_early')
    for (const open of [...this.#stages].reverse()) open.close(cause, this.tokensOut)
    this.#stages.clear()
    // Spans that others forgot. In a request that was served they are no error.
    const isError = isForced || row.spanStatus === 'error'
    this.spans?.endAll(this.#root, this.time(performance.now()), (span) => {
      if (!isError) return
      span.setAttribute('error.type', cause)
      span.setStatus({ code: SpanStatusCode.ERROR, message: cause })
    })
  }

  startClientCall(name: string, attributes: ClientAttributes, parent: Context): ClientCall {
    return this.#calls.start(name, attributes, parent)
  }

  /** A call to another engine: a CLIENT span below http.handler, under which that engine's own spans stand. */
  startUpstreamCall(url: string): UpstreamCall {
    return this.#calls.startUpstream(url)
  }

  /** Value of the traceresponse header (W3C Trace Context, level 2 draft). */
  traceresponse(): string | null {
    return this.isRecorded ? traceparentOf(this, this.spanId) : null
  }

  /** Value of the Server-Timing header: the stages so far, in milliseconds. */
  serverTiming(): string | null {
    if (this.#durations.size === 0) return null
    const stages = [...this.#durations].map(([name, ms]) => `${name};dur=${round(ms)}`)
    return [...stages, `total;dur=${round(performance.now() - this.startMs)}`].join(', ')
  }

  addLogLine(line: string): void {
    if (!this.#root || this.logLines.length >= MAX_LOG_LINES || this.#logBytes + line.length > MAX_LOG_BYTES) return
    this.logLines.push(line)
    this.#logBytes += line.length
  }

  #writeLog(level: LogLevel, event: LogEvent, fields?: LogFields): void {
    // The stage that writes names the span; outside the request's own context (callbacks), the root does.
    if (currentRequest() === this) this.#host.log[level](event, fields)
    else this.run(() => this.#host.log[level](event, fields))
  }
}

const round = (ms: number): number => Math.round(ms * 1000) / 1000
