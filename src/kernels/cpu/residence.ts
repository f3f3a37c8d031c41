/** Which memories of the cpu backend hold what a step has computed: an op that finds an operand elsewhere has its rows copied first. */

/** Memories are bits of a word. */
export const MAX_MEMORIES = 31
const FIRST = 1

/** Keeps for each value the memories that hold it. With a single memory it has nothing to do. */
export class Residence {
  readonly #holders = new Map<object, number>()

  /** Makes sure that `memory` holds the value: `copy` is given one that does where it does not. */
  bring(value: object, memory: number, copy: (from: number) => void): void {
    const holders = this.#holders.get(value) ?? FIRST
    const bit = 1 << memory
    if ((holders & bit) !== 0) return
    copy(31 - Math.clz32(holders))
    this.#holders.set(value, holders | bit)
  }

  /** `memory` alone holds the value now: it is overwritten there. */
  claim(value: object, memory: number): void {
    this.#holders.set(value, 1 << memory)
  }

  /** A memory that holds the value. */
  holder(value: object): number {
    return 31 - Math.clz32(this.#holders.get(value) ?? FIRST)
  }
}
