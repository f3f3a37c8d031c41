/**
 * /metrics: vLLM's names with `miniserve_` for `vllm:`, their GenAI equivalents, and the server's own health. OpenMetrics carries
 * exemplars, the trace ids of kept traces. prom-client keeps the numbers; the text is written here, because its registry speaks only
 * one of the two formats at a time.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { KvOperationCount, StepEvent } from '../engine/events.ts'
import { BulkHistogram } from './bulk-histogram.ts'
import type { Stall } from './event-loop-watch.ts'
import { hideKeys, type MetricFamily, renderMetrics } from './metrics-text.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanCounts } from './patient-exporter.ts'
import type { TraceStore } from './trace-store.ts'

/** Bytes that a backend holds on its device. */
export interface DeviceMemory {
  /** webgpu, cpu or reference. */
  readonly kind: string
  readonly weightBytes: number
  readonly kvCacheBytes: number
  readonly scratchBytes: number
}

/** The engine's gauges, read when /metrics is. */
export interface EngineGauges {
  readonly numRunning: number
  readonly numWaiting: number
  readonly numBlocks: number
  readonly numFreeBlocks: number
  /** Operations on KV tiers that ended; absent where there are no tiers. */
  readonly kvOperations?: readonly KvOperationCount[]
  /** null: the engine has no device of its own here. */
  readonly device: DeviceMemory | null
  /** null: the engine keeps no KV cache here. */
  readonly cache: CacheConfig | null
}

/** How the KV cache is set up. */
export interface CacheConfig {
  /** Tokens of a block. */
  readonly blockSize: number
  readonly prefixCaching: boolean
}

/** The engine as the metrics see it. */
export interface ObservedEngine {
  /** Read when /metrics is. */
  gauges(): EngineGauges
  /** Of the served model; read at every step. */
  modelName(): string
}

export interface MetricDescription {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly labels: readonly string[]
}

/** Who reads the metrics. */
export interface MetricsViewer {
  readonly keyId: string
  readonly isAdmin: boolean
}

const EVERYTHING: MetricsViewer = { keyId: '', isAdmin: true }

export interface MetricsOptions {
  readonly spanCounts: () => SpanCounts
  readonly traceStore: Pick<TraceStore, 'size' | 'bytes' | 'get'>
}

// Buckets in seconds: vLLM's for its names, the GenAI semantic conventions' for theirs.
const TTFT = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
]
const INTER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
const LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
const CHOICES = [1, 2, 5, 10, 20]
const STEP_TOKENS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384]
const GENAI_DURATION = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const GENAI_TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const GENAI_TPOT = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]

export class Metrics {
  private readonly registry = new Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE>()
  private readonly loopDelay = monitorEventLoopDelay({ resolution: 10 })
  private engine: ObservedEngine | null = null
  private readonly promptTokens: Counter
  private readonly generationTokens: Counter
  private readonly keyTokens: Counter
  private readonly cacheQueries: Counter
  private readonly cacheHits: Counter
  private readonly preemptions: Counter
  private readonly drafts: Counter
  private readonly success: Counter
  private readonly endings: Counter
  private readonly breaches: Counter
  private readonly leaks: Counter
  private readonly stalls: Counter
  private readonly subscriberErrors: Counter
  private readonly rerankSkips: Counter
  private readonly interToken = new BulkHistogram(
    'miniserve_inter_token_latency_seconds',
    'Duration of decode steps',
    'model_name',
    INTER_TOKEN,
  )
  private readonly stepTokens = new BulkHistogram(
    'miniserve_iteration_tokens_total',
    'Tokens of a step: of prompts and of answers',
    'model_name',
    STEP_TOKENS,
  )
  private readonly histograms: Readonly<Record<HistogramName, Histogram>>

  private readonly traceStore: MetricsOptions['traceStore']

  constructor(options: MetricsOptions) {
    this.traceStore = options.traceStore
    this.registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
    const registers = [this.registry]
    const counter = (name: string, help: string, labelNames: string[] = []) =>
      new Counter({ name, help, labelNames, registers })
    const gauge = (name: string, help: string, read: () => number) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(read())
        },
      })
    const gauges = (name: string, help: string, labelNames: string[], read: () => readonly LabelledValue[]) =>
      new Gauge({
        name,
        help,
        labelNames,
        registers,
        collect() {
          this.reset()
          for (const { labels, value } of read()) this.set(labels, value)
        },
      })
    /** A counter kept elsewhere. */
    const mirror = (name: string, help: string, read: () => number) =>
      new Counter({
        name,
        help,
        registers,
        collect() {
          this.reset()
          this.inc(read())
        },
      })
    const mirrors = (
      name: string,
      help: string,
      labelNames: string[],
      read: () => readonly { readonly labels: Record<string, string>; readonly value: number }[],
    ) =>
      new Counter({
        name,
        help,
        labelNames,
        registers,
        collect() {
          this.reset()
          for (const { labels, value } of read()) this.inc(labels, value)
        },
      })
    const histogram = (name: string, help: string, buckets: number[], labelNames: string[] = ['model_name']) =>
      new Histogram({ name, help, buckets, labelNames, registers, enableExemplars: true })

    const engine = () => this.engine?.gauges() ?? NO_ENGINE
    gauge('miniserve_num_requests_running', 'Sequences in the running batch', () => engine().numRunning)
    gauge(
      'miniserve_num_requests_waiting',
      'Sequences waiting for their first step or to resume',
      () => engine().numWaiting,
    )
    gauge('miniserve_kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1', () => {
      const { numBlocks, numFreeBlocks } = engine()
      return numBlocks === 0 ? 0 : (numBlocks - numFreeBlocks) / numBlocks
    })
    gauges(
      'miniserve_cache_config_info',
      'How the KV cache is set up, in the labels; always 1',
      ['model_name', 'block_size', 'num_gpu_blocks', 'enable_prefix_caching'],
      () => cacheInfoOf(engine(), this.engine?.modelName() ?? 'none'),
    )
    gauges(
      'miniserve_device_memory_bytes',
      'Memory of the device by use: weights, kv_cache (the pool, used or not), scratch (activations, logits)',
      ['device', 'use'],
      () => memoryOf(engine().device),
    )
    const kvOperations = () => engine().kvOperations ?? []
    mirrors('miniserve_kv_tier_operations_total', 'Operations on KV tiers that ended', ['operation', 'outcome'], () =>
      kvOperations().map(({ operation, outcome, count }) => ({ labels: { operation, outcome }, value: count })),
    )
    mirrors(
      'miniserve_kv_tier_bytes_total',
      'Bytes of KV read from or kept in the tiers',
      ['operation', 'outcome'],
      () => kvOperations().map(({ operation, outcome, bytes }) => ({ labels: { operation, outcome }, value: bytes })),
    )
    this.promptTokens = counter('miniserve_prompt_tokens_total', 'Prompt tokens processed', ['model_name'])
    this.generationTokens = counter('miniserve_generation_tokens_total', 'Tokens generated', ['model_name'])
    this.keyTokens = counter('miniserve_key_tokens_total', 'Tokens by API key (a digest), for costs', [
      'model_name',
      'key_id',
      'direction',
    ])
    this.cacheQueries = counter('miniserve_prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache', [
      'model_name',
    ])
    this.cacheHits = counter('miniserve_prefix_cache_hits_total', 'Prompt tokens found in the prefix cache', [
      'model_name',
    ])
    this.preemptions = counter(
      'miniserve_num_preemptions_total',
      'Sequences that lost their blocks and were recomputed',
      ['model_name'],
    )
    this.drafts = counter('miniserve_spec_decode_tokens_total', 'Drafted tokens by outcome', ['model_name', 'outcome'])
    this.success = counter('miniserve_request_success_total', 'Sequences that ended, by reason', [
      'model_name',
      'finished_reason',
    ])
    this.endings = counter('miniserve_requests_total', 'Requests by route, status and row of the table of endings', [
      'route',
      'status',
      'ending',
    ])
    this.breaches = counter(
      'miniserve_trace_breaches_total',
      'Span attributes that did not fit the contract and were left out',
      ['span', 'attribute'],
    )
    this.leaks = counter('miniserve_trace_leaks_total', 'Requests whose trace the watchdog had to close')
    this.stalls = counter(
      'miniserve_event_loop_stalls_total',
      'Times the serving thread answered nobody for 100 ms or more, by the route at work',
      ['route'],
    )
    this.rerankSkips = counter(
      'miniserve_rag_rerank_skipped_total',
      'Searches whose order was kept because the reranker failed or took too long',
      ['reason'],
    )
    this.subscriberErrors = counter('miniserve_trace_errors_total', 'Errors inside tracing; the request went on', [
      'where',
    ])
    this.histograms = {
      ttft: histogram(
        'miniserve_time_to_first_token_seconds',
        'Arrival of the request to its first token, retrieval and queue included',
        TTFT,
      ),
      e2e: histogram('miniserve_e2e_request_latency_seconds', 'Arrival to the end of the response', LATENCY),
      queue: histogram(
        'miniserve_request_queue_time_seconds',
        'Arrival at the engine to the first step, without the time for a grammar',
        LATENCY,
      ),
      grammar: histogram(
        'miniserve_request_grammar_time_seconds',
        'Time until the grammar of a structured answer was there, compiled or found',
        LATENCY,
      ),
      prefill: histogram(
        'miniserve_request_prefill_time_seconds',
        'First step to the first token, or to the end of a prompt that is only scored',
        LATENCY,
      ),
      decode: histogram('miniserve_request_decode_time_seconds', 'First token to the last', LATENCY),
      inference: histogram('miniserve_request_inference_time_seconds', 'First step to the last token', LATENCY),
      promptSize: histogram('miniserve_request_prompt_tokens', 'Prompt tokens of a request', TOKENS),
      outputSize: histogram('miniserve_request_generation_tokens', 'Generated tokens of a request', TOKENS),
      paramsN: histogram('miniserve_request_params_n', 'n as sent, 1 where it was not', CHOICES),
      paramsMaxTokens: histogram('miniserve_request_params_max_tokens', 'max_tokens, where it was sent', TOKENS),
      genAiDuration: histogram(
        'gen_ai_server_request_duration_seconds',
        'GenAI request duration',
        GENAI_DURATION,
        GENAI_LABELS,
      ),
      genAiTtft: histogram(
        'gen_ai_server_time_to_first_token_seconds',
        'Arrival of the request to its first token',
        GENAI_TTFT,
        GENAI_SUCCESS_LABELS,
      ),
      genAiTpot: histogram(
        'gen_ai_server_time_per_output_token_seconds',
        'Time per output token after the first',
        GENAI_TPOT,
        GENAI_SUCCESS_LABELS,
      ),
    }
    for (const outcome of ['created', 'exported', 'dropped', 'unsampled'] as const) {
      mirror(
        `miniserve_spans_${outcome}_total`,
        `Spans ${outcome}; created = exported + dropped + unsampled`,
        () => options.spanCounts()[outcome],
      )
    }
    gauge('miniserve_trace_store_traces', 'Traces in memory', () => options.traceStore.size)
    gauge('miniserve_trace_store_bytes', 'Estimated size of the traces in memory', () => options.traceStore.bytes)
    this.loopDelay.enable()
    gauge(
      'miniserve_event_loop_lag_p99_seconds',
      '99th percentile of the event loop delay since the last scrape',
      () => {
        const p99 = this.loopDelay.percentile(99) / 1e9
        this.loopDelay.reset()
        return Number.isFinite(p99) ? p99 : 0
      },
    )
    gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss())
    gauge('process_start_time_seconds', 'Start of the process since 1970', () => performance.timeOrigin / 1000)
    mirror('process_cpu_seconds_total', 'User and system CPU time', () => {
      const { user, system } = process.cpuUsage()
      return (user + system) / 1e6
    })
  }

  /** Where the engine's gauges come from. */
  observeEngine(engine: ObservedEngine): void {
    this.engine = engine
  }

  /** A step of the engine ran. */
  onStep({ numPrefillTokens, numDecodeTokens }: StepEvent): void {
    this.stepTokens.observe(this.engine?.modelName() ?? 'none', [numPrefillTokens + numDecodeTokens], 1)
  }

  onBreach(span: string, attribute: string): void {
    this.breaches.inc({ span, attribute })
  }

  /** The serving thread answered nobody for a while. */
  onStall({ route }: Stall): void {
    this.stalls.inc({ route })
  }

  /** A search kept its own order. */
  onRerankSkipped(reason: string): void {
    this.rerankSkips.inc({ reason })
  }

  onLeak(): void {
    this.leaks.inc()
  }

  onError(where: string): void {
    this.subscriberErrors.inc({ where })
  }

  /** A request's trace has closed. `isKept`: its id may stand in an exemplar. */
  onRequest(trace: RequestTrace, isKept: boolean): void {
    const { ending, generation, phases, input } = trace
    if (!ending) return
    const status = ending.row.statusCode ?? ending.status
    this.endings.inc({
      route: input.route,
      status: status === null ? 'none' : String(status),
      ending: ending.row.ending,
    })
    if (input.kind === 'other') return
    const exemplarLabels = isKept ? { trace_id: trace.traceId } : undefined
    const observe = (name: HistogramName, labels: Record<string, string>, value: number) =>
      this.histograms[name].observe({ labels, value, ...(exemplarLabels ? { exemplarLabels } : {}) })
    const seconds = (ending.atMs - trace.startMs) / 1000
    const model = generation?.model ?? 'none'
    const genAi = {
      gen_ai_operation_name: generation?.operation ?? 'none',
      gen_ai_provider_name: 'miniserve',
      gen_ai_request_model: model,
    }
    observe('genAiDuration', { ...genAi, error_type: ending.row.errorType ?? '' }, seconds)
    if (!phases) return
    const byModel = { model_name: model }
    observe('e2e', byModel, seconds)
    const { ttftSeconds } = trace
    if (ttftSeconds !== null) {
      observe('ttft', byModel, ttftSeconds)
      observe('genAiTtft', genAi, ttftSeconds)
    }
    const { grammar, queue, 'llm.prefill': prefill, 'llm.decode': decode } = phases.durationsMs
    if (grammar !== undefined) observe('grammar', byModel, grammar / 1000)
    if (queue !== undefined) observe('queue', byModel, queue / 1000)
    if (prefill !== undefined) observe('prefill', byModel, prefill / 1000)
    if (decode !== undefined) observe('decode', byModel, decode / 1000)
    if (prefill !== undefined) observe('inference', byModel, (prefill + (decode ?? 0)) / 1000)
    observe('promptSize', byModel, phases.tokensIn)
    observe('outputSize', byModel, phases.tokensOut)
    observe('paramsN', byModel, generation?.n ?? 1)
    if (typeof generation?.maxTokens === 'number') observe('paramsMaxTokens', byModel, generation.maxTokens)
    if (decode !== undefined && phases.tokensOut > 1)
      observe('genAiTpot', genAi, decode / 1000 / (phases.tokensOut - 1))
    this.interToken.observe(model, phases.stepMicros, 1e-6)
    this.promptTokens.inc(byModel, phases.tokensIn)
    this.generationTokens.inc(byModel, phases.tokensOut)
    this.keyTokens.inc({ ...byModel, key_id: trace.keyId, direction: 'in' }, phases.tokensIn)
    this.keyTokens.inc({ ...byModel, key_id: trace.keyId, direction: 'out' }, phases.tokensOut)
    this.cacheQueries.inc(byModel, phases.cacheHits + phases.cacheMisses)
    this.cacheHits.inc(byModel, phases.cacheHits)
    this.preemptions.inc(byModel, phases.numPreemptions)
    if (phases.numDraftTokens > 0) {
      this.drafts.inc({ ...byModel, outcome: 'accepted' }, phases.numAcceptedTokens)
      this.drafts.inc({ ...byModel, outcome: 'rejected' }, phases.numDraftTokens - phases.numAcceptedTokens)
    }
    for (const reason of phases.finishReasons) this.success.inc({ ...byModel, finished_reason: reason })
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
        (traceId) => viewer.isAdmin || this.traceStore.get(traceId, viewer).length > 0,
      ),
    }
  }

  /** Every metric there is, in the order of the exposition: for the documentation. */
  async describe(): Promise<readonly MetricDescription[]> {
    const labels = new Map(
      this.registry
        .getMetricsAsArray()
        .map((metric) => [metric.name, 'labelNames' in metric ? (metric.labelNames as readonly string[]) : []]),
    )
    for (const { name } of this.bulkFamilies()) labels.set(name, ['model_name'])
    return (await this.families()).map(({ name, help, type }) => ({
      name,
      help,
      type: String(type),
      labels: labels.get(name) ?? [],
    }))
  }

  close(): void {
    this.loopDelay.disable()
  }

  private async families(): Promise<readonly MetricFamily[]> {
    return [...(await this.registry.getMetricsAsJSON()), ...this.bulkFamilies()]
  }

  private bulkFamilies(): readonly MetricFamily[] {
    return [this.interToken.toJson(), this.stepTokens.toJson()]
  }
}

interface LabelledValue {
  readonly labels: Record<string, string>
  readonly value: number
}

/** In vLLM's labels and spelling. */
function cacheInfoOf({ cache, numBlocks }: EngineGauges, modelName: string): readonly LabelledValue[] {
  if (cache === null) return []
  const labels = {
    model_name: modelName,
    block_size: String(cache.blockSize),
    num_gpu_blocks: String(numBlocks),
    enable_prefix_caching: cache.prefixCaching ? 'True' : 'False',
  }
  return [{ labels, value: 1 }]
}

function memoryOf(device: DeviceMemory | null): readonly LabelledValue[] {
  if (device === null) return []
  const { kind, weightBytes, kvCacheBytes, scratchBytes } = device
  const uses = { weights: weightBytes, kv_cache: kvCacheBytes, scratch: scratchBytes }
  return Object.entries(uses).map(([use, value]) => ({ labels: { device: kind, use }, value }))
}

type HistogramName =
  | 'inference'
  | 'promptSize'
  | 'outputSize'
  | 'paramsN'
  | 'paramsMaxTokens'
  | 'ttft'
  | 'e2e'
  | 'grammar'
  | 'queue'
  | 'prefill'
  | 'decode'
  | 'genAiDuration'
  | 'genAiTtft'
  | 'genAiTpot'

const GENAI_SUCCESS_LABELS = ['gen_ai_operation_name', 'gen_ai_provider_name', 'gen_ai_request_model']
const GENAI_LABELS = [...GENAI_SUCCESS_LABELS, 'error_type']
const NO_ENGINE: EngineGauges = {
  numRunning: 0,
  numWaiting: 0,
  numBlocks: 0,
  numFreeBlocks: 0,
  device: null,
  cache: null,
}
