/** The running and waiting requests with their open choices, and every way in which they end. */
import type { Choice, ChoiceEnd } from './choice.ts'
import type { EventBus } from '../event-bus.ts'
import type { KvTransfer } from '../kv/kv-transfer.ts'
import type { RequestStream } from './request-stream.ts'
import type { EngineError, GenerationRequest } from '../request.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { Sequence } from '../schedule/sequence.ts'

/** A request with open choices. */
export interface ActiveRequest {
  readonly request: GenerationRequest
  readonly stream: RequestStream
  readonly openChoices: Set<Choice>
  /** Aborted when the request ends, to cancel preparations that are still under way. */
  readonly ended: AbortController
  /** Removes the abort listener and the deadline timer. */
  release(): void
}

export interface ChoiceOwner {
  readonly choice: Choice
  readonly active: ActiveRequest
}

interface ActiveRequestsOptions {
  readonly scheduler: Scheduler
  readonly bus: EventBus
  readonly kv: KvTransfer | null
  /** Called when a request has ended, which may make room for waiting ones. */
  readonly onEnd: () => void
}

/** Requests with open choices. Each ends exactly once: finished, aborted, timed out or failed. */
export class ActiveRequests {
  readonly #options: ActiveRequestsOptions
  readonly #active = new Set<ActiveRequest>()
  readonly #owners = new Map<Sequence, ChoiceOwner>()

  constructor(options: ActiveRequestsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#active.size
  }

  /** The owner of a sequence; undefined once its choice has ended. */
  owner(sequence: Sequence): ChoiceOwner | undefined {
    return this.#owners.get(sequence)
  }

  /** Registers a choice that will be generated. */
  open(active: ActiveRequest, choice: Choice): void {
    this.#active.add(active)
    active.openChoices.add(choice)
    this.#owners.set(choice.sequence, { choice, active })
  }

  finish({ choice, active }: ChoiceOwner, end: ChoiceEnd, error: EngineError | null = null): void {
    const { scheduler, bus, kv } = this.#options
    const { sequence } = choice
    // The blocks of a failed step may contain anything.
    if (sequence.status === 'running' && end.reason !== 'error') kv?.store(sequence)
    scheduler.finish(sequence)
    choice.matcher?.close()
    this.#owners.delete(sequence)
    active.openChoices.delete(choice)
    const { requestId, counters } = sequence
    const { reason, stopReason, stop } = end
    bus.publish({
      type: 'finished',
      requestId,
      choice: sequence.choice,
      atMs: performance.now(),
      reason,
      stop,
      counters,
      errorCode: error?.code ?? null,
      ...(error === null ? {} : { error }),
    })
    if (error === null) active.stream.push({ type: 'finished', choice: sequence.choice, reason, stopReason, counters })
    if (active.openChoices.size === 0) this.end(active, null)
  }

  /** Ends a request whose client has disconnected. */
  abort(active: ActiveRequest): void {
    const end = { reason: 'abort', stopReason: null, stop: null } as const
    for (const choice of active.openChoices) this.finish({ choice, active }, end)
    this.end(active, null)
  }

  /** Ends a request with an error, which its consumer receives. */
  fail(active: ActiveRequest, error: EngineError): void {
    const isFault = error.code === 'engine_error' || error.code === 'device_lost'
    active.stream.end(error)
    for (const choice of active.openChoices) {
      this.finish({ choice, active }, { reason: isFault ? 'error' : 'abort', stopReason: null, stop: null }, error)
    }
    this.end(active, error)
  }

  /** Fails the request of a sequence, unless its choice has ended. */
  failSequence(sequence: Sequence, error: EngineError): void {
    const owner = this.#owners.get(sequence)
    if (owner !== undefined) this.fail(owner.active, error)
  }

  failAll(error: EngineError): void {
    for (const active of this.#active) this.fail(active, error)
  }

  /** Ends a request, even one that never had a choice. */
  end(active: ActiveRequest, error: unknown): void {
    active.ended.abort()
    active.release()
    active.stream.end(error)
    this.#active.delete(active)
    this.#options.onEnd()
  }
}
