/** createObservability(options): logs, traces, metrics and the trace store of one server, wired together. */
import { randomUUID } from 'node:crypto'
import { ROOT_CONTEXT, trace as traceApi, type Tracer } from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { type ClockAnchor, createClock } from './clock.ts'
import { runIn, spawn } from './context.ts'
import type { TraceDetail } from './contract/span-spec.ts'
import { TracingSubscriber } from './engine-subscriber.ts'
import type { EngineEvent, EngineSubscriber } from '../engine/events.ts'
import type { Log, LogEvent, LogLevel } from './log.ts'
import { createLogging, type LoggingOptions } from './logging.ts'
import { Metrics } from './metrics.ts'
import { declareDoubles } from './otlp.ts'
import type { SpanCounts } from './patient-exporter.ts'
import { pluginLog, type SubscriberHost } from './plugins.ts'
import { RequestTrace, type TraceHost } from './request-trace.ts'
import type { OpenRequestInput } from './root-span.ts'
import { setSpanRegistry, SpanRegistry } from './span-registry.ts'
import { createTailSampler, type SamplingDecision, type TailSamplingOptions } from './tail-sampling.ts'
import { type StoredTrace, TraceStore } from './trace-store.ts'
import { createTracing, idGenerator, type Tracing } from './tracing.ts'

export interface ObservabilityOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  /** OTLP endpoint; null: nothing is dialled. */
  readonly otlpEndpoint: string | null
  readonly traceDetail: TraceDetail
  /** Complete traces kept in memory. */
  readonly traceStoreSize: number
  /** False: traces of our own, linked to the caller's span. */
  readonly trustRemote: boolean
  /** Prompts and outputs on spans. */
  readonly captureContent: boolean
  readonly logLevel: LogLevel | 'silent'
  /** null: stdout only. */
  readonly logFile: string | null
  /** null or absent: the head decision alone says what is exported. */
  readonly tailSampling?: TailSamplingOptions | null
  /** Without a sign of life for this long, the watchdog closes a request's trace. Default 15 minutes. */
  readonly leakAfterMs?: number
  /** Spans that may wait for the exporter; more are dropped and counted. */
  readonly exportQueueSize?: number
  /** Replaces stdout. */
  readonly logStream?: LoggingOptions['stream']
  /** Replaces the OTLP exporter. */
  readonly exporter?: SpanExporter
}

export type { SubscriberHost } from './plugins.ts'

export interface Observability {
  readonly logger: Log
  readonly metrics: Metrics
  readonly store: TraceStore
  /** Subscribe it to the engine; with others beside it, subscribe what `subscribers` makes of them. */
  readonly engineSubscriber: EngineSubscriber
  /** Tracing around other subscribers: it opens spans before they hear an event and closes them after, so that theirs nest. */
  subscribers(others: readonly EngineSubscriber[]): readonly EngineSubscriber[]
  readonly subscriberHost: SubscriberHost
  openRequest(input: OpenRequestInput): RequestTrace
  spanCounts(): SpanCounts
  /** Requests, spans and engine work that are still open: all zero when nothing is in flight. */
  open(): { readonly requests: number; readonly spans: number; readonly engine: number }
  /** Resolves when spans and log lines so far have left, or could not. */
  flush(): Promise<void>
  /** Ends every open trace, flushes and closes within the bound. Idempotent, never rejects. */
  shutdown(timeoutMs: number, options?: ShutdownOptions): Promise<void>
}

export interface ShutdownOptions {
  /** Of the line with the last counts. Default info. */
  readonly logLevel?: 'debug' | 'info'
  /** What crashed the process: open requests end as `exception` with it, else as `shutdown`. */
  readonly crash?: unknown
}

const LEAK_AFTER_MS = 15 * 60_000
/** A finished response whose work never calls back. */
const PENDING_AFTER_MS = 60_000

export function createObservability(options: ObservabilityOptions): Observability {
  const logging = createLogging({
    level: options.logLevel,
    file: options.logFile,
    ...(options.logStream ? { stream: options.logStream } : {}),
  })
  return new ServerObservability(options, logging)
}

/** An observability is the host of its requests' traces. */
class ServerObservability implements Observability, TraceHost {
  readonly logger: Log
  readonly log: Log
  readonly metrics: Metrics
  readonly store: TraceStore
  readonly registry = new SpanRegistry()
  readonly tracer: Tracer | null
  readonly extensionTracer: Tracer | null
  readonly engineSubscriber: TracingSubscriber
  readonly subscriberHost: SubscriberHost
  readonly captureContent: boolean
  readonly trustRemote: boolean
  private readonly logging: ReturnType<typeof createLogging>
  private readonly tracing: Tracing | null
  private readonly clock = createClock()
  private readonly propagator = new W3CTraceContextPropagator()
  private readonly sampler: ReturnType<typeof createTailSampler>
  /** Requests whose response is not over. Whoever takes one out finishes it. */
  private readonly openRequests = new Map<string, RequestTrace>()
  /** Finished requests with work in flight. */
  private readonly closing = new Map<string, RequestTrace>()
  /** Ids of the last closed requests: an event that comes late must not open a root again. */
  private readonly recentlyClosed = new Set<string>()
  private others: readonly EngineSubscriber[] = []
  private readonly leakAfterMs: number
  private readonly watchdog: NodeJS.Timeout
  private stopped: Promise<void> | null = null

  constructor(options: ObservabilityOptions, logging: ReturnType<typeof createLogging>) {
    this.logging = logging
    this.logger = logging.log
    this.log = logging.log
    this.captureContent = options.captureContent
    this.trustRemote = options.trustRemote
    this.leakAfterMs = options.leakAfterMs ?? LEAK_AFTER_MS
    const isOff = options.traceDetail === 'off'
    this.store = new TraceStore({ maxTraces: isOff ? 0 : options.traceStoreSize })
    this.tracing = isOff
      ? null
      : createTracing({
          serviceVersion: options.serviceVersion,
          instanceId: randomUUID(),
          otlpEndpoint: options.otlpEndpoint,
          captureContent: options.captureContent,
          onDiagnostic: (detail, suppressed) => this.log.warn('telemetry.problem', { detail, suppressed }),
          onLooseSpan: (span) => this.storeLoose(span),
          ...(options.exporter ? { exporter: options.exporter } : {}),
          ...(options.exportQueueSize === undefined ? {} : { queueSize: options.exportQueueSize }),
        })
    this.tracer = this.tracing?.tracer ?? null
    this.extensionTracer = this.tracing?.extensionTracer ?? null
    if (this.tracing && this.tracing.foreign.length > 0) {
      this.log.info('telemetry.shared', { shared: this.tracing.foreign })
    }
    this.subscriberHost = {
      tracer: this.extensionTracer,
      registry: this.registry,
      log: pluginLog(this.log),
      find: (requestId) => this.find(requestId),
      spawn,
      declareDoubles,
    }
    setSpanRegistry(this.registry)
    this.sampler = createTailSampler(options.tailSampling ?? null)
    this.metrics = new Metrics({ spanCounts: () => this.spanCounts(), traceStore: this.store })
    this.engineSubscriber = new TracingSubscriber({
      registry: this.registry,
      tracer: this.tracer,
      detail: options.traceDetail,
      find: (requestId) => this.find(requestId),
      openLazy: (requestId) => this.openLazy(requestId),
    })
    this.watchdog = setInterval(() => this.closeLeaks(), Math.min(PENDING_AFTER_MS, this.leakAfterMs) / 2)
    this.watchdog.unref()
  }

  subscribers(others: readonly EngineSubscriber[]): readonly EngineSubscriber[] {
    const tracing = this.engineSubscriber
    const isLast = ({ type }: EngineEvent) => type === 'finished' || type === 'kvDone'
    this.others = others.map((other) => this.guarded(other))
    return [
      { name: 'tracing', onEvent: (event) => void (isLast(event) || tracing.onEvent(event)) },
      { name: 'metrics', onEvent: (event) => void (event.type === 'step' && this.metrics.onStep(event)) },
      ...this.others,
      { name: 'tracing.close', onEvent: (event) => void (isLast(event) && tracing.onEvent(event)) },
    ]
  }

  /** What a subscriber throws, or rejects with later, is counted and logged with the request it was about. */
  private guarded({ name, onEvent }: EngineSubscriber): EngineSubscriber {
    const failed = (event: EngineEvent, error: unknown) => {
      const trace = 'requestId' in event ? this.find(event.requestId) : undefined
      this.metrics.onError(`plugin ${name}`)
      const log = trace?.log ?? this.log
      log.error('plugin.failed', { plugin: name, error })
    }
    return {
      name,
      onEvent: (event) => {
        try {
          const later = onEvent(event)
          if (later instanceof Promise) later.catch((error: unknown) => failed(event, error))
        } catch (error) {
          failed(event, error)
        }
      },
    }
  }

  /** Tells the other subscribers of the life of a request around the engine, in the request's context. */
  private publish(trace: RequestTrace, event: EngineEvent): void {
    if (this.others.length === 0) return
    runIn(trace.context, () => {
      for (const other of this.others) other.onEvent(event)
    })
  }

  openRequest(input: OpenRequestInput): RequestTrace {
    const trace = new RequestTrace(this, input)
    this.openRequests.set(input.requestId, trace)
    const { requestId, method, route, kind } = input
    this.publish(trace, {
      type: 'requestStarted',
      requestId,
      atMs: trace.startMs,
      traceId: trace.traceId,
      method,
      route,
      kind,
    })
    return trace
  }

  accepted(trace: RequestTrace): void {
    const { generation, requestId } = trace
    if (!generation) return
    const { operation, model, numChoices = 1, n = 1, stream = false } = generation
    this.publish(trace, {
      type: 'requestAccepted',
      requestId,
      atMs: performance.now(),
      operation,
      model,
      numChoices,
      n,
      stream,
    })
  }

  finished(trace: RequestTrace): void {
    const { ending, requestId } = trace
    if (!ending) return
    this.publish(trace, {
      type: 'requestFinished',
      requestId,
      atMs: ending.atMs,
      ending: ending.row.ending,
      status: ending.row.statusCode ?? ending.status,
      durationMs: ending.atMs - trace.startMs,
      tokensIn: trace.tokensIn,
      tokensOut: trace.tokensOut,
      finishReasons: trace.finishReasons ?? [],
    })
  }

  find(requestId: string): RequestTrace | undefined {
    return this.openRequests.get(requestId) ?? this.closing.get(requestId)
  }

  private openLazy(requestId: string): RequestTrace | undefined {
    if (this.recentlyClosed.has(requestId) || this.stopped) return undefined
    return this.openRequest({
      method: 'INTERNAL',
      route: 'engine',
      path: '/',
      scheme: 'internal',
      host: 'localhost',
      port: 0,
      headers: {},
      requestId,
      kind: 'generation',
    })
  }

  anchor(): ClockAnchor {
    return this.clock()
  }

  newTraceId(): string {
    return idGenerator.generateTraceId()
  }

  newSpanId(): string {
    return idGenerator.generateSpanId()
  }

  extract(headers: OpenRequestInput['headers']) {
    if (!headers.traceparent) return null
    const context = this.propagator.extract(ROOT_CONTEXT, headers, {
      get: (carrier: OpenRequestInput['headers'], key) =>
        key === 'traceparent' || key === 'tracestate' ? carrier[key] : undefined,
      keys: () => ['traceparent', 'tracestate'],
    })
    return traceApi.getSpanContext(context) ?? null
  }

  take(trace: RequestTrace): boolean {
    if (this.openRequests.get(trace.requestId) !== trace) return false
    this.openRequests.delete(trace.requestId)
    this.closing.set(trace.requestId, trace)
    return true
  }

  decide(trace: RequestTrace): SamplingDecision {
    const { ending, spans } = trace
    if (!ending || !spans || !this.tracing?.hasExporter) return { isExported: false, reason: null }
    return this.sampler({
      traceId: trace.traceId,
      isHeadSampled: trace.isHeadSampled,
      isError: ending.row.spanStatus === 'error',
      isAborted: ending.row.ending === 'client_disconnect' || ending.row.ending === 'closed_early',
      tokensOut: trace.input.kind === 'generation' && ending.row.ending === 'success' ? trace.tokensOut : null,
      ttftSeconds: trace.ttftSeconds,
      durationMs: ending.atMs - trace.startMs,
      endEpochMs: trace.anchor.toEpochMs(ending.atMs),
    })
  }

  closed(trace: RequestTrace, decision: SamplingDecision): void {
    this.closing.delete(trace.requestId)
    this.recentlyClosed.add(trace.requestId)
    if (this.recentlyClosed.size > MAX_RECENT) {
      for (const oldest of this.recentlyClosed) {
        this.recentlyClosed.delete(oldest)
        break
      }
    }
    const { spans } = trace
    if (spans && this.tracing) {
      this.tracing.settle(spans, decision.isExported)
      this.store.add(storedTrace(trace, spans.ended, decision))
    }
    const isKept = spans !== null && (decision.isExported || !this.tracing?.hasExporter)
    try {
      this.metrics.onRequest(trace, isKept)
    } catch (error) {
      this.onProblem('metrics.failed', error)
    }
  }

  readonly onBreach = (spanName: string, attribute: string): void => {
    this.metrics.onBreach(spanName, attribute)
    this.log.debug('trace.breach', { span: spanName, attribute })
  }

  onProblem(event: LogEvent, error: unknown): void {
    this.metrics.onError(event)
    this.log.error(event, { error })
  }

  private storeLoose(span: ReadableSpan): void {
    if (span.name !== 'engine.step') return
    const { traceId, spanId } = span.spanContext()
    const startMs = span.startTime[0] * 1000 + span.startTime[1] / 1e6
    this.store.add({
      traceId,
      rootSpanId: spanId,
      requestId: null,
      callerId: null,
      keyId: null,
      route: span.name,
      method: '',
      model: null,
      status: null,
      isError: false,
      ending: 'success',
      startMs,
      durationMs: span.duration[0] * 1000 + span.duration[1] / 1e6,
      tokensIn: null,
      tokensOut: null,
      ttftSeconds: null,
      keptFor: null,
      spans: [span],
      logLines: [],
    })
  }

  private closeLeaks(): void {
    const now = performance.now()
    for (const trace of this.closing.values()) {
      if (now - trace.lastActiveMs > Math.min(PENDING_AFTER_MS, this.leakAfterMs)) this.closeLeak(trace)
    }
    for (const trace of this.openRequests.values()) {
      if (now - trace.lastActiveMs > this.leakAfterMs) this.closeLeak(trace)
    }
  }

  private closeLeak(trace: RequestTrace): void {
    this.metrics.onLeak()
    trace.log.error('trace.leak', { request_id: trace.requestId, pending: trace.pending })
    trace.finish({ ending: 'leak', status: null })
    trace.forceClose()
  }

  spanCounts(): SpanCounts {
    return this.tracing?.counts() ?? { created: 0, exported: 0, dropped: 0, unsampled: 0 }
  }

  open() {
    return {
      requests: this.openRequests.size + this.closing.size,
      spans: this.registry.size,
      engine: this.engineSubscriber.size,
    }
  }

  async flush(): Promise<void> {
    await Promise.all([this.tracing?.flush(), this.logging.flush()])
  }

  shutdown(timeoutMs: number, options: ShutdownOptions = {}): Promise<void> {
    this.stopped ??= this.stop(timeoutMs, options)
    return this.stopped
  }

  private async stop(timeoutMs: number, { logLevel = 'info', crash }: ShutdownOptions): Promise<void> {
    clearInterval(this.watchdog)
    const ending = crash === undefined ? 'shutdown' : 'exception'
    for (const trace of this.openRequests.values()) trace.finish({ ending, status: null, error: crash })
    for (const trace of this.closing.values()) trace.forceClose()
    await this.tracing?.shutdown(timeoutMs)
    // created = exported + dropped + unsampled, now that nothing is on its way any more; and nothing is open.
    if (this.tracing) {
      const { requests, spans } = this.open()
      this.log[logLevel]('telemetry.stopped', { ...this.tracing.counts(), open_requests: requests, open_spans: spans })
    }
    this.metrics.close()
    await this.logging.flush().catch(() => {})
    this.logging.close()
  }
}

/** Late events come within seconds; this many ids cover them at any rate a server reaches. */
const MAX_RECENT = 4096

function storedTrace(trace: RequestTrace, spans: ReadableSpan[], decision: SamplingDecision): StoredTrace {
  const { ending } = trace
  const atMs = ending?.atMs ?? trace.startMs
  return {
    traceId: trace.traceId,
    rootSpanId: trace.spanId,
    requestId: trace.requestId,
    callerId: trace.input.callerId ?? null,
    keyId: trace.keyId,
    route: trace.input.route,
    method: trace.input.method,
    model: trace.generation?.model ?? null,
    status: ending?.row.statusCode ?? ending?.status ?? null,
    isError: ending?.row.spanStatus === 'error',
    ending: ending?.row.ending ?? 'leak',
    startMs: trace.anchor.toEpochMs(trace.startMs),
    durationMs: atMs - trace.startMs,
    tokensIn: trace.tokensIn,
    tokensOut: trace.tokensOut,
    ttftSeconds: trace.ttftSeconds,
    keptFor: decision.reason,
    spans,
    logLines: trace.logLines,
  }
}
