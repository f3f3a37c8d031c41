/** The requests that run or wait, with their open choices, and every way they end. */
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
  /** Aborted when the request ends: what is still being prepared for it is for nothing. */
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
  /** A request ended: what it held may make room for what waits. */
  readonly onEnd: () => void
}

/** Requests with open choices. Each ends once: finished, aborted, timed out or failed. */
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

  /** Whose sequence it is; undefined once the choice has ended. */
  owner(sequence: Sequence): ChoiceOwner | undefined {
    return this.#owners.get(sequence)
  }

  /** A choice is to be generated. */
  open(active: ActiveRequest, choice: Choice): void {
    this.#active.add(active)
    active.openChoices.add(choice)
    this.#owners.set(choice.sequence, { choice, active })
  }

  finish({ choice, active }: ChoiceOwner, end: ChoiceEnd, error: EngineError | null = null): void {
    const { scheduler, bus, kv } = this.#options
    const { sequence } = choice
    // A failed step's blocks may hold anything.
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

  /** The client went away. */
  abort(active: ActiveRequest): void {
    const end = { reason: 'abort', stopReason: null, stop: null } as const
    for (const choice of active.openChoices) this.finish({ choice, active }, end)
    this.end(active, null)
  }

  /** The request cannot go on: its choices end, the consumer gets the error. */
  fail(active: ActiveRequest, error: EngineError): void {
    const isFault = error.code === 'engine_error' || error.code === 'device_lost'
    active.stream.end(error)
    for (const choice of active.openChoices) {
      this.finish({ choice, active }, { reason: isFault ? 'error' : 'abort', stopReason: null, stop: null }, error)
    }
    this.end(active, error)
  }

  /** The request of a sequence that cannot go on; none where the choice has ended. */
  failSequence(sequence: Sequence, error: EngineError): void {
    const owner = this.#owners.get(sequence)
    if (owner !== undefined) this.fail(owner.active, error)
  }

  failAll(error: EngineError): void {
    for (const active of this.#active) this.fail(active, error)
  }

  /** The request is over, also where it never had a choice. */
  end(active: ActiveRequest, error: unknown): void {
    active.ended.abort()
    active.release()
    active.stream.end(error)
    this.#active.delete(active)
    this.#options.onEnd()
  }
}
