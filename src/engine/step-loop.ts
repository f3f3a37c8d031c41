/**
 * The step loop: schedule, run, deliver, with as many steps in flight as may be planned ahead. It also deals with failed steps.
 */
import type { EventBus } from './event-bus.ts'
import { type EngineCounts, EngineError, engineFailure } from './request.ts'
import type { ActiveRequests } from './requests/active-requests.ts'
import type { Delivery } from './requests/delivery.ts'
import { type Runner, RunnerError, type StepResult } from './runner/runner.ts'
import type { Scheduler } from './schedule/scheduler.ts'
import type { Sequence } from './schedule/sequence.ts'
import { publishSchedule } from './schedule/step-accounting.ts'
import { type ScheduledStep, SequenceFault } from './schedule/step-draft.ts'
import type { StepTimes } from './schedule/step-times.ts'
import type { FoundMasks, MaskQueue } from './structured/mask-queue.ts'

interface StepLoopParts {
  readonly runner: Runner
  readonly scheduler: Scheduler
  readonly requests: ActiveRequests
  readonly masks: MaskQueue
  readonly delivery: Delivery
  readonly bus: EventBus
  readonly counts: EngineCounts
  readonly times: StepTimes
  /** Steps to plan before the tokens of the last one are known, if every running sequence allows it. */
  readonly runAhead: 0 | 1
  readonly onError: (where: string, error: unknown) => void
}

const NO_MASKS: Pick<FoundMasks, 'late' | 'heldMs'> = { late: new Set(), heldMs: 0 }

interface StepInFlight {
  readonly step: ScheduledStep
  readonly result: Promise<StepResult>
  /** null: all masks were known when the step was planned. */
  readonly masks: Promise<FoundMasks> | null
  readonly submittedMs: number
  /** Its tokens have been delivered, or never will be. */
  readonly over: Promise<void>
  readonly setOver: () => void
}

/** Plans steps, runs up to `runAhead` of them ahead of the last result, and delivers results in order. */
export class StepLoop {
  readonly #parts: StepLoopParts
  readonly #inFlight: StepInFlight[] = []
  #lastDeliveredMs = 0
  /** The pool for which steps are planned; null: unknown until the next step's result, and no step is planned ahead of that one. */
  #poolId: number | null = 0
  #isStopped = false
  /** Something has changed since the loop last looked. `#wake` ends its sleep. */
  #isSignalled = false
  #wake: () => void = () => {}
  #ended: Promise<void> = Promise.resolve()

  constructor(parts: StepLoopParts) {
    this.#parts = parts
  }

  /** The pool for which steps are planned; null while it is unknown. */
  get poolId(): number | null {
    return this.#poolId
  }

  /** Resolves when the loop has ended, after `stop`. */
  get ended(): Promise<void> {
    return this.#ended
  }

  /** Starts the loop in the caller's async context. */
  start(): void {
    this.#ended = this.#run()
  }

  /** Wakes the loop when there may be something to do. */
  signal(): void {
    this.#isSignalled = true
    this.#wake()
  }

  /** Plans no further steps. */
  stop(): void {
    this.#isStopped = true
    this.signal()
  }

  async #run(): Promise<void> {
    while (!this.#isOver()) {
      this.#isSignalled = false
      const isIdle = !(await this.#step())
      if (isIdle && !this.#isSignalled) await new Promise<void>((resolve) => (this.#wake = resolve))
      // A runner in this thread resolves in microtasks only. Without this pause, sockets and timers would not be served.
      else await new Promise<void>((resolve) => setImmediate(resolve))
    }
    for (const { setOver } of this.#inFlight) setOver()
  }

  #isOver(): boolean {
    return this.#isStopped
  }

  get #waitsForMasks(): boolean {
    const { scheduler, masks } = this.#parts
    return masks.numPending > 0 && scheduler.waitsForMasks
  }

  /** Schedules, runs and delivers one step. False: there is nothing to do. */
  async #step(): Promise<boolean> {
    let delivering: ScheduledStep | null = null
    let oldest: StepInFlight | undefined
    try {
      if (this.#waitsForMasks) await this.#parts.masks.wait()
      this.#fill()
      oldest = this.#inFlight.shift()
      if (oldest === undefined) return false
      delivering = oldest.step
      const result = await oldest.result
      const { late, heldMs } = (await oldest.masks) ?? NO_MASKS
      this.#poolId = result.poolId ?? 0
      const atMs = performance.now()
      const startMs = Math.max(oldest.submittedMs, this.#lastDeliveredMs)
      this.#lastDeliveredMs = atMs
      const { numDecodeTokens, numPrefillTokens } = oldest.step
      // Waits for masks are limited by these times. If the times included the wait, each slow mask would lengthen the next wait.
      const stepMs = Math.max(0, Math.min(atMs - startMs, result.computeMs) - heldMs)
      this.#parts.times.record(numDecodeTokens, numPrefillTokens, stepMs)
      this.#parts.delivery.deliver({ step: oldest.step, result, late, startMs, atMs })
      oldest.setOver()
      // Submit the next step at once, so that the runner computes while streams are written and masks arrive.
      delivering = null
      if (!this.#waitsForMasks && !this.#isOver()) this.#fill()
    } catch (error) {
      oldest?.setOver()
      // The pool was replaced without a failed step: while nothing ran, or during a read of blocks.
      if (error instanceof RunnerError && error.code === 'pool_replaced') await this.#startOver()
      else await this.#failSteps(error, culpritOf(error, delivering))
    }
    return true
  }

  /** Discards planned steps; running sequences compute their tokens again. @param culprit a sequence that fails instead, and its error */
  async #startOver(culprit?: readonly [Sequence, EngineError]): Promise<void> {
    this.#poolId = null
    await this.#settleAll()
    this.#parts.scheduler.invalidate()
    if (culprit !== undefined) this.#parts.requests.failSequence(...culprit)
    publishSchedule({ step: null, preempted: this.#parts.scheduler.restart() }, this.#parts.bus, this.#parts.counts)
  }

  /** Plans and submits as many steps as may be in flight. */
  #fill(): void {
    while (this.#inFlight.length <= (this.#poolId === null ? 0 : this.#parts.runAhead)) {
      const schedule = this.#parts.scheduler.schedule()
      publishSchedule(schedule, this.#parts.bus, this.#parts.counts)
      const { step } = schedule
      // Preemption has made room, so there may be a step now.
      if (step === null && schedule.preempted.length > 0) continue
      if (step === null) return
      const masks = step.unmasked.size === 0 ? null : this.#masks(step, this.#inFlight.at(-1)?.over ?? null)
      const result = this.#execute(step, masks)
      // Results are awaited in order. If an earlier step fails, this one must not become an unhandled rejection.
      result.catch(() => {})
      let setOver = (): void => {}
      const over = new Promise<void>((resolve) => (setOver = resolve))
      this.#inFlight.push({ step, result, masks, submittedMs: performance.now(), over, setOver })
    }
  }

  #masks({ unmasked, numDecodeTokens }: ScheduledStep, previous: Promise<void> | null): Promise<FoundMasks> {
    const { masks, times } = this.#parts
    return masks.collect(unmasked, times.stepMs(numDecodeTokens) ?? 0, previous)
  }

  /** Waits until all steps in flight have ended in some way. Their results are not delivered. */
  async #settleAll(): Promise<void> {
    const inFlight = this.#inFlight.splice(0)
    // A step may wait for masks that depend on the tokens of the step before it.
    for (const { setOver } of inFlight) setOver()
    await Promise.allSettled(inFlight.map(({ result }) => result))
  }

  /** Submits a step. If it serves a single request, it runs in that request's context. */
  #execute({ plan, sequences }: ScheduledStep, found: Promise<FoundMasks> | null): Promise<StepResult> {
    const { runner } = this.#parts
    const submitted = this.#poolId === null ? plan : { ...plan, poolId: this.#poolId }
    const [first, ...others] = new Set(sequences.map(({ sequence }) => sequence.requestId))
    const masks = found?.then((known) => known.masks)
    if (first === undefined || others.length > 0) return runner.execute(submitted, masks)
    return this.#parts.bus.run({ requestId: first, part: 'step' }, () => runner.execute(submitted, masks))
  }

  /**
   * Handles a failed step, which also voids the steps after it. If one sequence is to blame, its request fails and the others compute their tokens
   * again. Otherwise the pool's content is lost, and all running sequences fail. Waiting ones continue, unless the engine itself is at fault.
   */
  async #failSteps(error: unknown, culprit: Sequence | null): Promise<void> {
    if (!this.#isOver()) this.#parts.onError('step', error)
    if (culprit !== null) {
      await this.#startOver([culprit, engineFailure(error)])
      return
    }
    this.#poolId = null
    await this.#settleAll()
    const isRunnerFault = error instanceof RunnerError
    const isLost = isRunnerFault && error.code === 'device_lost'
    const message = 'the device was lost while the request ran; it may be sent again'
    const failure = isLost ? new EngineError('device_lost', message, null, { cause: error }) : engineFailure(error)
    const running = [...this.#parts.scheduler.running]
    this.#parts.scheduler.invalidate()
    for (const sequence of running) this.#parts.requests.failSequence(sequence, failure)
    if (!isRunnerFault) this.#parts.requests.failAll(failure)
  }
}

/** The sequence whose plan made the step fail before it ran; null: the failure cannot be attributed to one sequence. */
function culpritOf(error: unknown, step: ScheduledStep | null): Sequence | null {
  if (error instanceof SequenceFault) return error.sequence
  if (!(error instanceof RunnerError) || error.code !== 'engine_error' || error.sequence === null) return null
  return step?.sequences[error.sequence]?.sequence ?? null
}
