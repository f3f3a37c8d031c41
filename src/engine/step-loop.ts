/**
 * The step loop: schedule, run, deliver, with as many steps in flight as may be planned ahead. Also handles the sequences of a failed
 * step.
 */
import type { EventBus } from './event-bus.ts'
import { EngineError } from './request.ts'
import type { ActiveRequests } from './requests/active-requests.ts'
import type { Delivery } from './requests/delivery.ts'
import { type Runner, RunnerError, type StepResult } from './runner/runner.ts'
import type { Scheduler } from './schedule/scheduler.ts'
import type { Sequence } from './schedule/sequence.ts'
import { type newEngineCounts, publishSchedule } from './schedule/step-accounting.ts'
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
  readonly counts: ReturnType<typeof newEngineCounts>
  readonly times: StepTimes
  /** Steps planned before the last one's tokens are known, where every running sequence is eligible. */
  readonly runAhead: 0 | 1
  readonly onError: (where: string, error: unknown) => void
}

const NO_MASKS: Pick<FoundMasks, 'late' | 'heldMs'> = { late: new Set(), heldMs: 0 }

interface StepInFlight {
  readonly step: ScheduledStep
  readonly result: Promise<StepResult>
  /** null: all masks were known when it was planned. */
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
  /** The pool that steps are planned for; null: the next step tells which it is, and none is planned ahead of it. */
  #poolId: number | null = 0
  #isStopped = false
  /** Something changed since the loop last looked; `#wake` ends its sleep. */
  #isSignalled = false
  #wake: () => void = () => {}
  #ended: Promise<void> = Promise.resolve()

  constructor(parts: StepLoopParts) {
    this.#parts = parts
  }

  /** The pool that steps are planned for; null while that is not known. */
  get poolId(): number | null {
    return this.#poolId
  }

  /** Resolves when the loop has ended, after `stop`. */
  get ended(): Promise<void> {
    return this.#ended
  }

  /** Begins, in the caller's async context. */
  start(): void {
    this.#ended = this.#run()
  }

  /** Wakes the loop, because there may be something to do. */
  signal(): void {
    this.#isSignalled = true
    this.#wake()
  }

  /** No further step is planned. */
  stop(): void {
    this.#isStopped = true
    this.signal()
  }

  async #run(): Promise<void> {
    while (!this.#isOver()) {
      this.#isSignalled = false
      const isIdle = !(await this.#step())
      if (isIdle && !this.#isSignalled) await new Promise<void>((resolve) => (this.#wake = resolve))
      // A runner in this thread resolves in microtasks alone, which would keep sockets and timers from being served.
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

  /** Schedules, runs and delivers one step. False: there was nothing to do. */
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
      // Waits for masks are bounded by these times: with the wait in them, each slow mask would let the next step wait longer.
      const stepMs = Math.max(0, Math.min(atMs - startMs, result.computeMs) - heldMs)
      this.#parts.times.record(numDecodeTokens, numPrefillTokens, stepMs)
      this.#parts.delivery.deliver({ step: oldest.step, result, late, startMs, atMs })
      oldest.setOver()
      // At once, so that the runner computes while the streams are written and masks are on their way.
      delivering = null
      if (!this.#waitsForMasks && !this.#isOver()) this.#fill()
    } catch (error) {
      oldest?.setOver()
      // The pool was replaced without a failed step: while nothing ran, or under a read of blocks.
      if (error instanceof RunnerError && error.code === 'pool_replaced') await this.#startOver()
      else await this.#failSteps(error, culpritOf(error, delivering))
    }
    return true
  }

  /** What is planned or in flight is void: running sequences compute their tokens again. `culprit`: the one that does not, and why. */
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
      // What was preempted made room: there may be a step now.
      if (step === null && schedule.preempted.length > 0) continue
      if (step === null) return
      const masks = step.unmasked.size === 0 ? null : this.#masks(step, this.#inFlight.at(-1)?.over ?? null)
      const result = this.#execute(step, masks)
      // Awaited in order, maybe after an earlier step has failed: not an unhandled rejection until then.
      result.catch(() => {})
      let setOver = (): void => {}
      const over = new Promise<void>((resolve) => (setOver = resolve))
      this.#inFlight.push({ step, result, masks, submittedMs: performance.now(), over, setOver })
    }
  }

  #masks({ unmasked, numDecodeTokens }: ScheduledStep, previous: Promise<void> | null): Promise<FoundMasks> {
    const { masks, times } = this.#parts
    return masks.collect(unmasked, times.ofRows(numDecodeTokens) ?? 0, previous)
  }

  /** When all steps in flight have ended, however. Nothing of them is delivered. */
  async #settleAll(): Promise<void> {
    const inFlight = this.#inFlight.splice(0)
    // One waits for masks that depend on the tokens of the one before it.
    for (const { setOver } of inFlight) setOver()
    await Promise.allSettled(inFlight.map(({ result }) => result))
  }

  /** Submits a step, in the context of the request that it serves where it serves one alone. */
  #execute({ plan, sequences }: ScheduledStep, found: Promise<FoundMasks> | null): Promise<StepResult> {
    const { runner } = this.#parts
    const submitted = this.#poolId === null ? plan : { ...plan, poolId: this.#poolId }
    const [first, ...others] = new Set(sequences.map(({ sequence }) => sequence.requestId))
    const masks = found?.then((known) => known.masks)
    if (first === undefined || others.length > 0) return runner.execute(submitted, masks)
    return this.#parts.bus.run({ requestId: first, part: 'step' }, () => runner.execute(submitted, masks))
  }

  /**
   * A step failed, and what is planned or in flight after it is void. Where one sequence is to blame its request fails and the others compute
   * their tokens again; else the pool's content is lost and every running sequence with it. Waiting ones go on, unless the engine itself is at fault.
   */
  async #failSteps(error: unknown, culprit: Sequence | null): Promise<void> {
    if (!this.#isOver()) this.#parts.onError('step', error)
    if (culprit !== null) {
      const message = 'the engine failed while the request ran'
      await this.#startOver([culprit, new EngineError('engine_error', message, null, { cause: error })])
      return
    }
    this.#poolId = null
    await this.#settleAll()
    const isRunnerFault = error instanceof RunnerError
    const isLost = isRunnerFault && error.code === 'device_lost'
    const message = isLost
      ? 'the device was lost while the request ran; it may be sent again'
      : 'the engine failed while the request ran'
    const failure = new EngineError(isLost ? 'device_lost' : 'engine_error', message, null, { cause: error })
    const running = [...this.#parts.scheduler.running]
    this.#parts.scheduler.invalidate()
    for (const sequence of running) this.#parts.requests.failSequence(sequence, failure)
    if (!isRunnerFault) this.#parts.requests.failAll(failure)
  }
}

/** The sequence whose plan made the step fail before it ran; null: not known to be one sequence's fault. */
function culpritOf(error: unknown, step: ScheduledStep | null): Sequence | null {
  if (error instanceof SequenceFault) return error.sequence
  if (!(error instanceof RunnerError) || error.code !== 'engine_error' || error.sequence === null) return null
  return step?.sequences[error.sequence]?.sequence ?? null
}
