/** The KV blocks of a pool as numbers 0 .. numBlocks - 1: how many users each block has, and which one is reused next. Stores no data. */

/** Knows which blocks without users are still worth keeping (prefix-cache.ts). */
export interface BlockContents {
  /** Whether the block may be hit again. Such blocks are reused as late as possible. */
  holds(block: number): boolean
  /** The block is about to be overwritten. */
  forget(block: number): void
}

/**
 * Reference counts, and a queue of free blocks in the order of reuse. The queue is a doubly linked list, so that a hit can take a block from the
 * middle in O(1). Empty blocks are at the front, blocks with cached tokens at the back, the least recently freed first.
 */
export class BlockPool {
  readonly numBlocks: number
  readonly #contents: BlockContents
  readonly #refCounts: Int32Array // [numBlocks]
  readonly #next: Int32Array // [numBlocks + 1]; the last entry is the list's head and tail
  readonly #previous: Int32Array // [numBlocks + 1]
  #numFree: number

  constructor(numBlocks: number, contents: BlockContents) {
    if (!Number.isInteger(numBlocks) || numBlocks < 1)
      throw new RangeError(`numBlocks: expected >= 1, found ${numBlocks}`)
    this.numBlocks = numBlocks
    this.#contents = contents
    this.#refCounts = new Int32Array(numBlocks)
    this.#next = Int32Array.from({ length: numBlocks + 1 }, (_, i) => (i + 1) % (numBlocks + 1))
    this.#previous = Int32Array.from({ length: numBlocks + 1 }, (_, i) => (i + numBlocks) % (numBlocks + 1))
    this.#numFree = numBlocks
  }

  /** Blocks without users; cached ones are among them. */
  get numFree(): number {
    return this.#numFree
  }

  refCount(block: number): number {
    return this.#refCounts[block] ?? 0
  }

  /** `count` blocks with one user each, the least valuable first; null if there are too few. */
  allocate(count: number): number[] | null {
    if (count > this.#numFree) return null
    const blocks: number[] = []
    for (let i = 0; i < count; i++) {
      const block = this.#next[this.numBlocks] ?? 0
      this.#unlink(block)
      if (this.#contents.holds(block)) this.#contents.forget(block)
      this.#refCounts[block] = 1
      blocks.push(block)
    }
    return blocks
  }

  /** Adds a user to a block, cached or in use. */
  acquire(block: number): void {
    const count = this.refCount(block)
    if (count === 0) this.#unlink(block)
    this.#refCounts[block] = count + 1
  }

  /**
   * Removes a user from each block of a table. Blocks are freed from the table's end, so that the last block of a sequence is reused first: a
   * prefix can be hit without its continuation, but not the other way round.
   */
  release(blocks: Int32Array | readonly number[]): void {
    for (let i = blocks.length - 1; i >= 0; i--) {
      const block = blocks[i] ?? -1
      const count = this.refCount(block)
      if (count < 1) throw new Error(`block ${block} released with reference count ${count}`)
      this.#refCounts[block] = count - 1
      if (count === 1) this.#link(block, this.#contents.holds(block))
    }
  }

  #link(block: number, atEnd: boolean): void {
    const sentinel = this.numBlocks
    const after = atEnd ? (this.#previous[sentinel] ?? sentinel) : sentinel
    const before = this.#next[after] ?? sentinel
    this.#next[after] = block
    this.#previous[block] = after
    this.#next[block] = before
    this.#previous[before] = block
    this.#numFree++
  }

  #unlink(block: number): void {
    const next = this.#next[block] ?? 0
    const previous = this.#previous[block] ?? 0
    this.#next[previous] = next
    this.#previous[next] = previous
    this.#numFree--
  }
}
