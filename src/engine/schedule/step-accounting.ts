/** What a finished step adds to the counters of its sequences and to the engine's totals. */
import type { EventBus } from '../event-bus.ts'
import type { StepEvent } from '../events.ts'
import type { EngineCounts } from '../request.ts'
import type { StepResult } from '../runner/runner.ts'
import type { Schedule, Scheduler } from './scheduler.ts'
import type { Sequence } from './sequence.ts'
import type { ScheduledSequence, ScheduledStep } from './step-draft.ts'

/** A step whose result has arrived. */
export interface FinishedStep {
  readonly step: ScheduledStep
  readonly result: StepResult
  /** Sequences whose masks came too late: the step's tokens for them do not count. */
  readonly late: ReadonlySet<Sequence>
  /** When the runner could begin with it: after it was submitted and the previous step was delivered. */
  readonly startMs: number
  readonly atMs: number
}

/** Counts a prefill chunk. */
export function countChunk({ sequence, numTokens }: ScheduledSequence, { step, result }: FinishedStep): void {
  const { counters } = sequence
  counters.prefillChunks++
  if (result.gpuMicros === null) return
  counters.prefillGpuMicros = (counters.prefillGpuMicros ?? 0) + result.gpuMicros
  counters.prefillGpuShareMicros = (counters.prefillGpuShareMicros ?? 0) + (result.gpuMicros * numTokens) / step.numRows
}

/**
 * Counts a step after the first token that drew tokens of the answer. A step that drew only the end token is not counted, nor is that token, so
 * that without speculation tokens = decode steps + 1.
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

/** Publishes the outcome of planning as events and counts it. */
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
