/** createObservability(options): logs, traces, metrics and the trace store of one server, wired together. */
import { randomUUID } from 'node:crypto'
import { ROOT_CONTEXT, trace as traceApi, type Tracer } from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import type { SpanExporter } from '@opentelemetry/sdk-trace-base'
import { type ClockAnchor, createClock } from './clock.ts'
import { spawn } from './context.ts'
import type { TraceDetail } from './contract/span-spec.ts'
import { TracingSubscriber } from './engine-subscriber.ts'
import type { EngineEvent, EngineSubscriber } from '../engine/events.ts'
import { installDiagnostics, limited } from './diagnostics.ts'
import type { Log, LogEvent, LogLevel } from './log.ts'
import { createLogExport, type LogExport } from './log-export.ts'
import { createLogging, type LoggingOptions } from './logging.ts'
import { createMetricExport, type MetricExport } from './metric-export.ts'
import { Metrics } from './metrics.ts'
import { OpenRequests } from './open-requests.ts'
import { declareDoubles } from './otlp.ts'
import type { ExportCounts } from './patient-exporter.ts'
import { pluginLog, type SubscriberHost } from './plugins.ts'
import { serverResource } from './resource.ts'
import { RequestTrace } from './request-trace.ts'
import type { OpenRequestInput } from './root-span.ts'
import { setSpanRegistry, SpanRegistry } from './span-registry.ts'
import { createTailSampler, type SamplingDecision, type TailSamplingOptions } from './tail-sampling.ts'
import { storedStep, storedTrace } from './stored-trace.ts'
import { Subscribers } from './subscribers.ts'
import { bounded } from './time-bound.ts'
import { TraceStore } from './trace-store.ts'
import type { TraceHost } from './trace-host.ts'
import { createTracing, type ExportNames, idGenerator, type Tracing } from './tracing.ts'

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
  /** Attributes of OpenInference beside the contract's. Default false. */
  readonly openInference?: boolean
  /** What http.handler is called where it is exported. Default contract. */
  readonly exportNames?: ExportNames
  /** Traces of engine steps are exported. Default true. */
  readonly exportSteps?: boolean
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

export interface Observability {
  readonly logger: Log
  readonly metrics: Metrics
  readonly store: TraceStore
  /** Subscribe it to the engine; with others beside it, subscribe what `subscribers` makes of them. */
  readonly engineSubscriber: EngineSubscriber
  /** Tracing around other subscribers: it opens spans before they hear an event and closes them after, so that theirs nest. */
  subscribers(others: readonly EngineSubscriber[], model?: string): readonly EngineSubscriber[]
  readonly subscriberHost: SubscriberHost
  openRequest(input: OpenRequestInput): RequestTrace
  spanCounts(): ExportCounts
  /** Requests, spans and engine work that are still open: all zero when nothing is in flight. */
  open(): { readonly requests: number; readonly spans: number; readonly engine: number }
  /** Resolves when spans and log lines so far have left, or could not. */
  flush(): Promise<void>
  /** Ends every open trace, flushes and closes within the bound. Idempotent, never rejects. */
  shutdown(timeoutMs: number, options?: ShutdownOptions): Promise<void>
}

interface ShutdownOptions {
  /** Of the line with the last counts. Default info. */
  readonly logLevel?: 'debug' | 'info'
  /** What crashed the process: open requests end as `exception` with it, else as `shutdown`. */
  readonly crash?: unknown
}

const LEAK_AFTER_MS = 15 * 60_000
/** The last lines get this long also where the spans took all the time there was. */
const MIN_LOG_FLUSH_MS = 500
const NO_COUNTS: ExportCounts = { created: 0, exported: 0, dropped: 0, unsampled: 0 }

/** Creates logs, traces, metrics and the trace store of one server, and connects them. */
export function createObservability(options: ObservabilityOptions): Observability {
  const logging = createLogging({
    level: options.logLevel,
    file: options.logFile,
    ...(options.logStream ? { stream: options.logStream } : {}),
  })
  return new ServerObservability(options, logging)
}

/** An observability is the host of its requests' traces. */
class ServerObservability implements Observability, TraceHost<RequestTrace> {
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
  readonly openInference: boolean
  readonly trustRemote: boolean
  private readonly logging: ReturnType<typeof createLogging>
  private readonly tracing: Tracing | null
  private readonly logExport: LogExport | null
  private readonly metricExport: MetricExport | null
  private readonly clock = createClock()
  private readonly propagator = new W3CTraceContextPropagator()
  private readonly sampler: ReturnType<typeof createTailSampler>
  private readonly requests: OpenRequests
  private readonly plugins: Subscribers
  private stopped: Promise<void> | null = null

  constructor(options: ObservabilityOptions, logging: ReturnType<typeof createLogging>) {
    this.logging = logging
    this.logger = logging.log
    this.log = logging.log
    this.captureContent = options.captureContent
    this.openInference = options.openInference ?? false
    this.trustRemote = options.trustRemote
    this.requests = new OpenRequests(options.leakAfterMs ?? LEAK_AFTER_MS, (trace) => this.closeLeak(trace))
    this.plugins = new Subscribers({
      registry: this.registry,
      find: (requestId) => this.find(requestId),
      onError: (plugin, error, trace) => {
        this.metrics.onError(`plugin ${plugin}`)
        const log = trace?.log ?? this.log
        log.error('plugin.failed', { plugin, error })
      },
    })
    const { serviceVersion } = options
    const isOff = options.traceDetail === 'off'
    const report = limited((detail, suppressed) => this.log.warn('telemetry.problem', { detail, suppressed }))
    installDiagnostics(report)
    const resource = serverResource(serviceVersion, randomUUID())
    this.logExport = createLogExport({ serviceVersion, resource, report })
    if (this.logExport) logging.attach(this.logExport.write)
    this.store = new TraceStore({ maxTraces: isOff ? 0 : options.traceStoreSize })
    this.tracing = isOff
      ? null
      : createTracing({
          serviceVersion,
          resource,
          report,
          otlpEndpoint: options.otlpEndpoint,
          captureContent: options.captureContent,
          openInference: this.openInference,
          exportNames: options.exportNames ?? 'contract',
          exportSteps: options.exportSteps ?? true,
          onLooseSpan: (span) => span.name === 'engine.step' && this.store.add(storedStep(span)),
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
    this.metrics = new Metrics({
      spanCounts: () => this.spanCounts(),
      logCounts: () => this.logExport?.counts() ?? NO_COUNTS,
      traceStore: this.store,
    })
    this.metricExport = createMetricExport({ serviceVersion, resource, report, read: () => this.metrics.families() })
    this.engineSubscriber = new TracingSubscriber({
      registry: this.registry,
      tracer: this.tracer,
      detail: options.traceDetail,
      find: (requestId) => this.find(requestId),
      openLazy: (requestId) => this.openLazy(requestId),
    })
  }

  subscribers(others: readonly EngineSubscriber[], model = 'none'): readonly EngineSubscriber[] {
    const tracing = this.engineSubscriber
    const isLast = ({ type }: EngineEvent) => type === 'finished' || type === 'kvDone'
    return [
      {
        name: 'tracing',
        onEvent: (event) => void (isLast(event) || tracing.onEvent(event)),
        run: (work, fn) => this.plugins.runWork(work, fn),
      },
      { name: 'metrics', onEvent: (event) => void (event.type === 'step' && this.metrics.onStep(event, model)) },
      ...this.plugins.guard(others),
      { name: 'tracing.close', onEvent: (event) => void (isLast(event) && tracing.onEvent(event)) },
    ]
  }

  openRequest(input: OpenRequestInput): RequestTrace {
    const trace = new RequestTrace(this, input)
    this.requests.add(trace)
    this.plugins.started(trace)
    return trace
  }

  accepted(trace: RequestTrace): void {
    this.plugins.accepted(trace)
  }

  finished(trace: RequestTrace): void {
    this.plugins.finished(trace)
  }

  find(requestId: string): RequestTrace | undefined {
    return this.requests.find(requestId)
  }

  private openLazy(requestId: string): RequestTrace | undefined {
    if (this.requests.wasClosed(requestId) || this.stopped) return undefined
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
    return this.requests.take(trace)
  }

  decide(trace: RequestTrace): SamplingDecision {
    const { facts, spans } = trace
    const { ended: ending, tokensOut, ttftSeconds } = facts
    if (!ending || !spans || !this.tracing?.hasExporter) return { isExported: false, reason: null }
    return this.sampler({
      traceId: trace.traceId,
      isHeadSampled: trace.isHeadSampled,
      isError: ending.row.spanStatus === 'error',
      isAborted: ending.row.ending === 'client_disconnect' || ending.row.ending === 'closed_early',
      tokensOut: trace.input.kind === 'generation' && ending.row.ending === 'success' ? tokensOut : null,
      ttftSeconds,
      durationMs: ending.atMs - facts.startMs,
      endEpochMs: trace.anchor.toEpochMs(ending.atMs),
    })
  }

  closed(trace: RequestTrace, decision: SamplingDecision): void {
    this.requests.closed(trace)
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

  private closeLeak(trace: RequestTrace): void {
    this.metrics.onLeak()
    trace.log.error('trace.leak', { request_id: trace.requestId, pending: trace.pending })
    trace.finish({ ending: 'leak', status: null })
    trace.forceClose()
  }

  spanCounts(): ExportCounts {
    return this.tracing?.counts() ?? NO_COUNTS
  }

  open() {
    return {
      requests: this.requests.size,
      spans: this.registry.size,
      engine: this.engineSubscriber.size,
    }
  }

  async flush(): Promise<void> {
    await Promise.all([
      this.tracing?.flush(),
      this.logging.flush(),
      this.logExport?.flush().catch(() => {}),
      this.metricExport?.flush().catch(() => {}),
    ])
  }

  shutdown(timeoutMs: number, options: ShutdownOptions = {}): Promise<void> {
    this.stopped ??= this.stop(timeoutMs, options)
    return this.stopped
  }

  private async stop(timeoutMs: number, { logLevel = 'info', crash }: ShutdownOptions): Promise<void> {
    const ending = crash === undefined ? 'shutdown' : 'exception'
    this.requests.stop((trace) => void trace.finish({ ending, status: null, error: crash }))
    const untilMs = performance.now() + timeoutMs
    // The last values, and then the last lines.
    await Promise.all([this.tracing?.shutdown(timeoutMs), bounded(this.metricExport?.shutdown(), timeoutMs)])
    // created = exported + dropped + unsampled, now that nothing is on its way any more; and nothing is open.
    if (this.tracing) {
      const { requests, spans } = this.open()
      this.log[logLevel]('telemetry.stopped', { ...this.tracing.counts(), open_requests: requests, open_spans: spans })
    }
    this.metrics.close()
    await bounded(this.logExport?.shutdown(), Math.max(MIN_LOG_FLUSH_MS, untilMs - performance.now()))
    await this.logging.flush().catch(() => {})
    this.logging.close()
  }
}
