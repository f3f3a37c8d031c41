/** The KV blocks and state slots that sequences hold: allocated, filled from the prefix cache, published to it, and given back. */
import { BlockPool } from './block-pool.ts'
import { type BlockHash, PrefixCache, type PrefixCacheOptions, type PrefixMatch } from './prefix-cache.ts'
import type { Sequence } from './sequence.ts'
import { StateSlots } from './state-slots.ts'
import type { StepDraft } from './step-draft.ts'

export interface SequenceMemoryOptions extends PrefixCacheOptions {
  readonly numBlocks: number
  /** Slots of the state pool; absent or 0: the model keeps no states. */
  readonly numStateSlots?: number
}

const NO_MATCH: PrefixMatch = { blocks: [], partial: null, numTokens: 0, missReason: 'disabled' }

/** Block pool, prefix cache and state slots, and what sequences have of them. */
export class SequenceMemory {
  readonly pool: BlockPool
  readonly cache: PrefixCache
  /** null when the model keeps no states. */
  readonly states: StateSlots | null
  readonly #blockSize: number

  constructor(options: SequenceMemoryOptions) {
    const { numBlocks, numStateSlots = 0, blockSize } = options
    this.cache = new PrefixCache(options)
    this.pool = new BlockPool(numBlocks, this.cache)
    this.states = numStateSlots > 0 ? new StateSlots(numStateSlots, blockSize) : null
    this.#blockSize = blockSize
  }

  /**
   * Allocates `count` blocks, to compute or to fill from a KV tier, and acquires the blocks `held` that they continue; the caller releases both.
   * Returns null, with nothing acquired, when fewer than `numSpare` would be left.
   */
  reserve(held: readonly number[], count: number, numSpare: number): number[] | null {
    for (const block of held) this.pool.acquire(block)
    const blocks = this.pool.numFree < count + numSpare ? null : this.pool.allocate(count)
    if (blocks === null) this.pool.release(held)
    return blocks
  }

  /** What the prefix cache has of a sequence's tokens. */
  match(sequence: Sequence, stepId: number): PrefixMatch {
    // Log-probabilities of prompt tokens need the logits of every row: no part of the prompt can be skipped.
    if (sequence.cacheRoot === null || sequence.promptLogprobs >= 0) return NO_MATCH
    this.#adoptHashes(sequence, sequence.cacheRoot)
    const match = this.cache.match(sequence.tokens.view, sequence.cacheRoot, sequence.blockHashes, stepId)
    return this.states === null ? match : this.states.match(sequence, match, stepId)
  }

  /** Takes the block hashes of the prompt, which all its choices share: hashing a long prompt takes milliseconds. */
  #adoptHashes({ blockHashes, promptHashes, numPromptTokens, tokens }: Sequence, root: BlockHash): void {
    if (blockHashes.length > 0) return
    const numBlocks = Math.floor(numPromptTokens / this.#blockSize)
    this.cache.extendChain(promptHashes, root, tokens.view, numBlocks)
    for (const hash of promptHashes) blockHashes.push(hash)
  }

  /** Allocates blocks for all known tokens. Leaves `numSpare` free, one per running sequence: otherwise admission and preemption would alternate. */
  allocate(sequence: Sequence, match: PrefixMatch, draft: StepDraft, numSpare: number): boolean {
    const numNew = Math.ceil(sequence.tokens.length / this.#blockSize) - match.blocks.length
    const blocks = this.reserve(match.blocks, numNew, numSpare)
    if (blocks === null) return false
    for (const block of [...match.blocks, ...blocks]) sequence.blockTable.push(block)
    if (match.partial !== null) {
      draft.blockCopies.push({ ...match.partial, destination: sequence.blockTable.at(match.blocks.length) })
    }
    this.states?.adopt(sequence, match.blocks.length)
    sequence.numComputedTokens = match.numTokens
    sequence.numPublishedBlocks = match.blocks.length
    return true
  }

  /** Extends the block table to `numTokens` tokens. False, with nothing allocated, when too few blocks are free. */
  grow(sequence: Sequence, numTokens: number): boolean {
    const numNew = Math.ceil(numTokens / this.#blockSize) - sequence.blockTable.length
    if (numNew <= 0) return true
    const blocks = this.pool.allocate(numNew)
    if (blocks === null) return false
    for (const block of blocks) sequence.blockTable.push(block)
    return true
  }

  /** Adds newly full blocks of known tokens to the prefix cache. */
  publish(sequence: Sequence, stepId: number): void {
    if (sequence.cacheRoot === null || sequence.status !== 'running') return
    const blockSize = this.#blockSize
    const tokens = sequence.tokens.view
    const numFull = Math.floor(Math.min(sequence.numComputedTokens, tokens.length) / blockSize)
    if (numFull <= sequence.numPublishedBlocks) return
    this.cache.extendChain(sequence.blockHashes, sequence.cacheRoot, tokens, numFull)
    for (let i = sequence.numPublishedBlocks; i < numFull; i++) {
      const hash = sequence.blockHashes[i] ?? ''
      const parent = sequence.blockHashes[i - 1] ?? sequence.cacheRoot
      const content = tokens.subarray(i * blockSize, (i + 1) * blockSize)
      this.cache.publish(sequence.blockTable.at(i), hash, parent, content, stepId)
    }
    sequence.numPublishedBlocks = numFull
    this.states?.publish(sequence, sequence.blockHashes)
  }

  /** Adds all blocks to the prefix cache before they are released: the full ones and the last, partly filled one. */
  publishAll(sequence: Sequence, stepId: number): void {
    if (sequence.cacheRoot === null) return
    this.publish(sequence, stepId)
    const blockSize = this.#blockSize
    const numKnown = Math.min(sequence.numComputedTokens, sequence.tokens.length)
    const numFull = sequence.numPublishedBlocks
    if (numKnown <= numFull * blockSize || this.states !== null) return
    const parent = numFull === 0 ? sequence.cacheRoot : (sequence.blockHashes[numFull - 1] ?? '')
    const content = sequence.tokens.view.subarray(numFull * blockSize, numKnown)
    this.cache.publishPartial(sequence.blockTable.at(numFull), parent, content, stepId)
  }

  /** Gives the sequence's blocks and state back. Until they are reused, the prefix cache can still hit them. */
  release(sequence: Sequence): void {
    this.pool.release(sequence.blockTable.view)
    this.states?.release(sequence)
    sequence.blockTable.clear()
    sequence.numPublishedBlocks = 0
  }
}
