/**
 * /metrics: vLLM's names with `miniserve_` for `vllm:`, their GenAI equivalents, and the server's own health. OpenMetrics carries
 * exemplars, the trace ids of kept traces. prom-client keeps the numbers; the text is written here, because its registry speaks only
 * one of the two formats at a time.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { type Counter, Registry } from 'prom-client'
import type { StepEvent } from '../engine/events.ts'
import { BulkHistogram } from './bulk-histogram.ts'
import { addEngineMetrics, type ObservedEngine } from './engine-metrics.ts'
import type { Stall } from './event-loop-watch.ts'
import { Instruments } from './instruments.ts'
import { hideKeys, type MetricFamily, renderMetrics } from './metrics-text.ts'
import { RequestMetrics } from './request-metrics.ts'
import type { RequestTrace } from './request-trace.ts'
import { addServerMetrics, type ServerMetricsParts } from './server-metrics.ts'
import type { TraceStore } from './trace-store.ts'

export interface MetricDescription {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly labels: readonly string[]
}

/** Who reads the metrics. */
interface MetricsViewer {
  readonly keyId: string
  readonly isAdmin: boolean
}

const EVERYTHING: MetricsViewer = { keyId: '', isAdmin: true }

interface MetricsOptions extends Pick<ServerMetricsParts, 'spanCounts' | 'logCounts'> {
  readonly traceStore: Pick<TraceStore, 'size' | 'bytes' | 'get'>
}

const STEP_TOKENS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384]

/** All metrics of the process. `render` gives the text of `/metrics`, `families` the same for OTLP. */
export class Metrics {
  readonly #instruments = new Instruments()
  readonly #requests: RequestMetrics
  readonly #loopDelay = monitorEventLoopDelay({ resolution: 10 })
  readonly #traceStore: MetricsOptions['traceStore']
  #engine: ObservedEngine | null = null
  readonly #breaches: Counter
  readonly #leaks: Counter
  readonly #stalls: Counter
  readonly #rerankSkips: Counter
  readonly #subscriberErrors: Counter
  readonly #stepTokens = new BulkHistogram(
    'miniserve_iteration_tokens_total',
    'Tokens of a step: of prompts and of answers',
    'model_name',
    STEP_TOKENS,
  )

  constructor({ spanCounts, logCounts, traceStore }: MetricsOptions) {
    const instruments = this.#instruments
    this.#traceStore = traceStore
    addEngineMetrics(instruments, () => this.#engine)
    this.#requests = new RequestMetrics(instruments)
    this.#breaches = instruments.counter(
      'miniserve_trace_breaches_total',
      'Span attributes that did not fit the contract and were left out',
      ['span', 'attribute'],
    )
    this.#leaks = instruments.counter('miniserve_trace_leaks_total', 'Requests whose trace was closed by the watchdog')
    this.#stalls = instruments.counter(
      'miniserve_event_loop_stalls_total',
      'Times the event loop was blocked for 100 ms or more, by route',
      ['route'],
    )
    this.#rerankSkips = instruments.counter(
      'miniserve_rag_rerank_skipped_total',
      'Searches that were not reranked because the reranker failed or took too long',
      ['reason'],
    )
    this.#subscriberErrors = instruments.counter(
      'miniserve_trace_errors_total',
      'Errors in the tracing code; the requests were served',
      ['where'],
    )
    this.#loopDelay.enable()
    addServerMetrics(instruments, { spanCounts, logCounts, traceStore, loopDelay: this.#loopDelay })
  }

  /** Where the engine's gauges come from. */
  observeEngine(engine: ObservedEngine): void {
    this.#engine = engine
  }

  /** A step of a model's engine ran. */
  onStep({ numPrefillTokens, numDecodeTokens }: StepEvent, model: string): void {
    this.#stepTokens.observe(model, [numPrefillTokens + numDecodeTokens], 1)
  }

  onBreach(span: string, attribute: string): void {
    this.#breaches.inc({ span, attribute })
  }

  /** The serving thread was blocked for a while. */
  onStall({ route }: Stall): void {
    this.#stalls.inc({ route })
  }

  /** A search kept its own order. */
  onRerankSkipped(reason: string): void {
    this.#rerankSkips.inc({ reason })
  }

  onLeak(): void {
    this.#leaks.inc()
  }

  onError(where: string): void {
    this.#subscriberErrors.inc({ where })
  }

  /** A request's trace has closed. `isKept`: its id may be used as an exemplar. */
  onRequest(trace: RequestTrace, isKept: boolean): void {
    this.#requests.onRequest(trace, isKept)
  }

  /**
   * The exposition: OpenMetrics when the Accept header asks for it, else Prometheus text. Which keys there are, and what each used, is the
   * admin's to see (and everyone's on a server without keys); any other viewer has its own key by name and the rest as one, and exemplars
   * of its own traces only.
   */
  async render(
    accept: string | undefined,
    viewer: MetricsViewer = EVERYTHING,
  ): Promise<{ readonly contentType: string; readonly body: string }> {
    const isOpenMetrics = accept?.includes('application/openmetrics-text') ?? false
    const families = await this.families()
    return {
      contentType: isOpenMetrics ? Registry.OPENMETRICS_CONTENT_TYPE : Registry.PROMETHEUS_CONTENT_TYPE,
      body: renderMetrics(
        viewer.isAdmin ? families : families.map((family) => hideKeys(family, viewer.keyId)),
        isOpenMetrics,
        (traceId) => viewer.isAdmin || this.#traceStore.get(traceId, viewer).length > 0,
      ),
    }
  }

  /** Every metric there is, in the order of the exposition: for the documentation. */
  async describe(): Promise<readonly MetricDescription[]> {
    const labels = new Map(
      this.#instruments.registry
        .getMetricsAsArray()
        .map((metric) => [metric.name, 'labelNames' in metric ? (metric.labelNames as readonly string[]) : []]),
    )
    for (const { name } of this.#bulkFamilies()) labels.set(name, ['model_name'])
    return (await this.families()).map(({ name, help, type }) => ({
      name,
      help,
      type: String(type),
      labels: labels.get(name) ?? [],
    }))
  }

  close(): void {
    this.#loopDelay.disable()
  }

  /** Every metric with its values of now. */
  async families(): Promise<readonly MetricFamily[]> {
    return [...(await this.#instruments.registry.getMetricsAsJSON()), ...this.#bulkFamilies()]
  }

  #bulkFamilies(): readonly MetricFamily[] {
    return [this.#requests.interToken.toJson(), this.#stepTokens.toJson()]
  }
}
