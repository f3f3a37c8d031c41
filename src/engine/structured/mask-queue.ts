/** Masks of tokens that grammars allow next, computed in other threads beside the step. */
import type { ActiveRequest, ChoiceOwner } from '../requests/active-requests.ts'
import type { GrammarMatcher } from './grammar.ts'

/**
 * How long a step waits for masks: usually they are there within a fraction of it, and a step without their sequences would cost as much.
 * A sequence whose mask takes longer joins a later step; the others do not wait for it.
 */
const MAX_WAIT_MS = 5

interface MaskQueueOptions {
  /** A mask arrived: its sequence can be scheduled. */
  readonly onMask: () => void
  /** No mask can be had: the sequence cannot go on. */
  readonly onFailure: (active: ActiveRequest, error: unknown) => void
}

/** Requests masks for the next step and waits for those that a step needs. */
export class MaskQueue {
  readonly #options: MaskQueueOptions
  readonly #pending = new Set<Promise<void>>()

  constructor(options: MaskQueueOptions) {
    this.#options = options
  }

  get numPending(): number {
    return this.#pending.size
  }

  /** The sequence waits for its next mask from now on. */
  compute({ choice, active }: ChoiceOwner, matcher: GrammarMatcher): void {
    const { sequence } = choice
    sequence.isMaskPending = true
    const work = matcher.mask().then(
      (mask) => {
        sequence.mask = mask
        sequence.isMaskPending = false
        this.#options.onMask()
      },
      // The matcher of a choice that ended rejects as well, and nobody is left to be told.
      (error: unknown) => {
        if (active.openChoices.has(choice)) this.#options.onFailure(active, error)
      },
    )
    this.#pending.add(work)
    void work.finally(() => this.#pending.delete(work))
  }

  /** Resolves when all masks are there, or after MAX_WAIT_MS. */
  async wait(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const bound = new Promise<void>((resolve) => (timer = setTimeout(resolve, MAX_WAIT_MS)))
    await Promise.race([Promise.all(this.#pending), bound])
    clearTimeout(timer)
  }
}
