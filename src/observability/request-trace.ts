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
  SpanKind,
  SpanStatusCode,
  trace as traceApi,
  TraceFlags,
} from '@opentelemetry/api'
import { contractAttributes, describeError, eventAttributes } from './attributes.ts'
import type { ClockAnchor } from './clock.ts'
import { currentRequest, type OpenStage, runIn, withRequest } from './context.ts'
import {
  CONSTANT_ATTRIBUTES,
  ROOT_SPAN,
  type SpanAttributes,
  type SpanName,
  SPANS,
  type StageName,
} from './contract.ts'
import { type EndingName, type EndingRow, endingRow } from './endings.ts'
import type { RequestSummary } from '../engine/summary.ts'
import type { Log, LogFields } from './logging.ts'
import type { FinishInput, GenerationInfo, OpenRequestInput, ResultInfo } from './request-info.ts'
import { Stage } from './stage.ts'
import { END_LINES, endLevel, storyLevel } from './story-lines.ts'
import type { SamplingDecision, TraceHost } from './trace-host.ts'
import { SpanTree, withTree } from './span-tree.ts'

/** Bound of the log lines a trace keeps for its page. */
const MAX_LOG_LINES = 64
const MAX_LOG_BYTES = 32_768

export class RequestTrace {
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
  /** Spans ended so far; null when none are recorded. */
  readonly tree: SpanTree | null
  readonly logLines: string[] = []
  private readonly host: TraceHost
  private readonly root: Span | null
  /** The head decision: the caller's flags or OTEL_TRACES_SAMPLER. */
  readonly isHeadSampled: boolean
  /** The caller sent flags 00. */
  readonly isRefusedByCaller: boolean
  private readonly traceState: string | null
  private readonly stages = new Set<Stage<StageName>>()
  private readonly durations = new Map<string, number>()
  private readonly closeHooks: (() => void)[] = []
  private logBytes = 0
  private keyIdValue: string
  private generationInfo: GenerationInfo | null = null
  private resultInfo: ResultInfo | null = null
  private enginePhases: RequestSummary | null = null
  private numPending = 0
  private ended: { readonly row: EndingRow; readonly status: number | null; readonly atMs: number } | null = null
  private isClosing = false
  private isClosed = false
  private lastActivityMs = this.startMs
  /** Prompt tokens of the sequences the engine queued; null: it never took the request. */
  private acceptedTokens: number | null = null

  constructor(host: TraceHost, input: OpenRequestInput) {
    this.host = host
    this.input = input
    this.requestId = input.requestId
    this.keyIdValue = input.keyId ?? 'anonymous'
    this.anchor = host.anchor()
    this.log = {
      trace: (event, fields) => this.writeLog('trace', event, fields),
      debug: (event, fields) => this.writeLog('debug', event, fields),
      info: (event, fields) => this.writeLog('info', event, fields),
      warn: (event, fields) => this.writeLog('warn', event, fields),
      error: (event, fields) => this.writeLog('error', event, fields),
      fatal: (event, fields) => this.writeLog('fatal', event, fields),
    }
    const remote = host.extract(input.headers)
    const isRecorded = host.tracer !== null && input.kind !== 'other'
    if (isRecorded && host.tracer) {
      this.tree = new SpanTree()
      const parent = remote && host.trustRemote ? traceApi.setSpanContext(ROOT_CONTEXT, remote) : ROOT_CONTEXT
      this.root = host.tracer.startSpan(
        ROOT_SPAN,
        {
          kind: SpanKind.SERVER,
          startTime: this.anchor.toHrTime(this.startMs),
          links: remote && !host.trustRemote ? [{ context: remote }] : [],
          attributes: this.checked(ROOT_SPAN, {
            'http.method': input.method,
            'http.route': input.route,
            'llm.request.id': input.requestId,
            ...(input.callerId ? { 'http.request.header.x-request-id': [input.callerId] } : {}),
            'url.path': input.path,
            'url.scheme': input.scheme,
            'server.address': input.host,
            'server.port': input.port,
          }),
        },
        withTree(withRequest(parent, this), this.tree),
      )
    } else {
      this.tree = null
      this.root = null
    }
    const own = this.root?.spanContext()
    const trusted = remote && host.trustRemote ? remote : null
    this.traceId = own?.traceId ?? trusted?.traceId ?? host.newTraceId()
    this.spanId = own?.spanId ?? host.newSpanId()
    this.isHeadSampled = ((own ?? trusted)?.traceFlags ?? TraceFlags.SAMPLED) === TraceFlags.SAMPLED
    this.isRefusedByCaller = trusted !== null && (trusted.traceFlags & TraceFlags.SAMPLED) === 0
    this.traceState = trusted?.traceState?.serialize() ?? null
    const base = withRequest(ROOT_CONTEXT, this)
    this.context = this.root && this.tree ? withTree(traceApi.setSpan(base, this.root), this.tree) : base
    if (this.root) {
      host.registry.open(this.requestId, ROOT_SPAN, this.root, this.context)
      this.event('request.arrived', {}, this.startMs)
    }
    this.log[storyLevel(input.kind)]('request.received', {
      method: input.method,
      route: input.route,
      request_id: input.requestId,
      ...(input.callerId ? { caller_request_id: input.callerId } : {}),
    })
  }

  /** Runs a function in the request's context. */
  run<T>(fn: () => T): T {
    return runIn(this.context, fn)
  }

  get keyId(): string {
    return this.keyIdValue
  }

  /** Short id of the caller's API key: decides who may see the trace. */
  setKeyId(keyId: string): void {
    this.keyIdValue = keyId
  }

  /** False once the response is over. */
  get isOpen(): boolean {
    return this.ended === null
  }

  get isRecorded(): boolean {
    return this.root !== null
  }

  get generation(): GenerationInfo | null {
    return this.generationInfo
  }

  get result(): ResultInfo | null {
    return this.resultInfo
  }

  get phases(): RequestSummary | null {
    return this.enginePhases
  }

  get ending(): { readonly row: EndingRow; readonly status: number | null; readonly atMs: number } | null {
    return this.ended
  }

  /** Work in flight for the request. */
  get pending(): number {
    return this.numPending
  }

  /** performance.now() of the last sign of life, for the watchdog. */
  get lastActiveMs(): number {
    return this.lastActivityMs
  }

  touch(): void {
    this.lastActivityMs = performance.now()
  }

  /** What the body asked for, once it is valid. */
  setGeneration(info: GenerationInfo): void {
    this.generationInfo = info
    this.set({
      'llm.model': info.model,
      'llm.choices': info.numChoices !== undefined && info.numChoices > 1 ? info.numChoices : undefined,
      'llm.stop_sequences': info.stopSequences ? info.stopSequences : undefined,
      'gen_ai.operation.name': info.operation,
      'gen_ai.provider.name': 'miniserve',
      'gen_ai.request.max_tokens': info.maxTokens ?? undefined,
      'gen_ai.request.temperature': info.temperature ?? undefined,
      'gen_ai.request.top_p': info.topP ?? undefined,
      'gen_ai.request.top_k': info.topK || undefined,
      'gen_ai.request.seed': info.seed ?? undefined,
      'gen_ai.request.stream': info.stream || undefined,
      'gen_ai.request.choice.count': info.n !== undefined && info.n !== 1 ? info.n : undefined,
    })
  }

  /** What came of the generation so far. */
  setResult(result: ResultInfo): void {
    this.resultInfo = result
  }

  /** MINISERVE_CAPTURE_CONTENT: the one way for content onto a span. */
  get capturesContent(): boolean {
    return this.host.captureContent
  }

  /** Prompt and output on the span; only where MINISERVE_CAPTURE_CONTENT is on, else nothing. */
  setContent(content: { readonly input?: string; readonly output?: string }): void {
    if (!this.host.captureContent) return
    this.set({ 'gen_ai.input.messages': content.input, 'gen_ai.output.messages': content.output })
  }

  /** The engine took a sequence of the request. */
  accepted(numPromptTokens: number, countsPrompt: boolean): void {
    this.acceptedTokens = (this.acceptedTokens ?? 0) + (countsPrompt ? numPromptTokens : 0)
  }

  /** The engine's times and counts, when it is done with the request. */
  setPhases(phases: RequestSummary): void {
    this.enginePhases = phases
    for (const [name, ms] of Object.entries(phases.durationsMs)) this.durations.set(name, ms)
  }

  /** Sets attributes of http.handler. */
  set(attributes: SpanAttributes<typeof ROOT_SPAN>): void {
    if (this.isClosed) return
    this.root?.setAttributes(this.checked(ROOT_SPAN, attributes))
  }

  /** Adds an event of the contract to http.handler, or to the span given. */
  event(
    name: string,
    attributes: Readonly<Record<string, unknown>> = {},
    atMs: number = performance.now(),
    on: { readonly span: Span; readonly name: SpanName } | null = this.root && { span: this.root, name: ROOT_SPAN },
  ): void {
    if (this.isClosed || !on) return
    this.touch()
    on.span.addEvent(name, eventAttributes(on.name, name, attributes, this.host.onBreach), this.time(atMs))
  }

  /** Counts work that is about to be submitted; the trace stays open until it was released. Releasing twice does nothing. */
  hold(): () => void {
    this.numPending += 1
    this.touch()
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.numPending -= 1
      this.touch()
      this.closeWhenDone()
    }
  }

  /** Runs right before the root ends, when the response is over and nothing is in flight. */
  beforeClose(hook: () => void): void {
    this.closeHooks.push(hook)
  }

  /** Opens a contract span below `parent`; null when none is recorded or the response is over. */
  startSpan<N extends SpanName>(name: N, parent: Context, startMs: number, attributes: SpanAttributes<N>): Span | null {
    if (!this.root || this.isClosed) return null
    return (
      this.host.tracer?.startSpan(
        name,
        {
          startTime: this.time(startMs),
          attributes: { ...CONSTANT_ATTRIBUTES[name], ...this.checked(name, attributes) },
        },
        parent,
      ) ?? null
    )
  }

  /** Contract attributes of a span with their aliases; what does not fit the table is left out and counted. */
  checked(name: SpanName, attributes: Readonly<Record<string, unknown>>): Attributes {
    return contractAttributes(name, attributes, this.host.onBreach)
  }

  openStage<N extends StageName>(name: N, parent: Context, attributes?: SpanAttributes<N>): OpenStage<N> | null {
    if (!this.isOpen) return null
    this.touch()
    const opened = new Stage<N>(this, name, parent, attributes ?? {}, this.host.registry)
    this.stages.add(opened)
    return opened
  }

  /** A stage ended: its duration for Server-Timing and its line of the story. */
  stageEnded(ended: Stage<StageName>, context: Context, durationMs: number, isOk: boolean, fields: LogFields): void {
    this.touch()
    // format.output ends with the request, when the engine's last word on the tokens is known.
    if (ended.name !== 'format.output') this.stages.delete(ended)
    this.durations.set(ended.name, (this.durations.get(ended.name) ?? 0) + durationMs)
    const event = SPANS[ended.name].logEvent
    if (event && isOk) runIn(context, () => this.log.info(event, { ...fields, duration_ms: round(durationMs) }))
  }

  /** A time of performance.now() as span time, inside the request's own interval. */
  time(atMs: number, mayOutlive = false): HrTime {
    const end = this.ended && !mayOutlive ? this.ended.atMs : Infinity
    return this.anchor.toHrTime(Math.min(Math.max(atMs, this.startMs), end))
  }

  /**
   * The response is over. The first call counts: it records the row of the table of endings; the root ends now, or, with work in
   * flight, when the last of it is released (its end time is now all the same). Returns false when the request was finished before.
   */
  finish(input: FinishInput): boolean {
    if (!this.host.take(this)) return false
    const row = endingRow(input.ending, input.status)
    this.ended = { row, status: input.status, atMs: performance.now() }
    try {
      this.recordEnding(row, input)
    } catch (error) {
      this.host.onProblem('trace.finish_failed', error)
    } finally {
      this.closeWhenDone()
    }
    return true
  }

  /** Ends the root with work still in flight: the watchdog's and the shutdown's last word. */
  forceClose(): void {
    if (this.ended && !this.isClosing) this.close(true)
  }

  private recordEnding(row: EndingRow, input: FinishInput): void {
    const status = row.statusCode ?? input.status
    this.set({ 'http.status_code': status ?? undefined, 'error.type': row.errorType ?? undefined })
    const described = input.error === undefined ? null : describeError(input.error)
    if (row.spanStatus === 'error') {
      this.root?.setStatus({ code: SpanStatusCode.ERROR })
      if (described && row.ending !== 'client_disconnect') {
        this.event('exception', { 'exception.type': described.type, 'exception.message': described.code ?? undefined })
      }
    }
    if (row.event === 'request.departed') {
      this.event('request.departed', { finish_reasons: this.finishReasons })
    } else {
      this.event('request.aborted', { reason: row.reason })
    }
    const fields: LogFields = {
      request_id: this.requestId,
      route: this.input.route,
      status: status ?? undefined,
      duration_ms: round((this.ended?.atMs ?? this.startMs) - this.startMs),
      tokens_in: this.tokensIn ?? undefined,
      tokens_out: this.tokensOut ?? undefined,
      finish_reasons: this.finishReasons,
      reason: row.reason ?? undefined,
      error_type: described?.type,
      error_code: described?.code ?? undefined,
    }
    this.log[endLevel(row.ending, this.input.kind)](END_LINES[row.ending], fields)
  }

  private closeWhenDone(): void {
    if (this.ended && this.numPending === 0 && !this.isClosing) this.close(false)
  }

  private close(isForced: boolean): void {
    const ended = this.ended
    if (!ended) return
    // The hooks release what the request still holds, which must not close it a second time.
    this.isClosing = true
    let decision: SamplingDecision = { isExported: false, reason: null }
    try {
      for (const hook of this.closeHooks) hook()
      this.endStages(ended.row, isForced)
      decision = this.host.decide(this)
      this.set({ ...this.finalCounts(ended.row), 'sampling.reason': decision.reason ?? undefined })
    } catch (error) {
      this.host.onProblem('trace.close_failed', error)
    } finally {
      this.isClosed = true
      // Nothing gates the end: a root that was opened ends here, whatever went wrong above.
      this.root?.end(this.anchor.toHrTime(ended.atMs))
      this.host.closed(this, decision)
    }
  }

  /** Token counts of the root: the engine's where it has spoken, else the response's. */
  private finalCounts(row: EndingRow): SpanAttributes<typeof ROOT_SPAN> {
    const result = this.resultInfo
    const phases = this.enginePhases
    const isScored = result?.isScored ?? this.generationInfo?.maxTokens === 0
    if (this.acceptedTokens === null || REFUSALS.has(row.ending)) return {}
    if (isScored) return { 'llm.scored': true, 'gen_ai.response.finish_reasons': this.finishReasons }
    return {
      'llm.tokens.in': phases?.tokensIn ?? result?.tokensIn ?? this.acceptedTokens,
      'llm.tokens.out': this.tokensOut ?? 0,
      'gen_ai.usage.cache_read.input_tokens': phases?.cacheHits ?? result?.cachedTokens,
      'gen_ai.response.finish_reasons': this.finishReasons ?? ['error'],
      'gen_ai.response.time_to_first_chunk': phases?.ttftSeconds ?? result?.timeToFirstTokenSeconds ?? undefined,
    }
  }

  /** Why each choice ended: as the response says it where it was sent whole, else as the engine does; undefined before. */
  get finishReasons(): readonly string[] | undefined {
    const shown = this.resultInfo?.finishReasons ?? []
    const ended = this.enginePhases?.finishReasons ?? []
    const isWhole = this.ended?.row.ending === 'success' && shown.length > 0
    const reasons = isWhole || shown.length >= ended.length ? shown : ended
    return reasons.length > 0 ? reasons : undefined
  }

  /** Generated tokens, of the engine's count where it has ended, else of the response's. */
  get tokensOut(): number | null {
    return this.enginePhases?.tokensOut ?? this.resultInfo?.tokensOut ?? null
  }

  /** Tokens of the final prompt, likewise; null before the engine took the request. */
  get tokensIn(): number | null {
    return this.enginePhases?.tokensIn ?? this.resultInfo?.tokensIn ?? this.acceptedTokens
  }

  private endStages(row: EndingRow, isForced: boolean): void {
    const cause = isForced ? 'span_leak' : (row.errorType ?? row.reason ?? 'closed_early')
    for (const open of [...this.stages].reverse()) open.close(cause, this.tokensOut)
    this.stages.clear()
    for (const [name, { span }] of this.host.registry.clear(this.requestId)) {
      if (name === ROOT_SPAN) continue
      span.setAttribute('error.type', cause)
      span.setStatus({ code: SpanStatusCode.ERROR })
      span.end(this.time(performance.now()))
    }
  }

  /** W3C traceparent naming http.handler, for calls to other services; null when tracing is off. */
  /** A call to another engine, as OpenTelemetry's context has it to go along: the far spans become this request's. */
  startUpstreamCall(_url: string): { readonly headers: Readonly<Record<string, string>>; end(): void } {
    const traceparent = this.traceparent()
    if (traceparent === null) return { headers: {}, end: () => {} }
    const headers: Record<string, string> = { traceparent }
    if (this.traceState !== null) headers['tracestate'] = this.traceState
    return { headers, end: () => {} }
  }

  traceparent(): string | null {
    return this.host.tracer ? `00-${this.traceId}-${this.spanId}-${this.isHeadSampled ? '01' : '00'}` : null
  }

  /** Value of the traceresponse header (W3C Trace Context, level 2 draft). */
  traceresponse(): string | null {
    return this.isRecorded ? this.traceparent() : null
  }

  /** Value of the Server-Timing header: the stages so far, in milliseconds. */
  serverTiming(): string | null {
    if (this.durations.size === 0) return null
    const stages = [...this.durations].map(([name, ms]) => `${name};dur=${round(ms)}`)
    return [...stages, `total;dur=${round(performance.now() - this.startMs)}`].join(', ')
  }

  /** Keeps a written log line for the trace's page. */
  addLogLine(line: string): void {
    if (!this.root || this.logLines.length >= MAX_LOG_LINES || this.logBytes + line.length > MAX_LOG_BYTES) return
    this.logLines.push(line)
    this.logBytes += line.length
  }

  private writeLog(level: keyof Log, event: string, fields?: LogFields): void {
    // The stage that writes names the span; outside the request's own context (callbacks), the root does.
    if (currentRequest() === this) this.host.log[level](event, fields)
    else this.run(() => this.host.log[level](event, fields))
  }
}

/** Endings of requests that were never served: their roots carry no token counts, so that llm.tokens.out=0 finds anomalies. */
const REFUSALS: ReadonlySet<EndingName> = new Set(['validation', 'unauthorized', 'refused', 'unavailable'])

const round = (ms: number): number => Math.round(ms * 1000) / 1000
