/**
 * The only place that constructs the OpenTelemetry SDK. Every span is recorded (for the store, logs and metrics); which ones are
 * exported is decided a tree at a time when its root ends. created = exported + dropped + unsampled (+ those on their way).
 */
import { propagation, type Span, type SpanContext, trace as traceApi, type Tracer } from '@opentelemetry/api'
import {
  CompositePropagator,
  getNumberFromEnv,
  getStringFromEnv,
  W3CBaggagePropagator,
  W3CTraceContextPropagator,
} from '@opentelemetry/core'
import type { Resource } from '@opentelemetry/resources'
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
import { ROOT_SPAN, SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import { createSpanExporter, isExported } from './otlp-exporter.ts'
import { ExportCounter, type ExportCounts, PatientExporter } from './patient-exporter.ts'
import type { RequestSpans } from './span-registry.ts'
import { bounded } from './time-bound.ts'

/**
 * Defaults of OTEL_BSP_MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, _SCHEDULE_DELAY and _EXPORT_TIMEOUT. One batch is in flight at a time, so
 * a batch is large: 1,000 requests per second are 9,000 spans.
 */
const QUEUE_SIZE = 32_768
const BATCH_SIZE = 2048
const BATCH_DELAY_MS = 1000
/** Longer than the exporter's own limit, so that its reason is heard. */
const EXPORT_TIMEOUT_MS = 11_000

/** `operation`: http.handler leaves as operation and model, in the conventions' way of naming such spans. */
export type ExportNames = 'contract' | 'operation'

interface TracingOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  readonly resource: Resource
  /** OTLP endpoint; null: nothing is dialled. */
  readonly otlpEndpoint: string | null
  /** Content is on spans: strings are then as long as they are. */
  readonly captureContent: boolean
  /** Spans have many more attributes: a few for each message and document. */
  readonly openInference: boolean
  readonly exportNames: ExportNames
  readonly exportSteps: boolean
  /** What is wrong with the settings, or with an export. */
  readonly report: (detail: string) => void
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
  counts(): ExportCounts
  /** What an application's own SDK, loaded first, keeps: of tracer provider, propagator, context manager. */
  readonly foreign: readonly string[]
  /** Exports a request's spans, or lets them go. */
  settle(spans: RequestSpans, isExported: boolean): void
  flush(): Promise<void>
  /** Flushes what is queued within the bound; the rest counts as dropped. Idempotent, never rejects. */
  shutdown(timeoutMs: number): Promise<void>
}

/** Creates the tracer provider, the export queue and the exporters. Nothing is dialled without an endpoint. */
export function createTracing(options: TracingOptions): Tracing {
  const counter = new ExportCounter()
  const { resource, report } = options
  const exporter = options.exporter ?? exporterTo(options.otlpEndpoint, report)
  const setting = (name: string, fallback: number) => {
    const value = getNumberFromEnv(`OTEL_BSP_${name}`)
    return value !== undefined && value > 0 ? value : fallback
  }
  const queueSize = options.queueSize ?? setting('MAX_QUEUE_SIZE', QUEUE_SIZE)
  const patient = exporter && new PatientExporter(exporter, counter, 'spans', report)
  const batch =
    patient &&
    new BatchSpanProcessor(patient, {
      maxQueueSize: queueSize,
      maxExportBatchSize: Math.min(setting('MAX_EXPORT_BATCH_SIZE', BATCH_SIZE), queueSize),
      scheduledDelayMillis: setting('SCHEDULE_DELAY', BATCH_DELAY_MS),
      exportTimeoutMillis: setting('EXPORT_TIMEOUT', EXPORT_TIMEOUT_MS),
    })
  const gate = new ExportGate(batch, counter, queueSize, options)
  const provider = new NodeTracerProvider({
    resource,
    sampler: new RecordAllSampler(environmentSampler(report)),
    spanLimits: spanLimits(options),
    spanProcessors: [gate],
  })
  const globals = registerGlobals(provider)
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
  if (endpoint === null || !isExported('traces', 'otlp', report)) return null
  try {
    return createSpanExporter(endpoint, report)
  } catch {
    report('the OTLP endpoint is not a URL: spans are not exported')
    return null
  }
}

/** The standard's limits where they are set. Content, where it is captured, is bounded by content.ts. */
function spanLimits({ captureContent, openInference }: Pick<TracingOptions, 'captureContent' | 'openInference'>) {
  const limit = (name: string) => getNumberFromEnv(`OTEL_SPAN_${name}`) ?? getNumberFromEnv(`OTEL_${name}`)
  return {
    attributeValueLengthLimit:
      limit('ATTRIBUTE_VALUE_LENGTH_LIMIT') ?? (captureContent ? Infinity : MAX_ATTRIBUTE_CHARACTERS),
    attributeCountLimit: limit('ATTRIBUTE_COUNT_LIMIT') ?? (openInference ? 512 : 128),
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

type GateOptions = Pick<TracingOptions, 'onLooseSpan' | 'exportNames' | 'exportSteps'>

/** Groups spans by request, and keeps them back until the request's root has ended and the sampling decision is made. */
class ExportGate implements SpanProcessor {
  private readonly batch: BatchSpanProcessor | null
  private readonly counter: ExportCounter
  private readonly queueSize: number
  private readonly options: GateOptions
  private readonly requests = new WeakMap<object, RequestSpans>()

  constructor(batch: BatchSpanProcessor | null, counter: ExportCounter, queueSize: number, options: GateOptions) {
    this.batch = batch
    this.counter = counter
    this.queueSize = queueSize
    this.options = options
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
      this.options.onLooseSpan(span)
      const isKept = span.name !== 'engine.step' || this.options.exportSteps
      this.forward(span, isKept && isSampled(span.spanContext()))
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
      const sampled = isSampled(span.spanContext()) ? span : asSampled(span)
      this.batch.onEnd(this.options.exportNames === 'operation' ? named(sampled) : sampled)
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

/** A view of http.handler under the name of what it does, where that is known. */
function named(span: ReadableSpan): ReadableSpan {
  const operation = span.attributes['gen_ai.operation.name']
  if (span.name !== ROOT_SPAN || typeof operation !== 'string') return span
  const model = span.attributes['gen_ai.request.model']
  const name = typeof model === 'string' ? `${operation} ${model}` : operation
  return Object.create(span, { name: { value: name } }) as ReadableSpan
}

/** A view of a span whose context carries the sampled flag, which the batch processor asks for: kept at its end, not at its start. */
function asSampled(span: ReadableSpan): ReadableSpan {
  const spanContext = { ...span.spanContext(), traceFlags: 1 }
  return Object.create(span, { spanContext: { value: () => spanContext } }) as ReadableSpan
}

/** Random W3C ids, for requests without spans. */
export const idGenerator = new RandomIdGenerator()
