/**
 * Turns engine events into llm.prefill, llm.decode, events of the root and, at the steps level, spans of KV operations and steps. Engine
 * events have no async context, so parents come from the SpanRegistry.
 */
import { ROOT_CONTEXT, type Span, SpanStatusCode, type Tracer } from '@opentelemetry/api'
import type {
  CacheMissReason,
  EngineEvent,
  EngineSubscriber,
  FinishedEvent,
  FirstTokenEvent,
  QueuedEvent,
  ScheduledEvent,
} from '../engine/events.ts'
import { exceptionAttributes } from './attributes.ts'
import { runIn } from './context.ts'
import { ROOT_SPAN, SPANS } from './contract.ts'
import type { TraceDetail } from './contract/span-spec.ts'
import { encodeTimeline, percentile } from './decode-timeline.ts'
import { type EndedSequence, type RequestSummary, summarize } from '../engine/summary.ts'
import { KvTracing } from './kv-tracing.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'
import { roundMs } from './stage.ts'
import { createStepTracing, type StepTracing } from './step-tracing.ts'

interface EngineSubscriberParts {
  readonly registry: SpanRegistry
  readonly tracer: Tracer | null
  readonly detail: TraceDetail
  /** The request's trace, open or waiting for its last work; undefined if it is closed. */
  readonly find: (requestId: string) => RequestTrace | undefined
  /** Opens a root for a request whose start was not seen; undefined if the request has been closed. */
  readonly openLazy: (requestId: string) => RequestTrace | undefined
}

interface Cached {
  readonly hits: number
  readonly misses: number
  readonly reason: CacheMissReason
}

/** What is known of a request between its first `queued` and its last `finished`. */
interface Running {
  readonly trace: RequestTrace
  readonly release: () => void
  readonly isLazy: boolean
  numQueued: number
  readonly ended: EndedSequence[]
  /** By choice. */
  readonly cached: Map<number, Cached>
  queueMicros: number
  firstScheduledMs: number | null
  firstTokenMs: number | null
  firstStepId: number | null
  numChunks: number
  errorCode: string | null
  error: Error | null
}

/** Turns engine events into `llm.prefill` and `llm.decode`, and gives the request's trace its counts. */
export class TracingSubscriber implements EngineSubscriber {
  readonly name = 'tracing'
  readonly #parts: EngineSubscriberParts
  readonly #running = new Map<string, Running>()
  readonly #kv: KvTracing
  readonly #steps: StepTracing | null

  constructor(parts: EngineSubscriberParts) {
    this.#parts = parts
    const { tracer, registry, find, openLazy, detail } = parts
    this.#steps =
      tracer && (detail === 'steps' || detail === 'kernels')
        ? createStepTracing({
            tracer,
            registry,
            find,
            decodeStartMs: (requestId) => this.#running.get(requestId)?.firstTokenMs ?? null,
            withKernels: detail === 'kernels',
          })
        : null
    this.#kv = new KvTracing({
      registry,
      hasSpans: this.#steps !== null,
      traceOf: (requestId) => find(requestId) ?? openLazy(requestId),
      firstTokenMs: (requestId) => this.#running.get(requestId)?.firstTokenMs ?? null,
    })
  }

  /** Requests and KV operations in flight. */
  get size(): number {
    return this.#running.size + this.#kv.size
  }

  onEvent(event: EngineEvent): void {
    switch (event.type) {
      case 'grammar': {
        const { durationUs, isCached, ok, atMs } = event
        this.#parts
          .find(event.requestId)
          ?.event('grammar.compiled', { duration_us: durationUs, cached: isCached, ok }, atMs)
        return
      }
      case 'queued':
        return this.#onQueued(event)
      case 'scheduled':
        return this.#onScheduled(event)
      case 'prefillChunk': {
        const running = this.#running.get(event.requestId)
        if (running) running.numChunks += 1
        return running?.trace.activity.touch()
      }
      case 'firstToken':
        return this.#onFirstToken(event)
      case 'preempted': {
        const running = this.#running.get(event.requestId)
        running?.trace.event('request.preempted', { choice: choiceOf(running, event.choice) }, event.atMs)
        return
      }
      case 'finished':
        return this.#onFinished(event)
      case 'kvSubmitted':
        return this.#kv.onSubmitted(event)
      case 'kvDone':
        return this.#kv.onDone(event)
      case 'step':
        for (const requestId of event.requestIds) this.#running.get(requestId)?.trace.activity.touch()
        this.#steps?.onStep(event)
        return
      // What the request's trace itself publishes.
      case 'requestAccepted':
      case 'requestStarted':
      case 'requestFinished':
        return
      default:
        throw new Error(`unknown event ${String(event satisfies never)}`)
    }
  }

  #onQueued(event: QueuedEvent): void {
    let running = this.#running.get(event.requestId)
    if (!running) {
      const known = this.#parts.find(event.requestId)
      const trace = known ?? this.#parts.openLazy(event.requestId)
      if (!trace) return
      running = {
        trace,
        release: trace.hold(),
        isLazy: known === undefined,
        numQueued: 0,
        ended: [],
        cached: new Map(),
        queueMicros: 0,
        firstScheduledMs: null,
        firstTokenMs: null,
        firstStepId: null,
        numChunks: 0,
        errorCode: null,
        error: null,
      }
      this.#running.set(event.requestId, running)
      trace.event('request.queued', {}, event.atMs)
      const { requestId } = event
      // The watchdog and the shutdown close a trace before the last `finished`.
      trace.beforeClose(() => this.#settle(requestId))
    }
    running.numQueued += 1
    running.trace.facts.accepted(event.numPromptTokens, event.choice % choicesPerPrompt(running) === 0)
  }

  #onScheduled(event: ScheduledEvent): void {
    const running = this.#running.get(event.requestId)
    if (!running) return
    const { trace } = running
    trace.event(
      'request.scheduled',
      { kind: event.kind, wait_us: Math.round(event.waitUs), choice: choiceOf(running, event.choice) },
      event.atMs,
    )
    if (event.kind === 'resume') return
    running.cached.set(event.choice, {
      hits: event.numCachedTokens,
      misses: event.numMissTokens,
      reason: event.missReason,
    })
    if (running.firstScheduledMs !== null) return
    running.firstScheduledMs = event.atMs
    running.queueMicros = Math.round(event.waitUs)
    this.#open(trace, 'llm.prefill', event.atMs)
  }

  #onFirstToken(event: FirstTokenEvent): void {
    const running = this.#running.get(event.requestId)
    if (!running || running.firstTokenMs !== null) return
    running.firstTokenMs = event.atMs
    running.firstStepId = event.stepId
    const { trace } = running
    this.#logPrefill(running, event.atMs)
    const decode = this.#open(trace, 'llm.decode', event.atMs)
    if (decode) trace.event('llm.first_token', {}, event.atMs, { span: decode, name: 'llm.decode' })
  }

  /** Writes the log line of a complete prefill. Its span must still be open, because the line names it. */
  #logPrefill(running: Running, endMs: number): void {
    const { trace } = running
    const prefill = this.#parts.registry.get(trace.requestId, 'llm.prefill')
    const { hits, misses } = cachedOf(running)
    runIn(prefill?.context ?? trace.context, () =>
      trace.log.info(SPANS['llm.prefill'].logEvent, {
        'llm.tokens.in': hits + misses,
        'llm.cache.hits': hits,
        'llm.cache.misses': misses,
        'llm.queue.us': running.queueMicros,
        duration_ms: roundMs(endMs - (running.firstScheduledMs ?? endMs)),
      }),
    )
  }

  #onFinished(event: FinishedEvent): void {
    const running = this.#running.get(event.requestId)
    if (!running) return
    running.ended.push({ choice: event.choice, reason: event.reason, stop: event.stop, counters: event.counters })
    running.errorCode ??= event.errorCode
    running.error ??= event.error ?? null
    const expected = Math.max(running.numQueued, running.trace.facts.generation?.numChoices ?? 1)
    if (running.ended.length < expected) return
    this.#settle(event.requestId, event.atMs)
  }

  /** Ends the request's phases and reports its counts: either the engine is done, or the trace is being closed. */
  #settle(requestId: string, atMs: number = performance.now()): void {
    const running = this.#running.get(requestId)
    if (!running) return
    this.#running.delete(requestId)
    const { trace } = running
    try {
      const isCut = running.ended.length === 0
      const summary = summarize(running.ended, choicesPerPrompt(running))
      const phases = isCut ? { ...summary, ...knownOf(running) } : summary
      if (!isCut) trace.setPhases(phases)
      this.#endPrefill(running, phases, atMs)
      this.#endDecode(running, phases, atMs)
      this.#steps?.forget(requestId)
      if (running.isLazy) trace.finish({ ending: LAZY_ENDINGS[phases.stopReason], status: null })
    } finally {
      running.release()
    }
  }

  #endPrefill(running: Running, phases: RequestSummary, atMs: number): void {
    const { trace } = running
    const isScored = phases.stopReason === 'length' && phases.firstTokenMs === null && phases.prefillEndMs !== null
    if (isScored) this.#logPrefill(running, phases.prefillEndMs)
    const span = this.#parts.registry.pop(trace.requestId, 'llm.prefill')?.span
    if (!span) return
    span.setAttributes(
      trace.checked('llm.prefill', {
        'llm.tokens.in': phases.tokensIn,
        'llm.cache.hits': phases.cacheHits,
        'llm.cache.misses': phases.cacheMisses,
        'llm.cache.miss_reason': phases.missReason,
        'llm.queue.us': phases.queueMicros,
        'llm.prefill.chunks': phases.prefillChunks,
        'llm.recomputed_tokens': phases.recomputedTokens || undefined,
        'llm.choices': phases.numChoices > 1 ? phases.numChoices : undefined,
        'llm.gpu.us': phases.prefillGpuMicros,
        'llm.gpu.share_us': phases.prefillGpuShareMicros,
      }),
    )
    const endMs = running.firstTokenMs ?? (isScored ? phases.prefillEndMs : atMs)
    if (phases.firstTokenMs === null) markCut(span, phases, running, endMs)
    this.#kv.prefillEnded(trace, endMs)
    span.end(trace.time(endMs))
  }

  #endDecode(running: Running, phases: RequestSummary, atMs: number): void {
    const { trace } = running
    const found = this.#parts.registry.pop(trace.requestId, 'llm.decode')
    if (!found) return
    const { span, context } = found
    const steps = phases.stepMicros
    const sorted = Float64Array.from(steps).sort()
    const meanStepMs = steps.length === 0 ? 0 : steps.reduce((sum, us) => sum + us, 0) / steps.length / 1000
    const values = {
      'llm.tokens.out': phases.tokensOut,
      'llm.tokens.reasoning': phases.reasoningTokens || undefined,
      'llm.decode.steps': phases.decodeSteps,
      'llm.decode.mean_step_ms': meanStepMs,
      'llm.stop_reason': phases.stopReason,
      'llm.stop_kind': phases.stop ?? undefined,
    }
    span.setAttributes(
      trace.checked('llm.decode', {
        ...values,
        'llm.decode.timeline': encodeTimeline(steps),
        'llm.decode.p50_us': percentile(sorted, 0.5),
        'llm.decode.p95_us': percentile(sorted, 0.95),
        'llm.decode.max_us': percentile(sorted, 1),
        'llm.batch.mean_rows': phases.meanRows,
        'llm.choices': phases.numChoices > 1 ? phases.numChoices : undefined,
        'llm.draft.tokens': phases.numDraftTokens || undefined,
        'llm.draft.accepted': phases.numDraftTokens ? phases.numAcceptedTokens : undefined,
        'llm.gpu.us': phases.decodeGpuMicros,
        'llm.gpu.share_us': phases.decodeGpuShareMicros,
        'llm.sched.first_step': this.#steps ? running.firstStepId : undefined,
        'llm.sched.last_step': this.#steps?.lastStepOf(trace.requestId),
      }),
    )
    const endMs = phases.lastTokenMs ?? atMs
    markCut(span, phases, running, endMs)
    runIn(context, () =>
      trace.log.info(SPANS['llm.decode'].logEvent, {
        ...values,
        duration_ms: roundMs(endMs - (running.firstTokenMs ?? endMs)),
      }),
    )
    span.end(trace.time(endMs))
  }

  #open(trace: RequestTrace, name: 'llm.prefill' | 'llm.decode', atMs: number): Span | null {
    const context = this.#parts.registry.getContext(trace.requestId, ROOT_SPAN) ?? ROOT_CONTEXT
    return trace.startSpan(name, context, atMs, {})
  }
}

const LAZY_ENDINGS = { stop: 'success', length: 'success', abort: 'closed_early', error: 'engine_error' } as const

/** Marks a phase that an abort or an error cut short. */
function markCut(span: Span, phases: RequestSummary, { errorCode, error, trace }: Running, atMs: number): void {
  if (phases.stopReason !== 'abort' && phases.stopReason !== 'error') return
  const cause = errorCode ?? phases.stopReason
  span.setAttribute('error.type', cause)
  span.setStatus({ code: SpanStatusCode.ERROR, message: cause })
  if (error) span.addEvent('exception', exceptionAttributes(error), trace.time(atMs))
}

/** What is known of a request that the engine has not ended. The watchdog and the shutdown close such requests. */
function knownOf(running: Running): Partial<RequestSummary> {
  const { hits, misses, reason } = cachedOf(running)
  return {
    tokensIn: hits + misses,
    cacheHits: hits,
    cacheMisses: misses,
    missReason: reason,
    numChoices: running.numQueued,
    queueMicros: running.queueMicros,
    prefillChunks: running.numChunks,
    firstTokenMs: running.firstTokenMs,
    stopReason: 'abort',
  }
}

/** Tokens of all prompts that were found in the prefix cache, and that were not. A prompt counts once, whatever `n` is. */
function cachedOf(running: Running): Cached {
  const prompts = [...running.cached].flatMap(([choice, cached]) =>
    choice % choicesPerPrompt(running) === 0 ? [cached] : [],
  )
  return {
    hits: prompts.reduce((sum, { hits }) => sum + hits, 0),
    misses: prompts.reduce((sum, { misses }) => sum + misses, 0),
    reason: prompts.find(({ reason }) => reason !== 'none')?.reason ?? 'none',
  }
}

const choicesPerPrompt = (running: Running): number => Math.max(1, running.trace.facts.generation?.n ?? 1)

/** The index of a sequence; undefined if the request has only one. */
const choiceOf = (running: Running, choice: number): number | undefined =>
  (running.trace.facts.generation?.numChoices ?? running.numQueued) > 1 ? choice : undefined
