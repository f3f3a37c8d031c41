/**
 * Who is served next where several keys want the engine: each key's requests in the order they came, and keys in turn by how many sequences
 * they have had (start-time fair queueing). The engine's own queue does the ordering; a request's tag is its place in it.
 */

export interface Share {
  /** Lower is served first. */
  readonly tag: number
  /** The request is over; calling it again does nothing. */
  leave(): void
}

export class FairShares {
  /** Tags of the requests under way, and how many have them. */
  readonly #tags = new Map<number, number>()
  /** Where each key's next request begins, and the sequences it has under way. */
  readonly #keys = new Map<string, { nextTag: number; numSequences: number }>()

  /** Sequences of the key that wait or run. */
  numSequences(keyId: string): number {
    return this.#keys.get(keyId)?.numSequences ?? 0
  }

  /** A request of the key with this many sequences enters. */
  enter(keyId: string, numSequences: number): Share {
    // A key that was away begins where the others are: it has neither saved nor lost anything.
    const now = this.#tags.size === 0 ? 0 : Math.min(...this.#tags.keys())
    const key = this.#keys.get(keyId) ?? { nextTag: 0, numSequences: 0 }
    const tag = Math.max(now, key.numSequences === 0 ? now : key.nextTag)
    key.nextTag = tag + numSequences
    key.numSequences += numSequences
    this.#keys.set(keyId, key)
    this.#tags.set(tag, (this.#tags.get(tag) ?? 0) + 1)
    let isHere = true
    return {
      tag,
      leave: () => {
        if (!isHere) return
        isHere = false
        const left = (this.#tags.get(tag) ?? 1) - 1
        if (left === 0) this.#tags.delete(tag)
        else this.#tags.set(tag, left)
        key.numSequences -= numSequences
        if (key.numSequences === 0) this.#keys.delete(keyId)
      },
    }
  }
}
