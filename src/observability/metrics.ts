/**
 * The metrics of the server: vLLM's names with `miniserve_` instead of `vllm:`, their GenAI equivalents, and the server's own health.
 * OpenMetrics has exemplars: the trace ids of kept traces. prom-client counts; metrics-text.ts writes both text formats, because a
 * registry of prom-client writes only one of them.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { Registry } from 'prom-client'
import type { StepEvent } from '../engine/events.ts'
import { addEngineMetrics, type ObservedEngine } from './engine-metrics.ts'
import { BulkHistogram, Instruments } from './instruments.ts'
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

/** The caller that reads the metrics. */
interface MetricsViewer {
  readonly keyId: string
  readonly isAdmin: boolean
}

const EVERYTHING: MetricsViewer = { keyId: '', isAdmin: true }

interface MetricsOptions extends Pick<ServerMetricsParts, 'spanCounts' | 'logCounts' | 'droppedLines'> {
  readonly traceStore: Pick<TraceStore, 'size' | 'bytes' | 'get'>
}

const STEP_TOKENS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384]

/** Counters of the server that are increased where it happens. */
const countersOf = (instruments: Instruments) => ({
  breaches: instruments.counter(
    'miniserve_trace_breaches_total',
    'Span attributes that did not fit the contract and were left out',
    ['span', 'attribute'],
  ),
  leaks: instruments.counter('miniserve_trace_leaks_total', 'Requests whose trace was closed by the watchdog'),
  stalls: instruments.counter(
    'miniserve_event_loop_stalls_total',
    'Times the event loop was blocked for 100 ms or more, by route',
    ['route'],
  ),
  rerankSkips: instruments.counter(
    'miniserve_rag_rerank_skipped_total',
    'Searches that were not reranked because the reranker failed or took too long',
    ['reason'],
  ),
  errors: instruments.counter('miniserve_trace_errors_total', 'Errors in the tracing code; the requests were served', [
    'where',
  ]),
})

/** All metrics of the process. `render` returns the text of `/metrics`, `families` the same for OTLP. */
export class Metrics {
  readonly counters: ReturnType<typeof countersOf>
  readonly #instruments = new Instruments()
  readonly #requests: RequestMetrics
  readonly #loopDelay = monitorEventLoopDelay({ resolution: 10 })
  readonly #traceStore: MetricsOptions['traceStore']
  #engine: ObservedEngine | null = null
  readonly #stepTokens = new BulkHistogram(
    'miniserve_iteration_tokens_total',
    'Tokens of a step: of prompts and of answers',
    'model_name',
    STEP_TOKENS,
  )

  constructor({ spanCounts, logCounts, droppedLines, traceStore }: MetricsOptions) {
    const instruments = this.#instruments
    this.#traceStore = traceStore
    addEngineMetrics(instruments, () => this.#engine)
    this.#requests = new RequestMetrics(instruments)
    this.counters = countersOf(instruments)
    this.#loopDelay.enable()
    addServerMetrics(instruments, { spanCounts, logCounts, droppedLines, traceStore, loopDelay: this.#loopDelay })
  }

  /** Sets the source of the engine's gauges. */
  observeEngine(engine: ObservedEngine): void {
    this.#engine = engine
  }

  /** Counts a step of a model's engine. */
  onStep({ numPrefillTokens, numDecodeTokens }: StepEvent, model: string): void {
    this.#stepTokens.observe(model, [numPrefillTokens + numDecodeTokens], 1)
  }

  /** Counts a request whose trace has closed. `isKept`: its trace id may be an exemplar. */
  onRequest(trace: RequestTrace, isKept: boolean): void {
    this.#requests.onRequest(trace, isKept)
  }

  /**
   * The text of `/metrics`: OpenMetrics if the Accept header asks for it, else Prometheus text. Only the admin sees every key. Other
   * viewers see their own key, the sum of all others, and exemplars of their own traces. Without keys, everyone is the admin.
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

  /** Name, type, help and labels of every metric, in the order of `/metrics`. */
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

  /** Every metric with its current values. */
  async families(): Promise<readonly MetricFamily[]> {
    return [...(await this.#instruments.registry.getMetricsAsJSON()), ...this.#bulkFamilies()]
  }

  #bulkFamilies(): readonly MetricFamily[] {
    return [this.#requests.interToken.toJson(), this.#stepTokens.toJson()]
  }
}
