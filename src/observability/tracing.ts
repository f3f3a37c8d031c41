/**
 * The only place that constructs the OpenTelemetry SDK. Every span is recorded (for the store, logs and metrics); which ones are
 * exported is decided a tree at a time when its root ends. created = exported + dropped + unsampled (+ those on their way).
 */
import {
  diag,
  DiagLogLevel,
  propagation,
  type Span,
  type SpanContext,
  trace as traceApi,
  type Tracer,
} from '@opentelemetry/api'
import {
  CompositePropagator,
  getNumberFromEnv,
  getStringFromEnv,
  W3CBaggagePropagator,
  W3CTraceContextPropagator,
} from '@opentelemetry/core'
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  RandomIdGenerator,
  type ReadableSpan,
  type Sampler,
  SamplingDecision,
  type SpanExporter,
  type SpanProcessor,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace-base'
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node'
import { MAX_ATTRIBUTE_CHARACTERS } from './attributes.ts'
import { currentRequest, usesForeignContextManager } from './context.ts'
import { SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import { createOtlpExporter, otlpProtocol } from './otlp-exporter.ts'
import { PatientExporter, SpanCounter, type SpanCounts } from './patient-exporter.ts'
import type { RequestSpans } from './span-registry.ts'

/**
 * Defaults of OTEL_BSP_MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, _SCHEDULE_DELAY and _EXPORT_TIMEOUT. One batch is in flight at a time, so
 * a batch is large: 1,000 requests a second are 9,000 spans.
 */
const QUEUE_SIZE = 32_768
const BATCH_SIZE = 2048
const BATCH_DELAY_MS = 1000
const EXPORT_TIMEOUT_MS = 10_000

export interface TracingOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  readonly instanceId: string
  /** OTLP endpoint; null: nothing is dialled. */
  readonly otlpEndpoint: string | null
  /** Content is on spans: strings are then as long as they are. */
  readonly captureContent: boolean
  /** What the SDK complains about, each complaint at most once in 30 s; `suppressed` counts what came in between. */
  readonly onDiagnostic: (message: string, suppressed: number) => void
  /** Spans outside any request's tree (engine steps). */
  readonly onLooseSpan: (span: ReadableSpan) => void
  /** Replaces the OTLP exporter. */
  readonly exporter?: SpanExporter
  readonly queueSize?: number
}

export interface Tracing {
  readonly tracer: Tracer
  /** For spans that are not the contract's: a scope of its own, which the validator leaves alone. */
  readonly extensionTracer: Tracer
  /** Whether spans go anywhere. */
  readonly hasExporter: boolean
  counts(): SpanCounts
  /** What an application's own SDK, loaded first, keeps: of tracer provider, propagator, context manager. */
  readonly foreign: readonly string[]
  /** Exports a request's spans, or lets them go. */
  settle(spans: RequestSpans, isExported: boolean): void
  flush(): Promise<void>
  /** Flushes what is queued within the bound; the rest counts as dropped. Idempotent, never rejects. */
  shutdown(timeoutMs: number): Promise<void>
}

export function createTracing(options: TracingOptions): Tracing {
  const counter = new SpanCounter()
  const report = limited(options.onDiagnostic)
  const exporter = options.exporter ?? exporterTo(options.otlpEndpoint, report)
  const setting = (name: string, fallback: number) => {
    const value = getNumberFromEnv(`OTEL_BSP_${name}`)
    return value !== undefined && value > 0 ? value : fallback
  }
  const queueSize = options.queueSize ?? setting('MAX_QUEUE_SIZE', QUEUE_SIZE)
  const patient = exporter && new PatientExporter(exporter, counter, report)
  const batch =
    patient &&
    new BatchSpanProcessor(patient, {
      maxQueueSize: queueSize,
      maxExportBatchSize: Math.min(setting('MAX_EXPORT_BATCH_SIZE', BATCH_SIZE), queueSize),
      scheduledDelayMillis: setting('SCHEDULE_DELAY', BATCH_DELAY_MS),
      exportTimeoutMillis: setting('EXPORT_TIMEOUT', EXPORT_TIMEOUT_MS + 1000),
    })
  const gate = new ExportGate(batch, counter, queueSize, options.onLooseSpan)
  const given = detectResources({ detectors: [envDetector] })
  const resource = resourceFromAttributes(
    {
      'service.name': 'miniserve',
      'service.version': options.serviceVersion,
      'service.instance.id': options.instanceId,
    },
    { schemaUrl: SCHEMA_URL },
  ).merge(given)
  const environment =
    resource.attributes['deployment.environment.name'] ?? resource.attributes['deployment.environment'] ?? 'dev'
  const provider = new NodeTracerProvider({
    // One environment, under its name of today and its old one.
    resource: resource.merge(
      resourceFromAttributes({ 'deployment.environment': environment, 'deployment.environment.name': environment }),
    ),
    sampler: new RecordAllSampler(environmentSampler(report)),
    spanLimits: spanLimits(options.captureContent),
    spanProcessors: [gate],
  })
  const globals = registerGlobals(provider)
  installDiagnostics(report)
  const tracerOf = (name: string) => provider.getTracer(name, options.serviceVersion, { schemaUrl: SCHEMA_URL })
  let stopped: Promise<void> | null = null
  return {
    tracer: tracerOf(SCOPE_NAME),
    extensionTracer: tracerOf(`${SCOPE_NAME}.extension`),
    hasExporter: batch !== null,
    foreign: globals.foreign,
    counts: () => counter.counts(),
    settle: (spans, isExported) => gate.settle(spans, isExported),
    flush: async () => {
      // A collector that is away makes this reject; the exporter has counted and reported it.
      await batch?.forceFlush().catch(() => {})
      await patient?.forceFlush()
    },
    shutdown(timeoutMs) {
      stopped ??= bounded(provider.shutdown(), timeoutMs).finally(() => {
        counter.close()
        globals.release()
      })
      return stopped
    },
  }
}

function exporterTo(endpoint: string | null, report: (detail: string) => void): SpanExporter | null {
  const names = getStringFromEnv('OTEL_TRACES_EXPORTER') ?? 'otlp'
  if (names === 'none' || endpoint === null) return null
  if (names !== 'otlp') report('OTEL_TRACES_EXPORTER: expected otlp or none, found another; otlp is used')
  try {
    return createOtlpExporter(endpoint, otlpProtocol(report), EXPORT_TIMEOUT_MS)
  } catch {
    report('the OTLP endpoint is no URL: spans are not exported')
    return null
  }
}

/** The standard's limits where they are set. Content, where it is captured, is bounded by content.ts. */
function spanLimits(captureContent: boolean) {
  const limit = (name: string) => getNumberFromEnv(`OTEL_SPAN_${name}`) ?? getNumberFromEnv(`OTEL_${name}`)
  return {
    attributeValueLengthLimit:
      limit('ATTRIBUTE_VALUE_LENGTH_LIMIT') ?? (captureContent ? Infinity : MAX_ATTRIBUTE_CHARACTERS),
    attributeCountLimit: limit('ATTRIBUTE_COUNT_LIMIT') ?? 128,
    eventCountLimit: getNumberFromEnv('OTEL_SPAN_EVENT_COUNT_LIMIT') ?? 128,
    linkCountLimit: getNumberFromEnv('OTEL_SPAN_LINK_COUNT_LIMIT') ?? 128,
  }
}

/**
 * The process's tracer provider and propagator, so that the instrumentation of libraries and plugins nests under the request it works
 * for. An application whose own SDK was loaded first keeps what it has.
 */
function registerGlobals(provider: NodeTracerProvider): { readonly foreign: readonly string[]; release(): void } {
  const ownsTracer = traceApi.setGlobalTracerProvider(provider)
  const ownsPropagator = propagation.setGlobalPropagator(
    new CompositePropagator({ propagators: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()] }),
  )
  return {
    foreign: [
      ...(ownsTracer ? [] : ['tracer provider']),
      ...(ownsPropagator ? [] : ['propagator']),
      ...(usesForeignContextManager ? ['context manager'] : []),
    ],
    release() {
      if (ownsTracer) traceApi.disable()
      if (ownsPropagator) propagation.disable()
    },
  }
}

/** Resolves when the promise settles, however, or the time has passed. */
async function bounded(promise: Promise<unknown>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  try {
    await Promise.race([promise.catch(() => {}), timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** The sampler's decision on what is exported, with everything recorded: a caller's flags 00 would otherwise silence the tree. */
class RecordAllSampler implements Sampler {
  private readonly inner: Sampler

  constructor(inner: Sampler) {
    this.inner = inner
  }

  shouldSample(...args: Parameters<Sampler['shouldSample']>): ReturnType<Sampler['shouldSample']> {
    const result = this.inner.shouldSample(...args)
    return result.decision === SamplingDecision.NOT_RECORD ? { ...result, decision: SamplingDecision.RECORD } : result
  }

  toString(): string {
    return `RecordAll(${this.inner.toString()})`
  }
}

/** OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG, as the specification has them: an unknown one is reported, and the default used. */
function environmentSampler(report: (detail: string) => void): Sampler {
  const name = getStringFromEnv('OTEL_TRACES_SAMPLER') ?? 'parentbased_always_on'
  const ratio = () => {
    const value = getNumberFromEnv('OTEL_TRACES_SAMPLER_ARG') ?? 1
    const isShare = value >= 0 && value <= 1
    if (!isShare) report('OTEL_TRACES_SAMPLER_ARG: expected a share from 0 to 1, found another; 1 is used')
    return new TraceIdRatioBasedSampler(isShare ? value : 1)
  }
  switch (name) {
    case 'always_on':
      return new AlwaysOnSampler()
    case 'always_off':
      return new AlwaysOffSampler()
    case 'traceidratio':
      return ratio()
    case 'parentbased_always_off':
      return new ParentBasedSampler({ root: new AlwaysOffSampler() })
    case 'parentbased_traceidratio':
      return new ParentBasedSampler({ root: ratio() })
    case 'parentbased_always_on':
      return new ParentBasedSampler({ root: new AlwaysOnSampler() })
    default:
      report(
        "OTEL_TRACES_SAMPLER: expected one of the specification's samplers, found another; parentbased_always_on is used",
      )
      return new ParentBasedSampler({ root: new AlwaysOnSampler() })
  }
}

/** Enters every span with its request, and holds the request's spans back until its root has ended and they are settled. */
class ExportGate implements SpanProcessor {
  private readonly batch: BatchSpanProcessor | null
  private readonly counter: SpanCounter
  private readonly queueSize: number
  private readonly onLooseSpan: (span: ReadableSpan) => void
  private readonly requests = new WeakMap<object, RequestSpans>()

  constructor(
    batch: BatchSpanProcessor | null,
    counter: SpanCounter,
    queueSize: number,
    onLooseSpan: (span: ReadableSpan) => void,
  ) {
    this.batch = batch
    this.counter = counter
    this.queueSize = queueSize
    this.onLooseSpan = onLooseSpan
  }

  onStart(...[span, context]: Parameters<SpanProcessor['onStart']>): void {
    this.counter.created += 1
    const spans = currentRequest(context)?.spans
    if (!spans) return
    this.requests.set(span, spans)
    spans.started(span as unknown as Span)
  }

  onEnd(span: ReadableSpan): void {
    const spans = this.requests.get(span)
    if (!spans) {
      this.onLooseSpan(span)
      this.forward(span, isSampled(span.spanContext()))
      return
    }
    const hasRoom = spans.endedSpan(span)
    // One that ends after its root, as some may.
    if (spans.isExported !== null) this.forward(span, spans.isExported)
    else if (!hasRoom) this.counter.dropped += 1
  }

  settle(spans: RequestSpans, isExported: boolean): void {
    spans.isExported = isExported
    for (const span of spans.ended) this.forward(span, isExported)
  }

  private forward(span: ReadableSpan, isExported: boolean): void {
    if (!this.batch || !isExported) this.counter.unsampled += 1
    else if (this.counter.isClosed || this.counter.numWaiting >= this.queueSize) this.counter.dropped += 1
    else {
      this.counter.queued += 1
      this.batch.onEnd(isSampled(span.spanContext()) ? span : asSampled(span))
    }
  }

  forceFlush(): Promise<void> {
    return this.batch?.forceFlush() ?? Promise.resolve()
  }

  shutdown(): Promise<void> {
    return this.batch?.shutdown() ?? Promise.resolve()
  }
}

const isSampled = (context: SpanContext): boolean => (context.traceFlags & 1) === 1

/** A view of a span whose context carries the sampled flag, which the batch processor asks for: kept at its end, not at its start. */
function asSampled(span: ReadableSpan): ReadableSpan {
  const spanContext = { ...span.spanContext(), traceFlags: 1 }
  return Object.create(span, { spanContext: { value: () => spanContext } }) as ReadableSpan
}

const DIAGNOSTIC_EVERY_MS = 30_000
/** Complaints told apart; more share one. */
const MAX_COMPLAINTS = 16

/** Each complaint once in 30 s with the count of the others like it: a collector that is away would flood the log. */
function limited(onDiagnostic: (message: string, suppressed: number) => void): (message: string) => void {
  const complaints = new Map<string, { nextMs: number; suppressed: number }>()
  return (message) => {
    const detail = summary(message)
    // The reason behind the colon varies from one try to the next.
    const name = detail.split(':', 1)[0] ?? ''
    const kind = complaints.has(name) || complaints.size < MAX_COMPLAINTS ? name : ''
    const complaint = complaints.get(kind) ?? { nextMs: 0, suppressed: 0 }
    complaints.set(kind, complaint)
    const now = performance.now()
    if (now < complaint.nextMs) {
      complaint.suppressed += 1
      return
    }
    complaint.nextMs = now + DIAGNOSTIC_EVERY_MS
    onDiagnostic(detail, complaint.suppressed)
    complaint.suppressed = 0
  }
}

/** The SDK's own complaints. */
function installDiagnostics(report: (message: string) => void): void {
  const ignore = () => {}
  diag.setLogger(
    { error: report, warn: report, info: ignore, debug: ignore, verbose: ignore },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  )
}

/** The SDK passes errors as a JSON object with the stack; its message is the useful line. */
function summary(message: string): string {
  try {
    const parsed: unknown = JSON.parse(message)
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed)
      return String(parsed.message).slice(0, 300)
  } catch {
    // Plain words.
  }
  // The first line: a stack may follow.
  return (message.split('\n', 1)[0] ?? '').slice(0, 300)
}

/** Random W3C ids, for requests without spans. */
export const idGenerator = new RandomIdGenerator()
