/**
 * Sampled steps of the engine (levels steps and kernels). engine.step is the root of a separate trace, with a link to every request that it
 * served. Each of these requests gets a decode.step span with a link back.
 */
import { type Context, ROOT_CONTEXT, type Span, type SpanContext, type Tracer } from '@opentelemetry/api'
import type { StepEvent } from '../engine/events.ts'
import { contractAttributes } from './attributes.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

/** One step in SAMPLE_EVERY is traced, and every step that takes more than SLOW_FACTOR times the mean. */
const SAMPLE_EVERY = 20
const SLOW_FACTOR = 4
/** The SDK keeps 128 links per span. */
const MAX_LINKS = 128

export interface StepTracing {
  onStep(event: StepEvent): void
  lastStepOf(requestId: string): number | undefined
  forget(requestId: string): void
}

interface StepTracingParts {
  readonly tracer: Tracer
  readonly registry: SpanRegistry
  readonly find: (requestId: string) => RequestTrace | undefined
  /** When the request's llm.decode began; null before. */
  readonly decodeStartMs: (requestId: string) => number | null
  /** Whether the GPU time of each kernel is an event of the step. */
  readonly withKernels: boolean
}

/** Creates the recorder of `engine.step` traces: sampled engine steps, linked to the requests that they served. */
export function createStepTracing({
  tracer,
  registry,
  find,
  decodeStartMs,
  withKernels,
}: StepTracingParts): StepTracing {
  const lastSteps = new Map<string, number>()
  let numSteps = 0
  let meanMs = 0

  /** The span of a request's current phase. */
  const spanOf = (requestId: string) => registry.get(requestId, 'llm.decode') ?? registry.get(requestId, 'llm.prefill')

  function isSampled(event: StepEvent): boolean {
    const ms = event.atMs - event.startMs
    const isSlow = numSteps > SAMPLE_EVERY && ms > SLOW_FACTOR * meanMs
    meanMs = numSteps === 0 ? ms : meanMs * 0.95 + ms * 0.05
    numSteps += 1
    return isSlow || numSteps % SAMPLE_EVERY === 1
  }

  function traceStep(event: StepEvent, served: readonly RequestTrace[]): void {
    const anchor = served[0]?.anchor
    if (!anchor) return
    const links = served.slice(0, MAX_LINKS).flatMap(({ requestId }) => {
      const span = spanOf(requestId)?.span
      return span ? [{ context: span.spanContext() }] : []
    })
    const step = tracer.startSpan(
      'engine.step',
      { root: true, startTime: anchor.toHrTime(event.startMs), links, attributes: stepAttributes(event) },
      ROOT_CONTEXT,
    )
    if (withKernels) addKernels(step, event)
    step.end(anchor.toHrTime(event.atMs))
    for (const trace of served) linkBack(trace, event, step.spanContext())
  }

  function linkBack(trace: RequestTrace, event: StepEvent, step: SpanContext): void {
    const decode: Context | undefined = registry.getContext(trace.requestId, 'llm.decode')
    const startMs = decodeStartMs(trace.requestId)
    // The step that made the first token began before llm.decode, so it is not its child.
    if (!decode || startMs === null || event.startMs < startMs) return
    const child = trace.startSpan('decode.step', decode, event.startMs, {
      'engine.step.id': event.stepId,
      'engine.step.rows': event.numRows,
    })
    child?.addLink({ context: step })
    child?.end(trace.time(event.atMs))
  }

  return {
    onStep(event) {
      const served = event.requestIds.map(find).filter((trace) => trace !== undefined)
      for (const { requestId } of served) lastSteps.set(requestId, event.stepId)
      if (isSampled(event) && served.length > 0) traceStep(event, served)
    },
    lastStepOf: (requestId) => lastSteps.get(requestId),
    forget: (requestId) => void lastSteps.delete(requestId),
  }
}

function stepAttributes(event: StepEvent) {
  return contractAttributes(
    'engine.step',
    {
      'engine.step.id': event.stepId,
      'engine.step.rows': event.numRows,
      'engine.step.prefill_tokens': event.numPrefillTokens,
      'engine.step.decode_tokens': event.numDecodeTokens,
      'engine.running': event.numRunning,
      'engine.waiting': event.numWaiting,
      'engine.kv.free_blocks': event.numFreeBlocks,
      'engine.kv.blocks': event.numBlocks,
      'llm.gpu.us': event.gpuMicros === null ? undefined : Math.round(event.gpuMicros),
    },
    () => {},
  )
}

function addKernels(step: Span, event: StepEvent): void {
  for (const { kernel, micros, count } of event.kernels ?? []) {
    step.addEvent('gpu.kernel', { kernel, us: Math.round(micros), count })
  }
}
