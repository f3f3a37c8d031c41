/** What a finished step adds to the counters of the sequences in it. */
import type { StepEvent } from './events.ts'
import type { StepResult } from './runner/runner.ts'
import type { ScheduledSequence, ScheduledStep, Scheduler } from './scheduler.ts'

/** A step whose result has arrived. */
export interface FinishedStep {
  readonly step: ScheduledStep
  readonly result: StepResult
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
