/** Tracks which memories of the cpu backend hold each value of a step. An op whose operand is in another memory gets a copy of its rows first. */

/** The most memories: each is a bit of a word. */
export const MAX_MEMORIES = 31
const FIRST = 1

/** Keeps a set of memories per value. With a single memory it has nothing to do. */
export class Residence {
  readonly #holders = new Map<object, number>()

  /** Makes sure that `memory` holds the value: if not, calls `copy` with a memory that does. */
  bring(value: object, memory: number, copy: (from: number) => void): void {
    const holders = this.#holders.get(value) ?? FIRST
    const bit = 1 << memory
    if ((holders & bit) !== 0) return
    copy(31 - Math.clz32(holders))
    this.#holders.set(value, holders | bit)
  }

  /** Records that the value is overwritten in `memory`, which alone holds it from now on. */
  claim(value: object, memory: number): void {
    this.#holders.set(value, 1 << memory)
  }

  /** A memory that holds the value. */
  holder(value: object): number {
    return 31 - Math.clz32(this.#holders.get(value) ?? FIRST)
  }
}
