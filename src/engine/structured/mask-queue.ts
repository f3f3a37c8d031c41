/** Masks of tokens that grammars allow next, computed in other threads beside the step. */
import { endedWithin } from '../../promises.ts'
import type { ActiveRequest, ChoiceOwner } from '../requests/active-requests.ts'
import type { LateMasks } from '../runner/runner.ts'
import type { Sequence } from '../schedule/sequence.ts'
import type { UnmaskedRow } from '../schedule/step-draft.ts'
import type { GrammarMatcher } from './grammar-protocol.ts'

/**
 * How long a step waits for masks after its layers are computed. Masks usually arrive long before. A sequence with a later mask is computed again in
 * another step, and the others do not wait for it.
 */
const MAX_WAIT_MS = 5

interface MaskQueueOptions {
  /** Called when a mask has arrived and its sequence can be scheduled. */
  readonly onMask: () => void
  /** Called when a mask cannot be computed and the sequence cannot continue. */
  readonly onFailure: (active: ActiveRequest, error: unknown) => void
}

/** Which of a step's masks came in time, and the sequences of those that did not: what is drawn for them does not count. */
export interface FoundMasks {
  readonly masks: LateMasks
  readonly late: ReadonlySet<Sequence>
  /** Milliseconds that they were waited for beyond the time of the step's layers: no part of what a step costs. */
  readonly heldMs: number
}

/** Requests masks and waits for those that a step needs. */
export class MaskQueue {
  readonly #options: MaskQueueOptions
  readonly #pending = new Map<Sequence, Promise<void>>()

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
        sequence.isMaskLate = false
        this.#options.onMask()
      },
      // The matcher of a choice that ended rejects as well, and nobody is left to be told.
      (error: unknown) => {
        if (active.openChoices.has(choice)) this.#options.onFailure(active, error)
      },
    )
    this.#pending.set(sequence, work)
    void work.finally(() => this.#pending.delete(sequence))
  }

  /** Resolves when all masks are there, or after MAX_WAIT_MS. */
  wait(): Promise<void> {
    return endedWithin(MAX_WAIT_MS, Promise.all(this.#pending.values()))
  }

  /**
   * Masks by the sample rows of a step that was planned without them and whose layers take `layersMs`. `previous`: the step before it, whose tokens
   * masks may depend on, is delivered; null: it was. Never rejects.
   */
  async collect(
    unmasked: ReadonlyMap<number, UnmaskedRow>,
    layersMs: number,
    previous: Promise<void> | null = null,
  ): Promise<FoundMasks> {
    await previous
    const pending = [...unmasked.values()].flatMap(({ sequence }) => this.#pending.get(sequence) ?? [])
    const startMs = performance.now()
    await endedWithin(layersMs + MAX_WAIT_MS, Promise.all(pending))
    const heldMs = Math.max(0, performance.now() - startMs - layersMs)
    const masks = new Map<number, Uint32Array>()
    const late = new Set<Sequence>()
    for (const [row, { sequence, numOutputTokens }] of unmasked) {
      // Where the token before was drawn without its mask, this row computed on one that does not count.
      const isForThis = sequence.numOutputTokens === numOutputTokens
      if (isForThis && !sequence.isMaskPending && sequence.mask !== null) masks.set(row, sequence.mask)
      else {
        sequence.isMaskLate = sequence.isMaskPending
        late.add(sequence)
      }
    }
    return { masks, late, heldMs }
  }
}
