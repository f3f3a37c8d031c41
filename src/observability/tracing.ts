/**
 * The only place that constructs the OpenTelemetry SDK. Every span is recorded (for the store, logs and metrics); which ones are
 * exported is decided a tree at a time when its root ends. created = exported + dropped + unsampled (+ those on their way).
 */
import { context as contextApi, diag, DiagLogLevel, type SpanContext, type Tracer } from '@opentelemetry/api'
import { type ExportResult, ExportResultCode, getNumberFromEnv, getStringFromEnv } from '@opentelemetry/core'
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
import { contextManager } from './context.ts'
import { SCOPE_NAME } from './contract.ts'
import { createOtlpExporter } from './otlp-exporter.ts'
import { type SpanTree, treeOf } from './span-tree.ts'

/**
 * Defaults of OTEL_BSP_MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, _SCHEDULE_DELAY and _EXPORT_TIMEOUT. One batch is in flight at a time, so
 * a batch is large: 1,000 requests a second are 9,000 spans.
 */
const QUEUE_SIZE = 32_768
const BATCH_SIZE = 2048
const BATCH_DELAY_MS = 1000
const EXPORT_TIMEOUT_MS = 10_000

export interface SpanCounts {
  readonly created: number
  readonly exported: number
  readonly dropped: number
  readonly unsampled: number
}

export interface TracingOptions {
  /** Git revision, or the package's version outside a checkout. */
  readonly serviceVersion: string
  readonly instanceId: string
  /** OTLP gRPC endpoint; null: nothing is dialled. */
  readonly otlpEndpoint: string | null
  /** What the SDK complains about, at most once in 30 s; `suppressed` counts what came in between. */
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
  readonly resourceAttributes: ReadableSpan['resource']['attributes']
  /** Whether spans go anywhere. */
  readonly hasExporter: boolean
  counts(): SpanCounts
  /** Exports a finished tree, or lets it go. */
  settle(tree: SpanTree, isExported: boolean): void
  flush(): Promise<void>
  /** Flushes what is queued within the bound; the rest counts as dropped. Idempotent, never rejects. */
  shutdown(timeoutMs: number): Promise<void>
}

export function createTracing(options: TracingOptions): Tracing {
  installDiagnostics(options.onDiagnostic)
  registerContextManager()
  const counter = new SpanCounter()
  const exporter =
    options.exporter ??
    (options.otlpEndpoint === null ? null : createOtlpExporter(options.otlpEndpoint, EXPORT_TIMEOUT_MS))
  const setting = (name: string, fallback: number) => {
    const value = getNumberFromEnv(`OTEL_BSP_${name}`)
    return value !== undefined && value > 0 ? value : fallback
  }
  const queueSize = options.queueSize ?? setting('MAX_QUEUE_SIZE', QUEUE_SIZE)
  const batch =
    exporter &&
    new BatchSpanProcessor(new CountingExporter(exporter, counter), {
      maxQueueSize: queueSize,
      maxExportBatchSize: Math.min(setting('MAX_EXPORT_BATCH_SIZE', BATCH_SIZE), queueSize),
      scheduledDelayMillis: setting('SCHEDULE_DELAY', BATCH_DELAY_MS),
      exportTimeoutMillis: setting('EXPORT_TIMEOUT', EXPORT_TIMEOUT_MS + 1000),
    })
  const gate = new ExportGate(batch, counter, queueSize, options.onLooseSpan)
  const resource = resourceFromAttributes({
    'service.name': 'miniserve',
    'service.version': options.serviceVersion,
    'service.instance.id': options.instanceId,
    'deployment.environment': 'dev',
    'deployment.environment.name': 'dev',
  }).merge(detectResources({ detectors: [envDetector] }))
  const provider = new NodeTracerProvider({
    resource,
    sampler: new RecordAllSampler(environmentSampler()),
    spanLimits: {
      attributeValueLengthLimit: MAX_ATTRIBUTE_CHARACTERS,
      attributeCountLimit: 128,
      eventCountLimit: 128,
      linkCountLimit: 128,
    },
    spanProcessors: [gate],
  })
  let stopped: Promise<void> | null = null
  return {
    tracer: provider.getTracer(SCOPE_NAME, options.serviceVersion),
    extensionTracer: provider.getTracer(`${SCOPE_NAME}.extension`, options.serviceVersion),
    resourceAttributes: resource.attributes,
    hasExporter: batch !== null,
    counts: () => counter.counts(),
    settle: (tree, isExported) => gate.settle(tree, isExported),
    flush: async () => {
      // A collector that is away makes this reject; the exporter has counted and reported it.
      await batch?.forceFlush().catch(() => {})
    },
    shutdown(timeoutMs) {
      stopped ??= bounded(provider.shutdown(), timeoutMs).finally(() => counter.close())
      return stopped
    },
  }
}

let isRegistered = false

/** OpenTelemetry's own API then sees the requests' context too. A process has one, whatever number of servers it makes. */
function registerContextManager(): void {
  if (!isRegistered) isRegistered = contextApi.setGlobalContextManager(contextManager)
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

/** OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG, as the specification has them. */
function environmentSampler(): Sampler {
  const name = getStringFromEnv('OTEL_TRACES_SAMPLER') ?? 'parentbased_always_on'
  const ratio = () => {
    const value = getNumberFromEnv('OTEL_TRACES_SAMPLER_ARG') ?? 1
    return new TraceIdRatioBasedSampler(value >= 0 && value <= 1 ? value : 1)
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
      throw new Error(`OTEL_TRACES_SAMPLER: expected one of the specification's samplers, found "${name}"`)
  }
}

/** Where every span is, so that the sums hold at any time. */
class SpanCounter {
  created = 0
  exported = 0
  dropped = 0
  unsampled = 0
  /** Handed to the batch processor, not yet given to the exporter. */
  queued = 0
  inFlight = 0
  isClosed = false

  counts(): SpanCounts {
    const { created, exported, dropped, unsampled } = this
    return { created, exported, dropped, unsampled }
  }

  /** What has not arrived by now never will. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.dropped += this.queued + this.inFlight
    this.queued = 0
    this.inFlight = 0
  }
}

class CountingExporter implements SpanExporter {
  private readonly inner: SpanExporter
  private readonly counter: SpanCounter

  constructor(inner: SpanExporter, counter: SpanCounter) {
    this.inner = inner
    this.counter = counter
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    const { counter } = this
    counter.queued -= spans.length
    counter.inFlight += spans.length
    this.inner.export(spans, (result) => {
      if (!counter.isClosed) {
        counter.inFlight -= spans.length
        if (result.code === ExportResultCode.SUCCESS) counter.exported += spans.length
        else counter.dropped += spans.length
      }
      done(result)
    })
  }

  shutdown(): Promise<void> {
    return this.inner.shutdown()
  }

  forceFlush(): Promise<void> {
    return this.inner.forceFlush?.() ?? Promise.resolve()
  }
}

/** Holds the spans of a tree back until its root has ended and the tree is settled. */
class ExportGate implements SpanProcessor {
  private readonly batch: BatchSpanProcessor | null
  private readonly counter: SpanCounter
  private readonly queueSize: number
  private readonly onLooseSpan: (span: ReadableSpan) => void
  private readonly trees = new WeakMap<object, SpanTree>()

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
    const tree = treeOf(context)
    if (tree) this.trees.set(span, tree)
  }

  onEnd(span: ReadableSpan): void {
    const tree = this.trees.get(span)
    if (!tree) {
      this.onLooseSpan(span)
      this.forward(span, isSampled(span.spanContext()))
    } else if (tree.isExported === null) {
      if (!tree.add(span)) this.counter.dropped += 1
    } else {
      tree.onLate?.(span)
      this.forward(span, tree.isExported)
    }
  }

  settle(tree: SpanTree, isExported: boolean): void {
    tree.isExported = isExported
    for (const span of tree.spans) this.forward(span, isExported)
  }

  private forward(span: ReadableSpan, isExported: boolean): void {
    if (!this.batch || !isExported) this.counter.unsampled += 1
    else if (this.counter.isClosed || this.counter.queued >= this.queueSize) this.counter.dropped += 1
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

/** The SDK's own complaints, one in 30 s with the count of the others: a collector that is away would flood the log. */
function installDiagnostics(onDiagnostic: (message: string, suppressed: number) => void): void {
  let nextMs = 0
  let suppressed = 0
  const report = (message: string) => {
    const now = performance.now()
    if (now < nextMs) {
      suppressed += 1
      return
    }
    nextMs = now + DIAGNOSTIC_EVERY_MS
    onDiagnostic(summary(message), suppressed)
    suppressed = 0
  }
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
