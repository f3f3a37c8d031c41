/**
 * Moves KV blocks between the pool and the tiers while steps run. A sequence whose prefix is being fetched waits in the queue. The blocks of an ended
 * sequence are read back before they can be written again, because runner calls keep their order. Every operation is counted before it is submitted,
 * and its end is published in every case.
 */
import type { EventBus } from '../event-bus.ts'
import type { KvDoneEvent, KvOperationCount } from '../events.ts'
import type { KvTiers, StoredBlock } from './kv-tiers.ts'
import type { PrefixMatch } from '../schedule/prefix-cache.ts'
import { RunnerError } from '../runner/runner.ts'
import type { Runner } from '../runner/runner.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { Sequence } from '../schedule/sequence.ts'

interface KvTransferParts {
  readonly tiers: KvTiers
  readonly runner: Runner
  readonly bus: EventBus
  readonly blockSize: number
  readonly blockBytes: number
  /** The current pool; null: unknown. */
  readonly poolId: () => number | null
  readonly onError: (where: string, error: unknown) => void
  /** Called when a waiting sequence can be scheduled. */
  readonly onLoaded: () => void
}

/** A block to fetch: its name and expected content. */
type WantedBlock = Omit<StoredBlock, 'bytes'>

/** A block to store, and its place in the pool. */
type PooledBlock = WantedBlock & { readonly block: number }

interface Retrieval {
  readonly scheduler: Scheduler
  readonly sequence: Sequence
  readonly wanted: readonly WantedBlock[]
  /** Destinations in the pool. */
  readonly blocks: readonly number[]
  /** The blocks of the prefix that they continue. */
  readonly held: readonly number[]
  readonly pool: number
}

/** An operation under way. */
interface Operation {
  /** Records that the operation is incomplete, with an error or a short code. The first one counts. */
  fail(cause: unknown): void
  /** Ends the operation with the amount of work done. */
  end(numBlocks: number, bytes: number): void
  /** Runs a part of the operation in its tracing context. */
  run<T>(fn: () => T): T
}

const MAX_BYTES_PER_CALL = 32 << 20

/** Moves blocks between the pool and the tiers, beside the steps, and publishes an event per operation. */
export class KvTransfer {
  readonly #parts: KvTransferParts
  readonly #inFlight = new Set<Promise<void>>()
  #numOperations = 0
  readonly #counts = new Map<string, { -readonly [K in keyof KvOperationCount]: KvOperationCount[K] }>()

  constructor(parts: KvTransferParts) {
    this.#parts = parts
  }

  /** Totals of finished operations. */
  get counts(): readonly KvOperationCount[] {
    return [...this.#counts.values()]
  }

  /** Starts to fetch blocks of a waiting sequence that the pool does not have; false if the tiers have none. */
  prefetch(scheduler: Scheduler, sequence: Sequence, match: PrefixMatch): boolean {
    if (sequence.isKvLookedUp || sequence.cacheRoot === null || match.missReason === 'disabled') return false
    const pool = this.#parts.poolId()
    if (pool === null) return false
    sequence.isKvLookedUp = true
    const wanted = this.#lookup(sequence, match.blocks.length)
    if (wanted.length === 0) return false
    // The found prefix is held. Otherwise the fetched blocks might have nothing left to continue.
    const blocks = scheduler.reserve(match.blocks, wanted.length)
    if (blocks === null) return false
    sequence.isLoadingKv = true
    this.#track(this.#retrieve({ scheduler, sequence, wanted, blocks, held: match.blocks, pool }))
    return true
  }

  /** Stores the full blocks of a sequence that ends. Must be called while the sequence still has them. */
  store(sequence: Sequence): void {
    const { tiers, blockSize, poolId } = this.#parts
    const { cacheRoot, blockHashes, tokens, blockTable } = sequence
    const pool = poolId()
    if (cacheRoot === null || pool === null) return
    const kept: PooledBlock[] = []
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
    if (kept.length > 0) this.#track(this.#store(sequence.requestId, kept, pool))
  }

  /** Waits until all operations in flight have ended. */
  async settle(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight)
  }

  #lookup(sequence: Sequence, from: number): WantedBlock[] {
    const { tiers, blockSize } = this.#parts
    const { blockHashes, cacheRoot, tokens } = sequence
    const wanted: WantedBlock[] = []
    const operation = this.#begin(sequence.requestId, 'lookup', 0)
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
    } catch (error) {
      operation.fail(error)
      throw error
    } finally {
      operation.end(wanted.length, 0)
    }
    return wanted
  }

  async #retrieve(retrieval: Retrieval): Promise<void> {
    const { scheduler, sequence, wanted, blocks, held, pool } = retrieval
    const { runner, blockBytes, onLoaded } = this.#parts
    const { requestId } = sequence
    const operation = this.#begin(requestId, 'retrieve', wanted.length)
    const { generation } = scheduler
    let numLoaded = 0
    try {
      const found = await this.#read(requestId, wanted)
      if (found.length < wanted.length) operation.fail('incomplete')
      const written: Promise<void>[] = []
      for (let i = 0; i < found.length; i += this.#blocksPerCall) {
        const piece = found.slice(i, i + this.#blocksPerCall)
        const bytes = new Uint8Array(piece.length * blockBytes)
        for (const [j, each] of piece.entries()) bytes.set(each, j * blockBytes)
        const into = blocks.slice(i, i + piece.length)
        written.push(operation.run(() => runner.writeBlocks(into, bytes, pool)))
      }
      await Promise.all(written)
      // The pool may have been lost after the write.
      if (scheduler.generation !== generation) operation.fail('device_lost')
      else {
        for (const [i, { hash, parent, tokens }] of wanted.slice(0, found.length).entries()) {
          scheduler.cache.publish(blocks[i] ?? -1, hash, parent, tokens, scheduler.stepId)
        }
        numLoaded = found.length
      }
    } catch (error) {
      operation.fail(error)
      throw error
    } finally {
      scheduler.pool.release([...held, ...blocks])
      sequence.isLoadingKv = false
      operation.end(numLoaded, numLoaded * blockBytes)
      onLoaded()
    }
  }

  /** Bytes of the leading blocks that are still available and intact. */
  async #read(requestId: string, wanted: readonly WantedBlock[]): Promise<Uint8Array[]> {
    const { tiers, blockBytes } = this.#parts
    const numOnDisk = wanted.filter(({ hash }) => !tiers.isInHostMemory(hash)).length
    const operation = numOnDisk === 0 ? null : this.#begin(requestId, 'disk_read', numOnDisk)
    const found: Uint8Array[] = []
    let numRead = 0
    try {
      for (const { hash, parent, tokens } of wanted) {
        let bytes = tiers.getFromHost(hash, parent, tokens)
        if (bytes === null) {
          const read = () => tiers.getFromDisk(hash, parent, tokens)
          bytes = await (operation === null ? read() : operation.run(read))
          if (bytes !== null) numRead++
        }
        if (bytes === null) {
          operation?.fail('incomplete')
          break
        }
        found.push(bytes)
      }
    } catch (error) {
      operation?.fail(error)
      throw error
    } finally {
      operation?.end(numRead, numRead * blockBytes)
    }
    return found
  }

  async #store(requestId: string, kept: readonly PooledBlock[], pool: number): Promise<void> {
    const { runner, tiers, blockBytes } = this.#parts
    const operation = this.#begin(requestId, 'store', kept.length)
    let numStored = 0
    try {
      // All reads are submitted at once. After a later step they would find the content of the next owner.
      const pieces: Promise<Uint8Array>[] = []
      for (let i = 0; i < kept.length; i += this.#blocksPerCall) {
        const piece = kept.slice(i, i + this.#blocksPerCall).map(({ block }) => block)
        pieces.push(operation.run(() => runner.readBlocks(piece, pool)))
        pieces.at(-1)?.catch(() => {})
      }
      const writes: (Promise<string | null> | string | null)[] = []
      try {
        // A piece that is stored is let go before the next one is waited for: host memory has its blocks, if it has room.
        for (let i = 0, read = pieces.shift(); read !== undefined; i++, read = pieces.shift()) {
          const bytes = await read
          const piece = kept.slice(i * this.#blocksPerCall, (i + 1) * this.#blocksPerCall)
          for (const [j, { hash, parent, tokens }] of piece.entries()) {
            const block = { hash, parent, tokens, bytes: bytes.slice(j * blockBytes, (j + 1) * blockBytes) }
            writes.push(operation.run(() => tiers.put(block)))
          }
        }
      } finally {
        for (const write of writes) {
          const failure = write instanceof Promise ? await write : write
          if (failure === null) numStored++
          else operation.fail(failure)
        }
      }
    } catch (error) {
      operation.fail(error)
      throw error
    } finally {
      operation.end(numStored, numStored * blockBytes)
    }
  }

  /** Blocks per call. One buffer for all blocks of a long sequence would exceed the limit of many devices. */
  get #blocksPerCall(): number {
    return Math.max(1, Math.floor(MAX_BYTES_PER_CALL / this.#parts.blockBytes))
  }

  #begin(requestId: string, operation: KvDoneEvent['operation'], numBlocks: number): Operation {
    const operationId = this.#numOperations++
    const { bus } = this.#parts
    bus.publish({ type: 'kvSubmitted', requestId, atMs: performance.now(), operationId, operation, numBlocks })
    let errorType: string | null = null
    return {
      run: (fn) => bus.run({ requestId, part: operation }, fn),
      fail: (cause) => (errorType ??= typeof cause === 'string' ? cause : errorTypeOf(cause)),
      end: (numDone, bytes) => {
        const fields = { requestId, atMs: performance.now(), operationId, operation, numBlocks: numDone, bytes }
        const outcome = errorType === null ? { ok: true } : { ok: false, errorType }
        this.#count(operation, outcome.ok ? 'ok' : 'error', bytes)
        bus.publish({ type: 'kvDone', ...fields, ...outcome })
      },
    }
  }

  #count(operation: KvDoneEvent['operation'], outcome: 'ok' | 'error', bytes: number): void {
    const key = `${operation} ${outcome}`
    const known = this.#counts.get(key) ?? { operation, outcome, count: 0, bytes: 0 }
    known.count++
    known.bytes += bytes
    this.#counts.set(key, known)
  }

  #track(operation: Promise<void>): void {
    const tracked = operation
      .catch((error: unknown) => this.#parts.onError('kv tier', error))
      .finally(() => this.#inFlight.delete(tracked))
    this.#inFlight.add(tracked)
  }
}

/** A short code of an error: the system's, the runner's, or the error's name. */
function errorTypeOf(error: unknown): string {
  if (error instanceof RunnerError) return error.code
  if (error instanceof Error) return 'code' in error ? String(error.code) : error.name
  return 'error'
}
