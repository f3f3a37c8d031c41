/**
 * Knows which KV block contains which tokens. A full block is identified by a chained hash of its parent's hash and its tokens; the first parent
 * is the hash of the tenant's salt. A hit also compares the tokens, because a collision must not serve another tenant's keys. If a prompt leaves
 * the chain inside a block, the tokens that it shares with a known block can still be copied.
 */
import type { BlockContents } from './block-pool.ts'
import type { CacheMissReason } from '../events.ts'

/** Hash of a block: hex or base64 text of at least 128 bits. */
export type BlockHash = string

/** Hash of a parent and tokens. A parameter, so that this module does not depend on a crypto library. */
type BlockHasher = (parent: BlockHash, tokens: Int32Array) => BlockHash

/** A block with known content. */
interface CachedBlock {
  readonly block: number
  /** null: a partly filled last block, which is reused only by copying. */
  readonly hash: BlockHash | null
  readonly parent: BlockHash
  readonly tokens: Int32Array // [<= blockSize]
  /** The step that writes the block. Attention may read it in the same step; it may be copied only in a later one. */
  readonly stepId: number
}

export interface PrefixMatch {
  /** Full blocks, in order. */
  readonly blocks: readonly number[]
  /** The first `numTokens` tokens of `source` continue them. */
  readonly partial: { readonly source: number; readonly numTokens: number } | null
  /** Tokens served by blocks and partial together. */
  readonly numTokens: number
  readonly missReason: CacheMissReason
}

export interface PrefixCacheOptions {
  readonly blockSize: number
  readonly hash: BlockHasher
}

/** Hashes of evicted blocks that are remembered, to distinguish `evicted` from `cold`. */
const MAX_EVICTED_HASHES = 65_536

/** Children of one parent that are compared for a partial match. */
const MAX_PARTIAL_CANDIDATES = 64

/** KV blocks by chained hash. Blocks without a reference are evicted, the least recently used first. */
export class PrefixCache implements BlockContents {
  readonly #blockSize: number
  readonly #hash: BlockHasher
  readonly #byBlock = new Map<number, CachedBlock>()
  readonly #byHash = new Map<BlockHash, CachedBlock>()
  readonly #children = new Map<BlockHash, Set<CachedBlock>>()
  readonly #evicted = new Set<BlockHash>()

  constructor(options: PrefixCacheOptions) {
    this.#blockSize = options.blockSize
    this.#hash = options.hash
  }

  /** Blocks with known content, free or in use. */
  get size(): number {
    return this.#byBlock.size
  }

  /**
   * The parent of a tenant's first blocks.
   * @param digest of the adapter that computes them, hashed as tokens are, so that no salt can imitate it
   */
  root(salt: string, digest: Int32Array | null = null): BlockHash {
    const root = this.#hash(salt, new Int32Array(0))
    return digest === null ? root : this.#hash(root, digest)
  }

  /** Hashes of the first `numBlocks` blocks of `tokens`, kept in `chain` from call to call. */
  extendChain(chain: BlockHash[], root: BlockHash, tokens: Int32Array, numBlocks: number): void {
    while (chain.length < numBlocks) {
      const start = chain.length * this.#blockSize
      chain.push(this.#hash(chain.at(-1) ?? root, tokens.subarray(start, start + this.#blockSize)))
    }
  }

  /**
   * The longest known prefix of `tokens`, at most `tokens.length - 1` of them: the last token is always computed, for its logits.
   * @param chain the sequence's block hashes so far, which is extended @param stepId the step being planned
   */
  match(tokens: Int32Array, root: BlockHash, chain: BlockHash[], stepId: number): PrefixMatch {
    const numCandidates = Math.floor((tokens.length - 1) / this.#blockSize)
    this.extendChain(chain, root, tokens, numCandidates)
    const blocks: number[] = []
    let parent = root
    while (blocks.length < numCandidates) {
      const entry = this.#lookup(chain[blocks.length] ?? '', parent, tokens, blocks.length * this.#blockSize)
      if (entry === null) break
      blocks.push(entry.block)
      parent = entry.hash ?? ''
    }
    const start = blocks.length * this.#blockSize
    const partial = this.#matchPartial(parent, tokens.subarray(start, tokens.length - 1), stepId)
    return {
      blocks,
      partial,
      numTokens: start + (partial?.numTokens ?? 0),
      missReason: this.#missReason(blocks.length, numCandidates, chain, partial !== null),
    }
  }

  /** Whether a block with this hash is in the pool. */
  has(hash: BlockHash): boolean {
    return this.#byHash.has(hash)
  }

  /**
   * Registers a full block, whose content may be written by the step being planned. The first block of a hash stays; a second one with the same
   * content serves its own sequence only.
   */
  publish(block: number, hash: BlockHash, parent: BlockHash, tokens: Int32Array, stepId: number): void {
    if (!this.#byHash.has(hash)) this.#add({ block, hash, parent, tokens: tokens.slice(), stepId })
  }

  /** Registers the partly filled last block of an ended sequence. */
  publishPartial(block: number, parent: BlockHash, tokens: Int32Array, stepId: number): void {
    this.#add({ block, hash: null, parent, tokens: tokens.slice(), stepId })
  }

  holds(block: number): boolean {
    return this.#byBlock.has(block)
  }

  forget(block: number): void {
    const entry = this.#byBlock.get(block)
    if (entry === undefined) return
    this.#remove(entry)
    if (entry.hash === null) return
    this.#evicted.add(entry.hash)
    const [oldest] = this.#evicted
    if (this.#evicted.size > MAX_EVICTED_HASHES && oldest !== undefined) this.#evicted.delete(oldest)
  }

  /** Forgets all blocks, because the pool's content was lost (a failed step, a new device). */
  clear(): void {
    this.#byBlock.clear()
    this.#byHash.clear()
    this.#children.clear()
  }

  #add(entry: CachedBlock): void {
    this.#byBlock.set(entry.block, entry)
    if (entry.hash !== null) {
      this.#byHash.set(entry.hash, entry)
      this.#evicted.delete(entry.hash)
    }
    const siblings = this.#children.get(entry.parent)
    if (siblings === undefined) this.#children.set(entry.parent, new Set([entry]))
    else siblings.add(entry)
  }

  #remove(entry: CachedBlock): void {
    this.#byBlock.delete(entry.block)
    if (entry.hash !== null) this.#byHash.delete(entry.hash)
    const siblings = this.#children.get(entry.parent)
    siblings?.delete(entry)
    if (siblings?.size === 0) this.#children.delete(entry.parent)
  }

  #lookup(hash: BlockHash, parent: BlockHash, tokens: Int32Array, start: number): CachedBlock | null {
    const entry = this.#byHash.get(hash)
    if (entry === undefined || entry.parent !== parent) return null
    return countCommon(entry.tokens, tokens.subarray(start)) === this.#blockSize ? entry : null
  }

  #matchPartial(parent: BlockHash, tokens: Int32Array, stepId: number): PrefixMatch['partial'] {
    let best: PrefixMatch['partial'] = null
    let numCompared = 0
    for (const entry of this.#children.get(parent) ?? []) {
      if (++numCompared > MAX_PARTIAL_CANDIDATES) break
      if (entry.stepId >= stepId) continue
      const numTokens = countCommon(entry.tokens, tokens)
      if (numTokens > (best?.numTokens ?? 0)) best = { source: entry.block, numTokens }
    }
    return best
  }

  #missReason(
    numHits: number,
    numCandidates: number,
    chain: readonly BlockHash[],
    hasPartial: boolean,
  ): CacheMissReason {
    if (numHits === numCandidates && (numHits > 0 || hasPartial)) return 'none'
    if (this.#evicted.has(chain[numHits] ?? '')) return 'evicted'
    return numHits > 0 || hasPartial ? 'diverged' : 'cold'
  }
}

function countCommon(a: Int32Array, b: Int32Array): number {
  const length = Math.min(a.length, b.length)
  let i = 0
  while (i < length && a[i] === b[i]) i++
  return i
}
