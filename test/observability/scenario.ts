/** Requests for the tests of observability: the server's and the engine's part played in process, against the real SDK. */
import type { EngineEvent, FinishReason, SequenceCounters } from '../../src/engine/events.ts'
import { openStage, stage } from '../../src/observability/context.ts'
import { Observability, type ObservabilityOptions } from '../../src/observability/observability.ts'
import type { OpenRequestInput } from '../../src/observability/root-span.ts'
import type { RequestTrace } from '../../src/observability/request-trace.ts'
import type { StoredTrace } from '../../src/observability/stored-trace.ts'

export interface LogLine {
  readonly level: string
  readonly msg: string
  readonly trace_id?: string
  readonly span_id?: string
  readonly [field: string]: unknown
}

export interface TestObservability extends Observability {
  readonly lines: readonly LogLine[]
}

export const ADMIN = { keyId: 'admin', isAdmin: true } as const

/** A server's observability without files and stdout; log lines are kept. */
export function testObservability(options: Partial<ObservabilityOptions> = {}): TestObservability {
  const lines: LogLine[] = []
  const observability = new Observability({
    serviceVersion: 'test',
    otlpEndpoint: null,
    traceDetail: 'contract',
    traceStoreSize: 1000,
    trustRemote: true,
    captureContent: false,
    logLevel: 'debug',
    logFile: null,
    logStream: { write: (line) => void lines.push(JSON.parse(line) as LogLine) },
    ...options,
  })
  return Object.assign(observability, { lines })
}

let numRequests = 0

export function open(observability: Observability, input: Partial<OpenRequestInput> = {}): RequestTrace {
  numRequests += 1
  return observability.openRequest({
    method: 'POST',
    route: '/v1/completions',
    path: '/v1/completions',
    scheme: 'http',
    host: '127.0.0.1',
    port: 8000,
    headers: {},
    requestId: `cmpl-${numRequests}`,
    kind: 'generation',
    ...input,
  })
}

export interface GenerationPlan {
  readonly numPromptTokens: number
  readonly numCachedTokens: number
  readonly stepMicros: readonly number[]
  readonly reason: FinishReason
  readonly choices: number
  readonly n: number
}

const PLAN: GenerationPlan = {
  numPromptTokens: 12,
  numCachedTokens: 4,
  stepMicros: [1000, 2000, 3000],
  reason: 'length',
  choices: 1,
  n: 1,
}

const NO_COUNTERS = {
  numRecomputedTokens: 0,
  grammarMs: 0,
  numReasoningTokens: 0,
  numPreemptions: 0,
  scoredMs: null,
  prefillGpuMicros: null,
  prefillGpuShareMicros: null,
  decodeGpuMicros: null,
  decodeGpuShareMicros: null,
  numDraftTokens: 0,
  numAcceptedTokens: 0,
} as const

/** Events of one sequence up to its first token. */
export function startEvents(requestId: string, choice: number, plan: GenerationPlan): EngineEvent[] {
  const now = () => performance.now()
  const cache = {
    numCachedTokens: plan.numCachedTokens,
    numMissTokens: plan.numPromptTokens - plan.numCachedTokens,
    missReason: 'diverged',
  } as const
  return [
    { type: 'scheduled', requestId, choice, atMs: now(), kind: 'first', waitUs: 120.4, ...cache },
    { type: 'prefillChunk', requestId, choice, atMs: now(), stepId: 1, numTokens: 8 },
    { type: 'firstToken', requestId, choice, atMs: now(), stepId: 1 },
  ]
}

export const queuedEvent = (requestId: string, choice: number, plan: GenerationPlan): EngineEvent => ({
  type: 'queued',
  requestId,
  choice,
  atMs: performance.now(),
  numPromptTokens: plan.numPromptTokens,
})

export function finishedEvent(
  requestId: string,
  choice: number,
  plan: GenerationPlan,
  times: { readonly arrivedMs: number; readonly scheduledMs: number | null; readonly firstTokenMs: number | null },
): EngineEvent {
  const hasToken = times.firstTokenMs !== null
  const lastTokenMs = performance.now()
  const counters: SequenceCounters = {
    ...NO_COUNTERS,
    numPromptTokens: plan.numPromptTokens,
    numCachedTokens: plan.numCachedTokens,
    numMissTokens: plan.numPromptTokens - plan.numCachedTokens,
    missReason: 'diverged',
    numGeneratedTokens: hasToken ? plan.stepMicros.length + 1 : 0,
    arrivedMs: times.arrivedMs,
    firstScheduledMs: times.scheduledMs,
    firstTokenMs: times.firstTokenMs,
    lastTokenMs: hasToken ? lastTokenMs : null,
    prefillChunks: times.scheduledMs === null ? 0 : 1,
    decodeSteps: hasToken ? plan.stepMicros.length : 0,
    decodeStepMicros: hasToken ? plan.stepMicros : [],
    decodeRowSum: hasToken ? plan.stepMicros.length * 2 : 0,
  }
  return {
    type: 'finished',
    requestId,
    choice,
    atMs: lastTokenMs,
    reason: plan.reason,
    stop: plan.reason === 'stop' ? 'eos' : null,
    counters,
    errorCode: plan.reason === 'error' ? 'engine_error' : null,
  }
}

/** How far a request gets before its ending is recorded. */
export type Progress = 'opened' | 'tokenized' | 'queued' | 'scheduled' | 'decoding' | 'generated' | 'formatting'
const ORDER: readonly Progress[] = ['opened', 'tokenized', 'queued', 'scheduled', 'decoding', 'generated', 'formatting']

export interface PlayedRequest {
  readonly trace: RequestTrace
  /** The engine's last words, for requests that ended before it was done. */
  finishEngine(reason: FinishReason): void
}

/**
 * Plays a request up to a point. The engine's part is spoken by events outside the request's context, as the real one does; what is
 * left of it is spoken by `finishEngine`.
 */
export async function play(
  observability: Observability,
  upTo: Progress,
  options: {
    readonly plan?: Partial<GenerationPlan>
    readonly input?: Partial<OpenRequestInput>
    readonly isStreamed?: boolean
    readonly rag?: boolean
  } = {},
): Promise<PlayedRequest> {
  const plan = { ...PLAN, ...options.plan }
  const trace = open(observability, options.input)
  const { requestId } = trace
  const reached = (point: Progress) => ORDER.indexOf(upTo) >= ORDER.indexOf(point)
  const publish = (event: EngineEvent) => observability.engineSubscriber.onEvent(event)
  const choices = Array.from({ length: plan.choices }, (_, choice) => choice)
  const times = { arrivedMs: 0, scheduledMs: null as number | null, firstTokenMs: null as number | null }
  let isEngineDone = true

  if (reached('tokenized')) {
    await trace.run(async () => {
      trace.setGeneration({
        operation: 'text_completion',
        model: 'tiny',
        numChoices: plan.choices,
        n: plan.n,
        maxTokens: 16,
        temperature: 1,
        stream: options.isStreamed ?? false,
      })
      await stage('tokenize.input', async (span) => {
        await Promise.resolve()
        span.set({ 'llm.tokens.in': plan.numPromptTokens, 'tokenizer.name': 'bpe' })
      })
      if (options.rag) await retrieve()
    })
  }
  if (reached('queued')) {
    times.arrivedMs = performance.now()
    isEngineDone = false
    for (const choice of choices) publish(queuedEvent(requestId, choice, plan))
  }
  if (reached('scheduled')) {
    times.scheduledMs = performance.now()
    for (const choice of choices) for (const event of startEvents(requestId, choice, plan).slice(0, 2)) publish(event)
  }
  if (reached('decoding')) {
    times.firstTokenMs = performance.now()
    for (const choice of choices) for (const event of startEvents(requestId, choice, plan).slice(2)) publish(event)
  }
  const finishEngine = (reason: FinishReason) => {
    if (isEngineDone) return
    isEngineDone = true
    for (const choice of choices) publish(finishedEvent(requestId, choice, { ...plan, reason }, times))
  }
  if (reached('generated')) finishEngine(plan.reason)
  if (reached('formatting')) {
    await trace.run(async () => {
      const output = openStage('format.output')
      await Promise.resolve()
      trace.setResult({
        tokensIn: plan.numPromptTokens,
        tokensOut: (plan.stepMicros.length + 1) * plan.choices,
        cachedTokens: plan.numCachedTokens,
        finishReasons: choices.map(() => plan.reason),
        timeToFirstTokenSeconds: 0.01,
        isScored: false,
      })
      output.end({
        'llm.tokens.out': (plan.stepMicros.length + 1) * plan.choices,
        'output.format': options.isStreamed ? 'sse' : 'text',
      })
    })
  }
  return { trace, finishEngine }
}

async function retrieve(): Promise<void> {
  await stage('rag.retrieve', { 'rag.index.name': 'docs' }, async (retrieval) => {
    await stage('embed.query', { 'rag.embed.model': 'mini' }, async (span) => span.set({ 'rag.embed.dimensions': 64 }))
    await stage('vector.search', { 'rag.search.top_k': 8 }, async (span) =>
      span.set({ 'rag.search.candidates': 8, 'rag.search.max_score': 1 }),
    )
    await stage(
      'rerank',
      { 'rag.rerank.model': 'cross', 'rag.rerank.candidates': 8, 'rag.rerank.top_n': 3 },
      async () => {},
    )
    retrieval.set({ 'rag.docs.retrieved': 8, 'rag.docs.reranked': 3 })
  })
}

/** The one stored tree of a trace. */
export function storedTree(observability: Observability, traceId: string): StoredTrace {
  const trees = observability.store.get(traceId, ADMIN)
  const [tree] = trees
  if (!tree || trees.length !== 1) throw new Error(`expected one stored tree of ${traceId}, found ${trees.length}`)
  return tree
}
