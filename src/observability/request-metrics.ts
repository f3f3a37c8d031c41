/** The metrics of requests, counted when their traces close. */
import { BulkHistogram, type Instruments } from './instruments.ts'
import type { RequestTrace } from './request-trace.ts'

// Buckets in seconds: those of vLLM for its metrics, those of the GenAI conventions for theirs.
const TTFT = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
]
const INTER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
const LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
const CHOICES = [1, 2, 5, 10, 20]
const GENAI_DURATION = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const GENAI_TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const GENAI_TPOT = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]

const GENAI_SUCCESS_LABELS = ['gen_ai_operation_name', 'gen_ai_provider_name', 'gen_ai_request_model']
const GENAI_LABELS = [...GENAI_SUCCESS_LABELS, 'error_type']

const countersOf = (instruments: Instruments) => ({
  promptTokens: instruments.counter('miniserve_prompt_tokens_total', 'Prompt tokens processed', ['model_name']),
  generationTokens: instruments.counter('miniserve_generation_tokens_total', 'Tokens generated', ['model_name']),
  keyTokens: instruments.counter('miniserve_key_tokens_total', 'Tokens by API key (a digest), for costs', [
    'model_name',
    'key_id',
    'direction',
  ]),
  cacheQueries: instruments.counter(
    'miniserve_prefix_cache_queries_total',
    'Prompt tokens looked up in the prefix cache',
    ['model_name'],
  ),
  cacheHits: instruments.counter(
    'miniserve_prefix_cache_hits_total',
    'Prompt tokens that were found in the prefix cache',
    ['model_name'],
  ),
  preemptions: instruments.counter('miniserve_num_preemptions_total', 'Sequences that were preempted and recomputed', [
    'model_name',
  ]),
  drafts: instruments.counter('miniserve_spec_decode_tokens_total', 'Drafted tokens by outcome', [
    'model_name',
    'outcome',
  ]),
  success: instruments.counter('miniserve_request_success_total', 'Sequences that ended, by reason', [
    'model_name',
    'finished_reason',
  ]),
  endings: instruments.counter('miniserve_requests_total', 'Requests by route, status and ending', [
    'route',
    'status',
    'ending',
  ]),
})

const histogramsOf = (instruments: Instruments) => ({
  ttft: instruments.histogram(
    'miniserve_time_to_first_token_seconds',
    'Arrival of the request to its first token, retrieval and queue included',
    TTFT,
  ),
  e2e: instruments.histogram('miniserve_e2e_request_latency_seconds', 'Arrival to the end of the response', LATENCY),
  queue: instruments.histogram(
    'miniserve_request_queue_time_seconds',
    'Arrival at the engine to the first step, without the time for a grammar',
    LATENCY,
  ),
  grammar: instruments.histogram(
    'miniserve_request_grammar_time_seconds',
    'Time until the grammar of a structured answer was compiled or found in the cache',
    LATENCY,
  ),
  prefill: instruments.histogram(
    'miniserve_request_prefill_time_seconds',
    'First step to the first token, or to the end of a prompt that is only scored',
    LATENCY,
  ),
  decode: instruments.histogram('miniserve_request_decode_time_seconds', 'First token to the last', LATENCY),
  inference: instruments.histogram('miniserve_request_inference_time_seconds', 'First step to the last token', LATENCY),
  promptSize: instruments.histogram('miniserve_request_prompt_tokens', 'Prompt tokens of a request', TOKENS),
  outputSize: instruments.histogram('miniserve_request_generation_tokens', 'Generated tokens of a request', TOKENS),
  paramsN: instruments.histogram('miniserve_request_params_n', 'n as sent, 1 where it was not', CHOICES),
  paramsMaxTokens: instruments.histogram(
    'miniserve_request_params_max_tokens',
    'max_tokens, where it was sent',
    TOKENS,
  ),
  genAiDuration: instruments.histogram(
    'gen_ai_server_request_duration_seconds',
    'GenAI request duration',
    GENAI_DURATION,
    GENAI_LABELS,
  ),
  genAiTtft: instruments.histogram(
    'gen_ai_server_time_to_first_token_seconds',
    'Arrival of the request to its first token',
    GENAI_TTFT,
    GENAI_SUCCESS_LABELS,
  ),
  genAiTpot: instruments.histogram(
    'gen_ai_server_time_per_output_token_seconds',
    'Time per output token after the first',
    GENAI_TPOT,
    GENAI_SUCCESS_LABELS,
  ),
})

/** Counters and histograms that are updated once per request, when its trace closes. */
export class RequestMetrics {
  readonly #counters: ReturnType<typeof countersOf>
  readonly #histograms: ReturnType<typeof histogramsOf>
  readonly interToken = new BulkHistogram(
    'miniserve_inter_token_latency_seconds',
    'Duration of decode steps',
    'model_name',
    INTER_TOKEN,
  )

  constructor(instruments: Instruments) {
    this.#counters = countersOf(instruments)
    this.#histograms = histogramsOf(instruments)
  }

  /** Counts a request whose trace has closed. `isKept`: its trace id may be an exemplar. */
  onRequest(trace: RequestTrace, isKept: boolean): void {
    const counters = this.#counters
    const { facts, input } = trace
    const { ended: ending, generation, phases, ttftSeconds } = facts
    if (!ending) return
    const status = ending.row.statusCode ?? ending.status
    counters.endings.inc({
      route: input.route,
      status: status === null ? 'none' : String(status),
      ending: ending.row.ending,
    })
    if (input.kind === 'other') return
    const exemplarLabels = isKept ? { trace_id: trace.traceId } : undefined
    const observe = (name: keyof ReturnType<typeof histogramsOf>, labels: Record<string, string>, value: number) =>
      this.#histograms[name].observe({ labels, value, ...(exemplarLabels ? { exemplarLabels } : {}) })
    const seconds = (ending.atMs - trace.startMs) / 1000
    const model = generation?.model ?? 'none'
    const genAi = {
      gen_ai_operation_name: generation?.operation ?? 'none',
      gen_ai_provider_name: 'miniserve',
      gen_ai_request_model: model,
    }
    observe('genAiDuration', { ...genAi, error_type: ending.errorType ?? '' }, seconds)
    if (!phases) return
    const byModel = { model_name: model }
    observe('e2e', byModel, seconds)
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
    counters.promptTokens.inc(byModel, phases.tokensIn)
    counters.generationTokens.inc(byModel, phases.tokensOut)
    counters.keyTokens.inc({ ...byModel, key_id: trace.keyId, direction: 'in' }, phases.tokensIn)
    counters.keyTokens.inc({ ...byModel, key_id: trace.keyId, direction: 'out' }, phases.tokensOut)
    counters.cacheQueries.inc(byModel, phases.cacheHits + phases.cacheMisses)
    counters.cacheHits.inc(byModel, phases.cacheHits)
    counters.preemptions.inc(byModel, phases.numPreemptions)
    if (phases.numDraftTokens > 0) {
      counters.drafts.inc({ ...byModel, outcome: 'accepted' }, phases.numAcceptedTokens)
      counters.drafts.inc({ ...byModel, outcome: 'rejected' }, phases.numDraftTokens - phases.numAcceptedTokens)
    }
    for (const reason of phases.finishReasons) counters.success.inc({ ...byModel, finished_reason: reason })
  }
}
