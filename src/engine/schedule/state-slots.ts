/**
 * Who has which slot of the pool of states (models whose layers keep a state beside K and V), and which slots hold the state at a block border of
 * a known text: snapshots, by which the prefix cache works for such models too. Holds no data.
 *
 * A step reads a sequence's state from one slot and writes it to one, the same or another. A slot whose state is to be kept is sealed: the sequence's
 * next step reads it and writes elsewhere, so a snapshot costs no copy, and any number of sequences can go on from it.
 */
import { BlockPool } from './block-pool.ts'
import type { BlockContents } from './block-pool.ts'
import type { BlockHash, PrefixMatch } from './prefix-cache.ts'
import { newSequenceState, type Sequence, type SequenceState } from './sequence.ts'

/** Where a step finds a sequence's state (-1: nowhere, it begins) and where it leaves it. */
export interface StateUse {
  readonly read: number
  readonly write: number
}

interface Snapshot {
  readonly slot: number
  readonly hash: BlockHash
  /** The step that writes it: read by a later one. */
  readonly stepId: number
}

/**
 * The next border at which a snapshot of a sequence's state is wanted: where its tokens leave a known text, and the last one before its newest token. null:
 * none is.
 */
export function snapshotBorder(sequence: Sequence, blockSize: number): number | null {
  if (sequence.cacheRoot === null) return null
  const last = Math.floor((sequence.tokens.length - 1) / blockSize) * blockSize
  const { branch } = sequence.state
  const next = branch > sequence.numComputedTokens ? Math.min(branch, last) : last
  return next > sequence.numComputedTokens ? next : null
}

class Snapshots implements BlockContents {
  readonly byHash = new Map<BlockHash, Snapshot>()
  readonly #bySlot = new Map<number, Snapshot>()

  holds(slot: number): boolean {
    return this.#bySlot.has(slot)
  }

  forget(slot: number): void {
    const snapshot = this.#bySlot.get(slot)
    if (snapshot === undefined) return
    this.#bySlot.delete(slot)
    this.byHash.delete(snapshot.hash)
  }

  add(snapshot: Snapshot): void {
    this.#bySlot.set(snapshot.slot, snapshot)
    this.byHash.set(snapshot.hash, snapshot)
  }

  clear(): void {
    this.byHash.clear()
    this.#bySlot.clear()
  }
}

/** Slots of the state pool: running states and snapshots at block borders. */
export class StateSlots {
  readonly #blockSize: number
  readonly #snapshots = new Snapshots()
  readonly #pool: BlockPool
  /** Given up, but maybe read by the step planned last: free for the next one. */
  readonly #retired: number[] = []

  constructor(numSlots: number, blockSize: number) {
    this.#blockSize = blockSize
    this.#pool = new BlockPool(numSlots, this.#snapshots)
  }

  /** Slots without users; snapshots are among them. */
  get numFree(): number {
    return this.#pool.numFree
  }

  /** Slots with users, those that wait for the next plan not counted. */
  get numHeld(): number {
    const isGivenUp = (slot: number) =>
      this.#retired.filter((other) => other === slot).length === this.#pool.refCount(slot)
    return this.#pool.numBlocks - this.#pool.numFree - [...new Set(this.#retired)].filter(isGivenUp).length
  }

  /** A plan begins: what the one before read can be written. */
  beginPlan(): void {
    this.#pool.release(this.#retired.splice(0))
  }

  /** Of a match as many blocks as there is a snapshot for, to be read by step `stepId`; nothing of a block, for a state stands at its border. */
  match(sequence: Sequence, { blocks, missReason }: PrefixMatch, stepId: number): PrefixMatch {
    const numBlocks = this.#find(sequence.blockHashes, blocks.length, stepId)
    const isCut = numBlocks < blocks.length
    sequence.state.branch = isCut ? blocks.length * this.#blockSize : 0
    return {
      blocks: blocks.slice(0, numBlocks),
      partial: null,
      numTokens: numBlocks * this.#blockSize,
      missReason: isCut ? (numBlocks > 0 ? 'diverged' : 'cold') : missReason,
    }
  }

  /** A running sequence is about to leave a snapshot of the same text, further on than the match: computing it twice helps nobody. */
  isAwaited(sequence: Sequence, match: PrefixMatch, running: readonly Sequence[]): boolean {
    if (match.missReason === 'disabled') return false
    return running.some((other) => {
      const border = other.state.isSealed ? other.numComputedTokens : snapshotBorder(other, this.#blockSize)
      if (other.isDecoding || border === null || border <= match.numTokens) return false
      const index = border / this.#blockSize - 1
      const hash = other.blockHashes[index]
      return hash !== undefined && hash === sequence.blockHashes[index]
    })
  }

  /** Gives a sequence the snapshot of its first `numBlocks` blocks to go on from; 0: it begins. */
  adopt(sequence: Sequence, numBlocks: number): void {
    const snapshot = numBlocks === 0 ? undefined : this.#snapshots.byHash.get(sequence.blockHashes[numBlocks - 1] ?? '')
    if (snapshot === undefined) return
    this.#pool.acquire(snapshot.slot)
    sequence.state.slot = snapshot.slot
    sequence.state.isSealed = true
  }

  /** Whether there is a slot for the state after a sequence's next tokens. */
  canAdvance({ state: { slot, isSealed }, isUnmasked }: Sequence): boolean {
    const hasOwn = !isUnmasked && slot >= 0 && (!isSealed || this.#pool.refCount(slot) === 1)
    return hasOwn || this.#pool.numFree > 0
  }

  /** Whether the next step of each can be revoked: where a mask comes too late, the state has to be what it was, and is kept in a slot until then. */
  canRevoke(sequences: readonly Sequence[]): boolean {
    return sequences.filter(({ isUnmasked }) => isUnmasked).length <= this.#pool.numFree
  }

  /**
   * Slots of a step that computes a sequence's tokens up to `end`. After `canAdvance`.
   * @param isKept the state is to be kept as a snapshot
   * @param isRevocable the state before it is needed until the step is confirmed: takes a free slot
   */
  advance(sequence: Sequence, end: number, isKept: boolean, stepId: number, isRevocable = false): StateUse {
    const { state } = sequence
    const read = state.slot
    let write = read
    if (isRevocable) {
      const [fresh] = this.#pool.allocate(1) ?? []
      if (fresh === undefined || read < 0) throw new Error('a sequence has no second slot for its state')
      write = fresh
      // A border holds the slot too, and goes on doing so.
      if (state.border?.slot === read) this.#pool.acquire(read)
      state.undo.push({ stepId, slot: read, isSealed: state.isSealed })
    } else if (read < 0 || state.isSealed) {
      const [fresh] = this.#pool.allocate(1) ?? []
      if (fresh === undefined) {
        // The only one that has this slot may as well write it; the snapshot is lost.
        if (read < 0 || this.#pool.refCount(read) !== 1) throw new Error('a sequence has no slot for its state')
        this.#snapshots.forget(read)
        if (state.border?.slot === read) state.border = null
      } else {
        write = fresh
        if (read >= 0 && state.border?.slot !== read) this.#retired.push(read)
      }
    }
    state.slot = write
    state.isSealed = isKept
    if (isKept) {
      this.#dropBorder(state)
      state.border = { slot: write, numTokens: end, stepId }
    }
    return { read, write }
  }

  /** The first of a sequence's revocable steps counts. */
  confirm({ state }: Sequence): void {
    const first = state.undo.shift()
    if (first !== undefined) this.#pool.release([first.slot])
  }

  /** The first of a sequence's revocable steps does not count, nor do those behind it: its state is what it was. */
  revoke({ state }: Sequence): void {
    const [first, ...others] = state.undo.splice(0)
    if (first === undefined) return
    const { border, slot } = state
    if (border !== null && border.stepId >= first.stepId) {
      state.border = null
      if (border.slot !== slot) this.#pool.release([border.slot])
    }
    this.#pool.release([slot, ...others.map((undo) => undo.slot)])
    state.slot = first.slot
    state.isSealed = first.isSealed
    // Its border holds it already.
    if (state.border?.slot === first.slot) this.#pool.release([first.slot])
  }

  /** Tokens of a sequence are known that were not: its border may have become a snapshot. `chain`: hashes of its blocks. */
  publish(sequence: Sequence, chain: readonly BlockHash[]): void {
    const { state } = sequence
    const { border } = state
    const hash = border === null ? undefined : chain[border.numTokens / this.#blockSize - 1]
    if (border === null || hash === undefined || sequence.tokens.length < border.numTokens) return
    if (!this.#snapshots.byHash.has(hash)) {
      this.#snapshots.add({ slot: border.slot, hash, stepId: border.stepId })
      if (border.numTokens > sequence.numPromptTokens) {
        this.#forget(state.newest)
        state.newest = hash
      }
    }
    this.#dropBorder(state)
  }

  /** The sequence ends or starts over. */
  release(sequence: Sequence): void {
    const { state } = sequence
    this.#dropBorder(state)
    if (state.slot >= 0) this.#pool.release([state.slot])
    this.#pool.release(state.undo.map(({ slot }) => slot))
    sequence.state = newSequenceState()
  }

  /** The pool's content is lost. */
  clear(): void {
    this.#snapshots.clear()
  }

  /** The longest prefix of at most `numBlocks` blocks of a chain whose state can be read by step `stepId`, in blocks. */
  #find(chain: readonly BlockHash[], numBlocks: number, stepId: number): number {
    for (let count = numBlocks; count > 0; count--) {
      const snapshot = this.#snapshots.byHash.get(chain[count - 1] ?? '')
      if (snapshot !== undefined && snapshot.stepId < stepId) return count
    }
    return 0
  }

  /** Gives up the hold on a border that the sequence has gone on from. */
  #dropBorder(state: SequenceState): void {
    const { border } = state
    state.border = null
    // The step being planned may read it.
    if (border !== null && border.slot !== state.slot) this.#retired.push(border.slot)
  }

  #forget(hash: BlockHash | null): void {
    const snapshot = hash === null ? undefined : this.#snapshots.byHash.get(hash)
    if (snapshot !== undefined) this.#snapshots.forget(snapshot.slot)
  }
}
