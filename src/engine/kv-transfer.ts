/**
 * Moves KV blocks between the pool and the tiers, beside the steps: a sequence whose prefix is being fetched waits in the queue while others run,
 * and what a sequence leaves is read back before its blocks can be written again (runner calls keep their order). Every operation is counted before it
 * is submitted, and its end published however it ends.
 */
import type { EventBus } from './event-bus.ts'
import type { KvDoneEvent } from './events.ts'
import type { KvTiers, StoredBlock } from './kv-tiers.ts'
import type { BlockHash, PrefixMatch } from './prefix-cache.ts'
import type { Runner } from './runner/runner.ts'
import type { Scheduler } from './scheduler.ts'
import type { Sequence } from './sequence.ts'

export interface KvTransferParts {
  readonly tiers: KvTiers
  readonly runner: Runner
  readonly bus: EventBus
  readonly blockSize: number
  readonly blockBytes: number
  readonly onError: (where: string, error: unknown) => void
  /** A waiting sequence can be scheduled now. */
  readonly onLoaded: () => void
}

export class KvTransfer {
  readonly #parts: KvTransferParts
  readonly #inFlight = new Set<Promise<void>>()
  #numOperations = 0

  constructor(parts: KvTransferParts) {
    this.#parts = parts
  }

  /** Starts to fetch what the pool does not hold of a waiting sequence; false when the tiers have nothing of it. */
  prefetch(scheduler: Scheduler, sequence: Sequence, match: PrefixMatch): boolean {
    if (sequence.isKvLookedUp || sequence.cacheRoot === null || match.missReason === 'disabled') return false
    sequence.isKvLookedUp = true
    const wanted = this.#lookup(sequence, match.blocks.length)
    if (wanted.length === 0) return false
    // The found prefix is held, or what is fetched might have nothing left to continue.
    const blocks = scheduler.reserve(match.blocks, wanted.length)
    if (blocks === null) return false
    sequence.isLoadingKv = true
    this.#track(this.#retrieve(scheduler, sequence, wanted, blocks, match.blocks))
    return true
  }

  /** Keeps the full blocks of a sequence that ends. Call while it still has them. */
  store(sequence: Sequence): void {
    const { tiers, blockSize } = this.#parts
    const { cacheRoot, blockHashes, tokens, blockTable } = sequence
    if (cacheRoot === null) return
    const kept: (Omit<StoredBlock, 'bytes'> & { readonly block: number })[] = []
    for (let i = 0; i < sequence.numPublishedBlocks; i++) {
      const hash = blockHashes[i] ?? ''
      if (tiers.has(hash)) continue
      kept.push({
        hash,
        parent: blockHashes[i - 1] ?? cacheRoot,
        tokens: tokens.slice(i * blockSize, (i + 1) * blockSize),
        block: blockTable.at(i),
      })
    }
    if (kept.length > 0) this.#track(this.#store(sequence.requestId, kept))
  }

  /** When everything in flight has ended. */
  async settle(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight)
  }

  #lookup(sequence: Sequence, from: number): { hash: BlockHash; parent: BlockHash; tokens: Int32Array }[] {
    const { tiers, blockSize } = this.#parts
    const { blockHashes, cacheRoot, tokens } = sequence
    const wanted: { hash: BlockHash; parent: BlockHash; tokens: Int32Array }[] = []
    const end = this.#begin(sequence.requestId, 'lookup', 0)
    try {
      const numCandidates = Math.floor((tokens.length - 1) / blockSize)
      for (let i = from; i < numCandidates; i++) {
        const hash = blockHashes[i] ?? ''
        if (!tiers.has(hash)) break
        wanted.push({
          hash,
          parent: blockHashes[i - 1] ?? cacheRoot ?? '',
          tokens: tokens.slice(i * blockSize, (i + 1) * blockSize),
        })
      }
    } finally {
      end(wanted.length, 0, true)
    }
    return wanted
  }

  async #retrieve(
    scheduler: Scheduler,
    sequence: Sequence,
    wanted: readonly { hash: BlockHash; parent: BlockHash; tokens: Int32Array }[],
    blocks: readonly number[],
    held: readonly number[],
  ): Promise<void> {
    const { runner, blockBytes, onLoaded } = this.#parts
    const { requestId } = sequence
    const end = this.#begin(requestId, 'retrieve', wanted.length)
    const generation = scheduler.generation
    let numLoaded = 0
    try {
      const found = await this.#read(requestId, wanted)
      const bytes = new Uint8Array(found.length * blockBytes)
      for (const [i, each] of found.entries()) bytes.set(each, i * blockBytes)
      if (found.length > 0) await runner.writeBlocks(blocks.slice(0, found.length), bytes)
      // A pool that was lost meanwhile may have been lost after the write.
      if (scheduler.generation === generation) {
        for (const [i, { hash, parent, tokens }] of wanted.slice(0, found.length).entries()) {
          scheduler.cache.publish(blocks[i] ?? -1, hash, parent, tokens, scheduler.stepId)
        }
        numLoaded = found.length
      }
    } finally {
      scheduler.pool.release([...held, ...blocks])
      sequence.isLoadingKv = false
      end(numLoaded, numLoaded * blockBytes, numLoaded === wanted.length)
      onLoaded()
    }
  }

  /** Bytes of the leading blocks that are still there and whole. */
  async #read(
    requestId: string,
    wanted: readonly { hash: BlockHash; parent: BlockHash; tokens: Int32Array }[],
  ): Promise<Uint8Array[]> {
    const { tiers, blockBytes } = this.#parts
    const numOnDisk = wanted.filter(({ hash }) => !tiers.isInHostMemory(hash)).length
    const end = numOnDisk === 0 ? null : this.#begin(requestId, 'disk_read', numOnDisk)
    const found: Uint8Array[] = []
    try {
      for (const { hash, parent, tokens } of wanted) {
        const bytes = await tiers.get(hash, parent, tokens)
        if (bytes === null) break
        found.push(bytes)
      }
    } finally {
      end?.(numOnDisk, numOnDisk * blockBytes, found.length === wanted.length)
    }
    return found
  }

  async #store(
    requestId: string,
    kept: readonly (Omit<StoredBlock, 'bytes'> & { readonly block: number })[],
  ): Promise<void> {
    const { runner, tiers, blockBytes } = this.#parts
    const end = this.#begin(requestId, 'store', kept.length)
    let isStored = false
    try {
      const bytes = await runner.readBlocks(kept.map(({ block }) => block))
      for (const [i, { hash, parent, tokens }] of kept.entries()) {
        tiers.put({ hash, parent, tokens, bytes: bytes.slice(i * blockBytes, (i + 1) * blockBytes) })
      }
      isStored = true
    } finally {
      end(kept.length, isStored ? kept.length * blockBytes : 0, isStored)
    }
  }

  #begin(
    requestId: string,
    operation: KvDoneEvent['operation'],
    numBlocks: number,
  ): (numBlocks: number, bytes: number, ok: boolean) => void {
    const operationId = this.#numOperations++
    const { bus } = this.#parts
    bus.publish({ type: 'kvSubmitted', requestId, atMs: performance.now(), operationId, operation, numBlocks })
    return (numBlocks, bytes, ok) => {
      bus.publish({ type: 'kvDone', requestId, atMs: performance.now(), operationId, operation, numBlocks, bytes, ok })
    }
  }

  #track(operation: Promise<void>): void {
    const tracked = operation
      .catch((error: unknown) => this.#parts.onError('kv tier', error))
      .finally(() => this.#inFlight.delete(tracked))
    this.#inFlight.add(tracked)
  }
}
