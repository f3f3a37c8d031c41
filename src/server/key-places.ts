/** Limits the sequences of each key, so that no key can fill the engine's queue. */
import { ApiError } from './errors.ts'

/** Counts the sequences of each key and refuses those above its share of the queue. */
export class KeyPlaces {
  readonly #most: number
  readonly #underWay = new Map<string, number>()

  /** @param most sequences that one key may have waiting and running */
  constructor(most: number) {
    this.#most = most
  }

  /**
   * Takes places for a request of the key. The returned function gives them back.
   * @throws ApiError 429 if the key would have too many. A key without any may always take places; the engine checks a request's size.
   */
  take(keyId: string, numSequences: number): () => void {
    const taken = this.#underWay.get(keyId) ?? 0
    if (taken > 0 && taken + numSequences > this.#most) {
      throw new ApiError(
        'key_queue_full',
        `this key has ${taken} sequences running or waiting and may have ${this.#most}; ${numSequences} more would exceed its share of the queue`,
      )
    }
    this.#underWay.set(keyId, taken + numSequences)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      const left = (this.#underWay.get(keyId) ?? 0) - numSequences
      if (left > 0) this.#underWay.set(keyId, left)
      else this.#underWay.delete(keyId)
    }
  }
}
