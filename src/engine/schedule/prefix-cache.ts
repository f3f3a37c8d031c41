/**
 * Which KV block holds which tokens. A full block is known by a chained hash (its parent's hash, its tokens; the first
 * parent is the hash of the tenant's salt), and a hit compares the tokens too: a collision must not serve another's keys.
 * Where a prompt leaves the chain inside a block, the tokens it shares with a known block can still be copied.
 */
import type { BlockContents } from './block-pool.ts'
import type { CacheMissReason } from '../events.ts'

/** Hash of a block: hex or base64 text of at least 128 bits. */
export type BlockHash = string

/** Hash of (parent, tokens). Given from outside so that this file is independent of a crypto library. */
type BlockHasher = (parent: BlockHash, tokens: Int32Array) => BlockHash

/** A block with known content. */
interface CachedBlock {
  readonly block: number
  /** null: a partly filled last block, reused only by copying. */
  readonly hash: BlockHash | null
  readonly parent: BlockHash
  readonly tokens: Int32Array // [<= blockSize]
  /** The step that writes it. Blocks may be attended to in the same step, but copied only in a later one. */
  readonly stepId: number
}

export interface PrefixMatch {
  /** Full blocks, in order. */
  readonly blocks: readonly number[]
  /** The first `numTokens` tokens of `source` continue them. */
  readonly partial: { readonly source: number; readonly numTokens: number } | null
  /** Tokens served: blocks and partial together. */
  readonly numTokens: number
  readonly missReason: CacheMissReason
}

export interface PrefixCacheOptions {
  readonly blockSize: number
  readonly hash: BlockHasher
  /** Hashes of evicted blocks remembered, to tell `evicted` from `cold`. */
  readonly maxEvictedHashes?: number
  /** A block with a hash is about to be overwritten (kv-tiers.ts keeps a copy). */
  readonly onEvict?: (entry: CachedBlock) => void
}

/** Children of one parent looked at for a partial match: with more, only the first ones are compared. */
const MAX_PARTIAL_CANDIDATES = 64

/** Full KV blocks by chained hash. Blocks without a reference are evicted least recently used first. */
export class PrefixCache implements BlockContents {
  readonly #blockSize: number
  readonly #hash: BlockHasher
  readonly #maxEvictedHashes: number
  readonly #onEvict: ((entry: CachedBlock) => void) | undefined
  readonly #byBlock = new Map<number, CachedBlock>()
  readonly #byHash = new Map<BlockHash, CachedBlock>()
  readonly #children = new Map<BlockHash, Set<CachedBlock>>()
  readonly #evicted = new Set<BlockHash>()

  constructor(options: PrefixCacheOptions) {
    this.#blockSize = options.blockSize
    this.#hash = options.hash
    this.#maxEvictedHashes = options.maxEvictedHashes ?? 65536
    this.#onEvict = options.onEvict
  }

  /** Blocks with known content, free or in use. */
  get size(): number {
    return this.#byBlock.size
  }

  /**
   * The parent of a tenant's first blocks. @param digest of the adapter that they are computed with: words, as a block's tokens are, so that no salt
   * can stand for it
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
   * The longest known prefix of `tokens`, at most `tokens.length - 1` of them: the last token is always computed, for its
   * logits. `chain` holds the sequence's block hashes so far and is extended. `stepId`: the step being planned.
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
   * Tells what a full block holds, or will hold when the step being planned has run. The first block published under a hash
   * stays; a second one with the same content keeps serving its sequence and is simply not shared.
   */
  publish(block: number, hash: BlockHash, parent: BlockHash, tokens: Int32Array, stepId: number): void {
    if (!this.#byHash.has(hash)) this.#add({ block, hash, parent, tokens: tokens.slice(), stepId })
  }

  /** Tells what the partly filled last block of an ended sequence holds. */
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
    if (this.#evicted.size > this.#maxEvictedHashes) {
      const [oldest] = this.#evicted
      if (oldest !== undefined) this.#evicted.delete(oldest)
    }
    this.#onEvict?.(entry)
  }

  /** The pool's content was lost (a failed step, a new device). */
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
