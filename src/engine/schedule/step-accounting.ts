/** What a finished step adds to the counters of the sequences in it. */
import type { EventBus } from '../event-bus.ts'
import type { StepEvent } from '../events.ts'
import type { StepResult } from '../runner/runner.ts'
import type { Schedule, Scheduler } from './scheduler.ts'
import type { Sequence } from './sequence.ts'
import type { ScheduledSequence, ScheduledStep } from './step-draft.ts'

/** What the engine counted over its life. */
export interface EngineCounts {
  prefixCacheQueries: number
  prefixCacheHits: number
  numPreemptions: number
  promptTokens: number
  generationTokens: number
  numDraftTokens: number
  numAcceptedTokens: number
}

/** Counters of an engine, all zero. */
export function newEngineCounts(): EngineCounts {
  return {
    prefixCacheQueries: 0,
    prefixCacheHits: 0,
    numPreemptions: 0,
    promptTokens: 0,
    generationTokens: 0,
    numDraftTokens: 0,
    numAcceptedTokens: 0,
  }
}

/** A step whose result has arrived. */
export interface FinishedStep {
  readonly step: ScheduledStep
  readonly result: StepResult
  /** Sequences whose masks came too late: what the step drew for them does not count. */
  readonly late: ReadonlySet<Sequence>
  /** When it began to have the runner for itself: submitted, and the step before it delivered. */
  readonly startMs: number
  readonly atMs: number
}

/** A prefill chunk was computed. */
export function countChunk({ sequence, numTokens }: ScheduledSequence, { step, result }: FinishedStep): void {
  const { counters } = sequence
  counters.prefillChunks++
  if (result.gpuMicros === null) return
  counters.prefillGpuMicros = (counters.prefillGpuMicros ?? 0) + result.gpuMicros
  counters.prefillGpuShareMicros = (counters.prefillGpuShareMicros ?? 0) + (result.gpuMicros * numTokens) / step.numRows
}

/**
 * A step after the first token drew tokens that count. One that drew nothing but the end token is not counted, as that token is not:
 * tokens = decode steps + 1 without speculation.
 */
export function countDecodeStep({ sequence, numTokens }: ScheduledSequence, finished: FinishedStep): void {
  const { step, result, startMs, atMs } = finished
  const { counters } = sequence
  counters.lastTokenMs = atMs
  counters.decodeSteps++
  counters.decodeStepMicros.push(Math.round((atMs - startMs) * 1000))
  counters.decodeRowSum += step.numRows
  if (result.gpuMicros === null) return
  counters.decodeGpuMicros = (counters.decodeGpuMicros ?? 0) + result.gpuMicros
  counters.decodeGpuShareMicros = (counters.decodeGpuShareMicros ?? 0) + (result.gpuMicros * numTokens) / step.numRows
}

/** Publishes what planning did, and counts it. */
export function publishSchedule(
  { step, preempted }: Schedule,
  bus: EventBus,
  counts: EngineCounts,
  atMs = performance.now(),
): void {
  for (const { sequence, numComputedTokens } of preempted) {
    const { requestId, choice } = sequence
    sequence.waitingSinceMs = atMs
    counts.numPreemptions++
    bus.publish({ type: 'preempted', requestId, choice, atMs, numComputedTokens })
  }
  for (const { sequence, kind, match } of step?.admitted ?? []) {
    const { requestId, choice, counters } = sequence
    const { numTokens: numCachedTokens, missReason } = match
    const numMissTokens = sequence.tokens.length - numCachedTokens
    if (kind === 'first') {
      counters.firstScheduledMs = atMs
      Object.assign(counters, { numCachedTokens, numMissTokens, missReason })
      counts.prefixCacheQueries += sequence.numPromptTokens
      counts.prefixCacheHits += numCachedTokens
    }
    const waitUs = Math.round((atMs - sequence.waitingSinceMs) * 1000)
    bus.publish({
      type: 'scheduled',
      requestId,
      choice,
      atMs,
      kind,
      waitUs,
      numCachedTokens,
      numMissTokens,
      missReason,
    })
  }
}

/** The step as an event. */
export function stepEvent(
  { step, result, startMs, atMs }: FinishedStep,
  { running, waiting, pool }: Scheduler,
): StepEvent {
  return {
    type: 'step',
    stepId: step.plan.stepId,
    startMs,
    atMs,
    numRows: step.numRows,
    numPrefillTokens: step.numPrefillTokens,
    numDecodeTokens: step.numDecodeTokens,
    numRunning: running.length,
    numWaiting: waiting.length,
    numFreeBlocks: pool.numFree,
    numBlocks: pool.numBlocks,
    gpuMicros: result.gpuMicros,
    kernels: result.kernels,
    requestIds: [...new Set(step.sequences.map((entry) => entry.sequence.requestId))],
  }
}
