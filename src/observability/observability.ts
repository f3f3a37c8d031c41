/** createObservability(options): logs, traces, metrics and the trace store of one server, wired together. */
import { randomUUID } from 'node:crypto'
import { ROOT_CONTEXT, trace as traceApi, type Tracer } from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { type ClockAnchor, createClock } from './clock.ts'
import type { TraceDetail } from './contract-spec.ts'
import { TracingSubscriber } from './engine-subscriber.ts'
import type { EngineEvent, EngineSubscriber } from '../engine/events.ts'
import { createLogging, type Log, type LoggingOptions, type LogLevel } from './logging.ts'
import { Metrics } from './metrics.ts'
import type { OpenRequestInput } from './request-info.ts'
import { RequestTrace } from './request-trace.ts'
import { SpanRegistry } from './span-registry.ts'
import type { SubscriberHost } from './plugins.ts'
import { createTailSampler, type TailSamplingOptions } from './tail-sampling.ts'
import type { SamplingDecision, TraceHost } from './trace-host.ts'
import { type StoredTrace, TraceStore } from './trace-store.ts'
import { createTracing, idGenerator, type SpanCounts, type Tracing } from './tracing.ts'

export interface ObservabilityOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  /** OTLP gRPC endpoint; null: nothing is dialled. */
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
  /** What the resource of every span says: for exports of stored traces. */
  readonly resourceAttributes: ReadableSpan['resource']['attributes']
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
  return new Wiring(options, logging)
}

class Wiring implements Observability, TraceHost {
  readonly logger: Log
  readonly log: Log
  readonly metrics: Metrics
  readonly store: TraceStore
  readonly registry = new SpanRegistry()
  readonly tracer: Tracer | null
  readonly engineSubscriber: TracingSubscriber
  readonly subscriberHost: SubscriberHost
  readonly captureContent: boolean
  readonly trustRemote: boolean
  readonly resourceAttributes: ReadableSpan['resource']['attributes']
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
          onDiagnostic: (detail, suppressed) => this.log.warn('telemetry.problem', { detail, suppressed }),
          onLooseSpan: (span) => this.storeLoose(span),
          ...(options.exporter ? { exporter: options.exporter } : {}),
          ...(options.exportQueueSize === undefined ? {} : { queueSize: options.exportQueueSize }),
        })
    this.tracer = this.tracing?.tracer ?? null
    this.subscriberHost = {
      tracer: this.tracing?.extensionTracer ?? null,
      registry: this.registry,
      log: this.log,
      find: (requestId) => this.find(requestId),
    }
    this.resourceAttributes = this.tracing?.resourceAttributes ?? {}
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
    return [
      { name: 'tracing', onEvent: (event) => void (isLast(event) || tracing.onEvent(event)) },
      ...others,
      { name: 'tracing.close', onEvent: (event) => void (isLast(event) && tracing.onEvent(event)) },
    ]
  }

  openRequest(input: OpenRequestInput): RequestTrace {
    const trace = new RequestTrace(this, input)
    this.openRequests.set(input.requestId, trace)
    return trace
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
    const { ending, tree } = trace
    if (!ending || !tree || !this.tracing?.hasExporter) return { isExported: false, reason: null }
    return this.sampler({
      traceId: trace.traceId,
      isHeadSampled: trace.isHeadSampled,
      isRefusedByCaller: trace.isRefusedByCaller,
      isError: ending.row.spanStatus === 'error',
      isAborted: ending.row.ending === 'client_disconnect' || ending.row.ending === 'closed_early',
      tokensOut: trace.input.kind === 'generation' && ending.row.ending === 'success' ? trace.tokensOut : null,
      ttftSeconds: trace.phases?.ttftSeconds ?? null,
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
    const { tree } = trace
    if (tree && this.tracing) {
      this.tracing.settle(tree, decision.isExported)
      tree.onLate = (span) => tree.spans.push(span)
      this.store.add(storedTrace(trace, tree.spans, decision))
    }
    const isKept = tree !== null && (decision.isExported || !this.tracing?.hasExporter)
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

  onProblem(event: string, error: unknown): void {
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
    ttftSeconds: trace.phases?.ttftSeconds ?? null,
    keptFor: decision.reason,
    spans,
    logLines: trace.logLines,
  }
}
