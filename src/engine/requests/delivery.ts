/** Delivers the result of a step to its sequences, as events, counts and ends of choices. */
import type { ActiveRequests, ChoiceOwner } from './active-requests.ts'
import { acceptDrafts } from './choice.ts'
import type { EventBus } from '../event-bus.ts'
import type { MaskQueue } from '../structured/mask-queue.ts'
import { engineFailure } from '../request.ts'
import type { EngineCounts } from '../request.ts'
import type { SequenceResult } from '../runner/runner.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { ScheduledSequence } from '../schedule/step-draft.ts'
import { countChunk, countDecodeStep, stepEvent } from '../schedule/step-accounting.ts'
import type { FinishedStep } from '../schedule/step-accounting.ts'
import type { StepTimes } from '../schedule/step-times.ts'

interface DeliveryParts {
  readonly scheduler: Scheduler
  readonly requests: ActiveRequests
  readonly masks: MaskQueue
  readonly bus: EventBus
  readonly counts: EngineCounts
  /** Measured step times: drafts that cost more than they save are dropped. */
  readonly times: StepTimes
  /** Receives errors that fail only one request. */
  readonly onError: (where: string, error: unknown) => void
}

/** Applies step results: settles sequences, publishes events, ends choices. */
export class Delivery {
  readonly #parts: DeliveryParts

  constructor(parts: DeliveryParts) {
    this.#parts = parts
  }

  deliver(finished: FinishedStep): void {
    const { requests, scheduler, bus, onError } = this.#parts
    const { step, result } = finished
    for (let i = 0; i < step.sequences.length; i++) {
      const [entry, output] = [step.sequences[i], result.sequences[i]]
      const owner = entry === undefined ? undefined : requests.owner(entry.sequence)
      // The choice ended while the step ran: its tokens are dropped.
      if (entry === undefined || output === undefined || owner === undefined) continue
      try {
        this.#deliverTo(owner, entry, output, finished)
      } catch (cause) {
        onError('delivery', cause)
        requests.fail(owner.active, engineFailure(cause))
      }
    }
    bus.publish(stepEvent(finished, scheduler))
  }

  #deliverTo(owner: ChoiceOwner, entry: ScheduledSequence, output: SequenceResult, finished: FinishedStep): void {
    const { scheduler, requests, masks, times } = this.#parts
    const { choice, active } = owner
    const { sequence } = entry
    if (finished.late.has(sequence)) {
      scheduler.settle(entry, 0)
      return
    }
    const tokens = acceptDrafts(entry.drafts, output.tokens)
    scheduler.settle(entry, tokens.length)
    if (output.scores.length > 0) choice.score(entry.startPosition + 1, output.scores)
    if (entry.isPrefill) this.#deliverChunk(owner, entry, finished)
    if (entry.numSampleRows === 0) return
    this.#countDrafts(entry, tokens.length - 1)
    const accepted = choice.accept(tokens, output.logprobs)
    this.#countTokens(entry, accepted.numTokens, finished)
    if (accepted.event !== null) active.stream.push(accepted.event)
    const { overflow } = active.stream
    if (overflow !== null) {
      requests.fail(active, overflow)
      return
    }
    if (accepted.end !== null) {
      requests.finish(owner, accepted.end)
      return
    }
    scheduler.publish(sequence)
    if (choice.matcher !== null) masks.compute(owner, choice.matcher)
    if (sequence.lookup === null) return
    const guesses = sequence.lookup.propose(sequence.tokens.view)
    const numPaying = times.numWorthwhileDrafts(scheduler.running.length, sequence.lookup.acceptance, guesses.length)
    const drafts = guesses.slice(0, numPaying)
    sequence.wantsDrafts = drafts.length > 0
    sequence.drafts = drafts
  }

  #deliverChunk(owner: ChoiceOwner, entry: ScheduledSequence, finished: FinishedStep): void {
    const { choice, active } = owner
    const { sequence, numTokens } = entry
    const { requestId } = sequence
    countChunk(entry, finished)
    const { stepId } = finished.step.plan
    const { atMs } = finished
    this.#parts.bus.publish({ type: 'prefillChunk', requestId, choice: sequence.choice, atMs, stepId, numTokens })
    if (entry.startPosition + numTokens < sequence.numPromptTokens) return
    if (choice.promptEntries !== null) {
      active.stream.push({ type: 'promptLogprobs', promptIndex: choice.promptIndex, entries: choice.promptEntries })
    }
    if (sequence.maxOutputTokens > 0) return
    sequence.counters.scoredMs = atMs
    this.#parts.requests.finish(owner, { reason: 'length', stopReason: null, stop: null })
  }

  #countDrafts({ sequence, drafts }: ScheduledSequence, numAccepted: number): void {
    if (drafts.length === 0) return
    const { counts } = this.#parts
    sequence.lookup?.record(drafts.length, numAccepted, sequence.tokens.length)
    sequence.counters.numDraftTokens += drafts.length
    sequence.counters.numAcceptedTokens += numAccepted
    counts.numDraftTokens += drafts.length
    counts.numAcceptedTokens += numAccepted
  }

  #countTokens(entry: ScheduledSequence, numTokens: number, finished: FinishedStep): void {
    const { bus, counts } = this.#parts
    const { requestId, choice, counters, numPromptTokens } = entry.sequence
    const { atMs } = finished
    counters.numGeneratedTokens += numTokens
    counts.generationTokens += numTokens
    if (counters.firstTokenMs !== null) {
      if (numTokens > 0) countDecodeStep(entry, finished)
      return
    }
    counters.firstTokenMs = atMs
    counters.lastTokenMs = atMs
    counts.promptTokens += numPromptTokens
    bus.publish({ type: 'firstToken', requestId, choice, atMs, stepId: finished.step.plan.stepId })
  }
}
