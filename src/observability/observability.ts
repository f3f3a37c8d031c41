/** Observability of one server: its logs, traces, metrics and trace store, connected. */
import { randomUUID } from 'node:crypto'
import type { Tracer } from '@opentelemetry/api'
import type { SpanExporter } from '@opentelemetry/sdk-trace-base'
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
import { RequestTrace, type TraceHost } from './request-trace.ts'
import { endedWithin } from '../promises.ts'
import type { OpenRequestInput } from './root-span.ts'
import { setSpanRegistry, SpanRegistry } from './span-registry.ts'
import { createTailSampler, type SamplingDecision, type TailSamplingOptions } from './tail-sampling.ts'
import { storedStep, storedTrace } from './stored-trace.ts'
import { Subscribers } from './subscribers.ts'
import { TraceStore, type TraceViewer } from './trace-store.ts'
import { createTracing, type ExportNames, type Tracing } from './tracing.ts'

export interface ObservabilityOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  /** OTLP endpoint; null: nothing is exported. */
  readonly otlpEndpoint: string | null
  readonly traceDetail: TraceDetail
  /** Complete traces kept in memory. */
  readonly traceStoreSize: number
  /** False: requests start new traces, linked to the caller's span. */
  readonly trustRemote: boolean
  /** Whether prompts and outputs are recorded on spans. */
  readonly captureContent: boolean
  /** Whether spans also get OpenInference attributes. Default false. */
  readonly openInference?: boolean
  /** Name of http.handler in exports. Default contract. */
  readonly exportNames?: ExportNames
  /** Whether traces of engine steps are exported. Default true. */
  readonly exportSteps?: boolean
  readonly logLevel: LogLevel | 'silent'
  /** null: stdout only. */
  readonly logFile: string | null
  /** null or absent: only the head decision counts. */
  readonly tailSampling?: TailSamplingOptions | null
  /** The watchdog closes a request's trace after this long without activity. Default 15 minutes. */
  readonly leakAfterMs?: number
  /** Maximum number of spans that wait for the exporter; more are dropped and counted. */
  readonly exportQueueSize?: number
  /** Replaces stdout. */
  readonly logStream?: LoggingOptions['stream']
  /** Replaces the OTLP exporter. */
  readonly exporter?: SpanExporter
}

interface ShutdownOptions {
  /** Level of the line with the final counts. Default info. */
  readonly logLevel?: 'debug' | 'info'
  /** The error that crashed the process. Open requests then end as `exception`, otherwise as `shutdown`. */
  readonly crash?: unknown
}

const LEAK_AFTER_MS = 15 * 60_000
/** The last log lines get at least this long, even if the spans took all of the time. */
const MIN_LOG_FLUSH_MS = 500
const NO_COUNTS: ExportCounts = { created: 0, exported: 0, dropped: 0, unsampled: 0 }

/** Logs, traces, metrics and the trace store of one server. It hosts the traces of its requests. */
export class Observability implements TraceHost {
  readonly logger: Log
  readonly metrics: Metrics
  readonly store: TraceStore
  readonly registry = new SpanRegistry()
  readonly tracer: Tracer | null
  readonly extensionTracer: Tracer | null
  /** Turns engine events into spans. */
  readonly engineSubscriber: TracingSubscriber
  /** What plugins are given. */
  readonly subscriberHost: SubscriberHost
  readonly captureContent: boolean
  readonly openInference: boolean
  readonly trustRemote: boolean
  readonly #logging: ReturnType<typeof createLogging>
  readonly #tracing: Tracing | null
  readonly #logExport: LogExport | null
  readonly #metricExport: MetricExport | null
  readonly #sampler: ReturnType<typeof createTailSampler>
  readonly #requests: OpenRequests
  readonly #plugins: Subscribers
  #stopped: Promise<void> | null = null

  constructor(options: ObservabilityOptions) {
    this.#logging = createLogging({
      level: options.logLevel,
      file: options.logFile,
      ...(options.logStream ? { stream: options.logStream } : {}),
    })
    this.logger = this.#logging.log
    this.captureContent = options.captureContent
    this.openInference = options.openInference ?? false
    this.trustRemote = options.trustRemote
    this.#requests = new OpenRequests(options.leakAfterMs ?? LEAK_AFTER_MS, (trace) => this.#closeLeak(trace))
    this.#plugins = new Subscribers({
      registry: this.registry,
      find: (requestId) => this.find(requestId),
      onError: (plugin, error, trace) => {
        this.metrics.counters.errors.inc({ where: `plugin ${plugin}` })
        const log = trace?.log ?? this.logger
        log.error('plugin.failed', { plugin, error })
      },
    })
    const { serviceVersion } = options
    const isOff = options.traceDetail === 'off'
    const report = limited((detail, suppressed) => this.logger.warn('telemetry.problem', { detail, suppressed }))
    installDiagnostics(report)
    const resource = serverResource(serviceVersion, randomUUID())
    this.#logExport = createLogExport({ serviceVersion, resource, report })
    if (this.#logExport) this.#logging.attach(this.#logExport.write)
    this.store = new TraceStore({ maxTraces: isOff ? 0 : options.traceStoreSize })
    this.#tracing = isOff
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
    this.tracer = this.#tracing?.tracer ?? null
    this.extensionTracer = this.#tracing?.extensionTracer ?? null
    if (this.#tracing && this.#tracing.foreign.length > 0) {
      this.logger.info('telemetry.shared', { shared: this.#tracing.foreign })
    }
    this.subscriberHost = {
      tracer: this.extensionTracer,
      registry: this.registry,
      log: pluginLog(this.logger),
      find: (requestId) => this.find(requestId),
      spawn,
      declareDoubles,
    }
    setSpanRegistry(this.registry)
    this.#sampler = createTailSampler(options.tailSampling ?? null)
    this.metrics = new Metrics({
      spanCounts: () => this.spanCounts(),
      logCounts: () => this.#logExport?.counts() ?? NO_COUNTS,
      droppedLines: () => this.#logging.dropped(),
      traceStore: this.store,
    })
    this.#metricExport = createMetricExport({ serviceVersion, resource, report, read: () => this.metrics.families() })
    this.engineSubscriber = new TracingSubscriber({
      registry: this.registry,
      tracer: this.tracer,
      detail: options.traceDetail,
      find: (requestId) => this.find(requestId),
      openLazy: (requestId) => this.#openLazy(requestId),
    })
  }

  /**
   * The subscribers of one model's engine: tracing, metrics and the others. Tracing opens spans before the others get an event and
   * closes them afterwards, so that their spans nest.
   */
  subscribers(others: readonly EngineSubscriber[], model = 'none'): readonly EngineSubscriber[] {
    const tracing = this.engineSubscriber
    const isLast = ({ type }: EngineEvent) => type === 'finished' || type === 'kvDone'
    return [
      {
        name: 'tracing',
        onEvent: (event) => void (isLast(event) || tracing.onEvent(event)),
        run: (work, fn) => this.#plugins.runWork(work, fn),
      },
      { name: 'metrics', onEvent: (event) => void (event.type === 'step' && this.metrics.onStep(event, model)) },
      ...this.#plugins.guard(others),
      { name: 'tracing.close', onEvent: (event) => void (isLast(event) && tracing.onEvent(event)) },
    ]
  }

  openRequest(input: OpenRequestInput): RequestTrace {
    const trace = new RequestTrace(this, input)
    this.#requests.add(trace)
    this.#plugins.started(trace)
    return trace
  }

  accepted(trace: RequestTrace): void {
    this.#plugins.accepted(trace)
  }

  finished(trace: RequestTrace): void {
    this.#plugins.finished(trace)
  }

  find(requestId: string): RequestTrace | undefined {
    return this.#requests.find(requestId)
  }

  /**
   * Lets the request `waiter` wait until the recorded requests of a trace that are open now, and that the viewer may see, are stored, or
   * until `signal` is aborted. @returns false if the signal was first
   */
  whenStored(waiter: RequestTrace, traceId: string, viewer: TraceViewer, signal: AbortSignal): Promise<boolean> {
    const isAwaited = (trace: RequestTrace): boolean =>
      trace.isRecorded && trace.traceId === traceId && (viewer.isAdmin || trace.keyId === viewer.keyId)
    return this.#requests.whenClosed(waiter, isAwaited, signal)
  }

  #openLazy(requestId: string): RequestTrace | undefined {
    if (this.#requests.wasClosed(requestId) || this.#stopped) return undefined
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

  take(trace: RequestTrace): boolean {
    return this.#requests.take(trace)
  }

  decide(trace: RequestTrace): SamplingDecision {
    const { facts, spans } = trace
    const { ended: ending, tokensOut, ttftSeconds } = facts
    if (!ending || !spans || !this.#tracing?.hasExporter) return { isExported: false, reason: null }
    return this.#sampler({
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
    this.#requests.closed(trace)
    const { spans } = trace
    if (spans && this.#tracing) {
      this.#tracing.settle(spans, decision.isExported)
      this.store.add(storedTrace(trace, spans.ended, decision))
    }
    const isKept = spans !== null && (decision.isExported || !this.#tracing?.hasExporter)
    try {
      this.metrics.onRequest(trace, isKept)
    } catch (error) {
      this.onProblem('metrics.failed', error)
    }
  }

  readonly onBreach = (spanName: string, attribute: string): void => {
    this.metrics.counters.breaches.inc({ span: spanName, attribute })
    this.logger.debug('trace.breach', { span: spanName, attribute })
  }

  onProblem(event: LogEvent, error: unknown): void {
    this.metrics.counters.errors.inc({ where: event })
    this.logger.error(event, { error })
  }

  #closeLeak(trace: RequestTrace): void {
    this.metrics.counters.leaks.inc()
    trace.log.error('trace.leak', { request_id: trace.requestId, pending: trace.activity.numPending })
    trace.finish({ ending: 'leak', status: null })
    trace.forceClose()
  }

  spanCounts(): ExportCounts {
    return this.#tracing?.counts() ?? NO_COUNTS
  }

  /** Requests, spans and engine work that are still open: all zero if nothing is in flight. */
  open() {
    return {
      requests: this.#requests.size,
      spans: this.registry.size,
      engine: this.engineSubscriber.size,
    }
  }

  /** Resolves when all spans and log lines so far have been sent, or could not be. */
  async flush(): Promise<void> {
    await Promise.all([
      this.#tracing?.flush(),
      this.#logging.flush(),
      this.#logExport?.flush().catch(() => {}),
      this.#metricExport?.flush().catch(() => {}),
    ])
  }

  /** Ends every open trace, flushes and closes within the time limit. Idempotent, never rejects. */
  shutdown(timeoutMs: number, options: ShutdownOptions = {}): Promise<void> {
    this.#stopped ??= this.#stop(timeoutMs, options)
    return this.#stopped
  }

  async #stop(timeoutMs: number, { logLevel = 'info', crash }: ShutdownOptions): Promise<void> {
    const ending = crash === undefined ? 'shutdown' : 'exception'
    this.#requests.stop((trace) => void trace.finish({ ending, status: null, error: crash }))
    const untilMs = performance.now() + timeoutMs
    // Metrics and spans first: what goes wrong with them is logged.
    await Promise.all([this.#tracing?.shutdown(timeoutMs), endedWithin(timeoutMs, this.#metricExport?.shutdown())])
    // Nothing is in flight any more, so created = exported + dropped + unsampled.
    if (this.#tracing) {
      const { requests, spans } = this.open()
      this.logger[logLevel]('telemetry.stopped', {
        ...this.#tracing.counts(),
        open_requests: requests,
        open_spans: spans,
      })
    }
    this.metrics.close()
    await endedWithin(Math.max(MIN_LOG_FLUSH_MS, untilMs - performance.now()), this.#logExport?.shutdown())
    // A network disk may not answer.
    await endedWithin(Math.max(MIN_LOG_FLUSH_MS, untilMs - performance.now()), this.#logging.flush())
    this.#logging.close()
  }
}
