/**
 * Sets up the OpenTelemetry SDK for spans. Every span is recorded for the store, logs and metrics; whether a tree is exported is decided
 * when its root ends. created = exported + dropped + unsampled (+ spans in flight).
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
import { endedWithin } from '../promises.ts'
import { MAX_ATTRIBUTE_CHARACTERS } from './attributes.ts'
import { currentRequest, usesForeignContextManager } from './context.ts'
import { ROOT_SPAN, SCHEMA_URL, SCOPE_NAME } from './contract.ts'
import { batchSettings, createSpanExporter } from './otlp-exporter.ts'
import { ExportCounter, type ExportCounts, PatientExporter } from './patient-exporter.ts'
import type { RequestSpans } from './span-registry.ts'

/**
 * Defaults of OTEL_BSP_MAX_QUEUE_SIZE and OTEL_BSP_MAX_EXPORT_BATCH_SIZE. Only one batch is in flight at a time, so batches are large:
 * 1,000 requests per second make 9,000 spans.
 */
const QUEUE_SIZE = 32_768
const BATCH_SIZE = 2048

/** `operation`: http.handler is exported under its operation and model, as the conventions name such spans. */
export type ExportNames = 'contract' | 'operation'

interface TracingOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  readonly resource: Resource
  /** OTLP endpoint; null: nothing is exported. */
  readonly otlpEndpoint: string | null
  /** Whether content is recorded on spans: strings are then not shortened. */
  readonly captureContent: boolean
  /** Whether spans have OpenInference attributes: several for each message and document. */
  readonly openInference: boolean
  readonly exportNames: ExportNames
  readonly exportSteps: boolean
  /** Called with problems of the settings or of an export. */
  readonly report: (detail: string) => void
  /** Spans outside any request's tree (engine steps). */
  readonly onLooseSpan: (span: ReadableSpan) => void
  /** Replaces the OTLP exporter. */
  readonly exporter?: SpanExporter
  /** Spans that may wait for export; it wins over OTEL_BSP_MAX_QUEUE_SIZE. */
  readonly queueSize?: number
}

export interface Tracing {
  readonly tracer: Tracer
  /** For spans outside the contract: a separate scope, which the validator ignores. */
  readonly extensionTracer: Tracer
  /** Whether spans are exported at all. */
  readonly hasExporter: boolean
  counts(): ExportCounts
  /** Which of tracer provider, propagator and context manager belong to an SDK that the application loaded first. */
  readonly foreign: readonly string[]
  /** Exports a request's spans, or counts them as unsampled. */
  settle(spans: RequestSpans, isExported: boolean): void
  flush(): Promise<void>
  /** Sends what is queued within the time limit; the rest is counted as dropped. Idempotent, never rejects. */
  shutdown(timeoutMs: number): Promise<void>
}

/** Creates the tracer provider, the export queue and the exporter. Without an endpoint nothing is exported. */
export function createTracing(options: TracingOptions): Tracing {
  const counter = new ExportCounter()
  const { resource, report } = options
  const exporter =
    options.exporter ?? (options.otlpEndpoint === null ? null : createSpanExporter(options.otlpEndpoint, report))
  const settings = batchSettings('OTEL_BSP', QUEUE_SIZE, BATCH_SIZE, options.queueSize)
  const patient = exporter && new PatientExporter(exporter, counter, 'spans', report)
  const batch = patient && new BatchSpanProcessor(patient, settings)
  const gate = new ExportGate(batch, counter, settings.maxQueueSize, options)
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
      // Rejects if the collector cannot be reached. The exporter has counted and reported that.
      await batch?.forceFlush().catch(() => {})
      await patient?.forceFlush()
    },
    shutdown(timeoutMs) {
      stopped ??= endedWithin(timeoutMs, provider.shutdown()).finally(() => {
        counter.close()
        globals.release()
      })
      return stopped
    },
  }
}

/** The limits of the standard's variables. Captured content is limited by content.ts instead. */
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
 * Registers the process's tracer provider and propagator, so that spans of libraries and plugins nest below the request that they work
 * for. If the application loaded its own SDK first, that one stays in use.
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

/** Records every span, and keeps the sampler's decision for the export. A caller's flags 00 would otherwise suppress the tree. */
class RecordAllSampler implements Sampler {
  readonly #inner: Sampler

  constructor(inner: Sampler) {
    this.#inner = inner
  }

  shouldSample(...args: Parameters<Sampler['shouldSample']>): ReturnType<Sampler['shouldSample']> {
    const result = this.#inner.shouldSample(...args)
    return result.decision === SamplingDecision.NOT_RECORD ? { ...result, decision: SamplingDecision.RECORD } : result
  }

  toString(): string {
    return `RecordAll(${this.#inner.toString()})`
  }
}

/** The sampler of OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG. An unknown one is reported, and the default is used. */
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

/** Groups spans by request, and holds them back until the root has ended and the sampling decision is made. */
class ExportGate implements SpanProcessor {
  readonly #batch: BatchSpanProcessor | null
  readonly #counter: ExportCounter
  readonly #queueSize: number
  readonly #options: GateOptions
  readonly #requests = new WeakMap<object, RequestSpans>()

  constructor(batch: BatchSpanProcessor | null, counter: ExportCounter, queueSize: number, options: GateOptions) {
    this.#batch = batch
    this.#counter = counter
    this.#queueSize = queueSize
    this.#options = options
  }

  onStart(...[span, context]: Parameters<SpanProcessor['onStart']>): void {
    this.#counter.created += 1
    const spans = currentRequest(context)?.spans
    if (!spans) return
    this.#requests.set(span, spans)
    spans.started(span as unknown as Span)
  }

  onEnd(span: ReadableSpan): void {
    const spans = this.#requests.get(span)
    if (!spans) {
      this.#options.onLooseSpan(span)
      const isKept = span.name !== 'engine.step' || this.#options.exportSteps
      this.#forward(span, isKept && isSampled(span.spanContext()))
      return
    }
    const hasRoom = spans.endedSpan(span)
    // A span that may end after its root.
    if (spans.isExported !== null) this.#forward(span, spans.isExported)
    else if (!hasRoom) this.#counter.dropped += 1
  }

  settle(spans: RequestSpans, isExported: boolean): void {
    spans.isExported = isExported
    for (const span of spans.ended) this.#forward(span, isExported)
  }

  #forward(span: ReadableSpan, isExported: boolean): void {
    if (!this.#batch || !isExported) this.#counter.unsampled += 1
    else if (this.#counter.isClosed || this.#counter.numWaiting >= this.#queueSize) this.#counter.dropped += 1
    else {
      this.#counter.queued += 1
      const sampled = isSampled(span.spanContext()) ? span : asSampled(span)
      this.#batch.onEnd(this.#options.exportNames === 'operation' ? underOperationName(sampled) : sampled)
    }
  }

  forceFlush(): Promise<void> {
    return this.#batch?.forceFlush() ?? Promise.resolve()
  }

  shutdown(): Promise<void> {
    return this.#batch?.shutdown() ?? Promise.resolve()
  }
}

const isSampled = (context: SpanContext): boolean => (context.traceFlags & 1) === 1

/** http.handler under the name of its operation and model, if they are known. */
function underOperationName(span: ReadableSpan): ReadableSpan {
  const operation = span.attributes['gen_ai.operation.name']
  if (span.name !== ROOT_SPAN || typeof operation !== 'string') return span
  const model = span.attributes['gen_ai.request.model']
  const name = typeof model === 'string' ? `${operation} ${model}` : operation
  return Object.create(span, { name: { value: name } }) as ReadableSpan
}

/** A span with the sampled flag set, which the batch processor requires. The decision to keep it was made after its start. */
function asSampled(span: ReadableSpan): ReadableSpan {
  const spanContext = { ...span.spanContext(), traceFlags: 1 }
  return Object.create(span, { spanContext: { value: () => spanContext } }) as ReadableSpan
}

/** Makes W3C ids for requests without spans. */
export const idGenerator = new RandomIdGenerator()
