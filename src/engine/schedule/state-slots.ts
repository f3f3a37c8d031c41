/**
 * Assigns the slots of the state pool, for models with layers that keep a recurrent state besides K and V. Only bookkeeping: the backend has
 * the data. Some slots are snapshots: they hold the state at a block border of a known text, so that the prefix cache works for these models too.
 *
 * A step reads a sequence's state from one slot and writes it to the same or another slot. A slot that is to be kept is sealed: the sequence's
 * next step reads it but writes elsewhere. So a snapshot costs no copy, and any number of sequences can continue from it.
 */
import { BlockPool } from './block-pool.ts'
import type { BlockContents } from './block-pool.ts'
import type { BlockHash, PrefixMatch } from './prefix-cache.ts'
import { newSequenceState, type Sequence, type SequenceState } from './sequence.ts'

/** The slot that a step reads a sequence's state from (-1: the sequence begins) and the slot that it writes. */
export interface StateUse {
  readonly read: number
  readonly write: number
}

interface Snapshot {
  readonly slot: number
  readonly hash: BlockHash
  /** The step that writes the slot. Only later steps may read it. */
  readonly stepId: number
}

/**
 * The next block border, in tokens, at which a snapshot of a sequence's state is wanted: where its tokens diverge from a known text, else the
 * last border before its newest token. null: none.
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

/** The slots of the state pool: states of running sequences, and snapshots at block borders. */
export class StateSlots {
  readonly #blockSize: number
  readonly #snapshots = new Snapshots()
  readonly #pool: BlockPool
  /** Released slots that the step planned last may still read. The next plan may use them. */
  readonly #retired: number[] = []

  constructor(numSlots: number, blockSize: number) {
    this.#blockSize = blockSize
    this.#pool = new BlockPool(numSlots, this.#snapshots)
  }

  /** Slots that no sequence holds, including snapshots. */
  get numFree(): number {
    return this.#pool.numFree
  }

  /** Slots that sequences hold, without those that become free with the next plan. */
  get numHeld(): number {
    const isGivenUp = (slot: number) =>
      this.#retired.filter((other) => other === slot).length === this.#pool.refCount(slot)
    return this.#pool.numBlocks - this.#pool.numFree - [...new Set(this.#retired)].filter(isGivenUp).length
  }

  /** Begins a plan: slots that only the previous plan's step reads become free. */
  beginPlan(): void {
    this.#pool.release(this.#retired.splice(0))
  }

  /** Cuts a match to the longest prefix with a snapshot that step `stepId` can read. Partial blocks are dropped: states exist at borders only. */
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

  /** Whether a running sequence is about to create a snapshot of the same text, beyond the match. Waiting for it saves computing that text twice. */
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

  /** Lets a sequence continue from the snapshot of its first `numBlocks` blocks; 0: it begins without a state. */
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

  /**
   * Whether enough slots are free to make the next step of each revocable: if a mask comes too late, the state before the step is needed again.
   * The last slot is left for a sequence that needs its first, or it would wait until a grammar ends.
   * @param running all that run, some of which may have no slot yet
   * @param canAdmit another sequence waits and has a place
   */
  canRevoke(sequences: readonly Sequence[], running: readonly Sequence[], canAdmit: boolean): boolean {
    const numUnmasked = sequences.filter(({ isUnmasked }) => isUnmasked).length
    const numSpare = canAdmit || running.some(({ isDecoding, state }) => !isDecoding && state.slot < 0) ? 1 : 0
    return numUnmasked === 0 || numUnmasked + numSpare <= this.#pool.numFree
  }

  /**
   * Assigns the slots of a step that computes a sequence's tokens up to `end`. Call only if `canAdvance` is true.
   * @param isKept keep the new state as a snapshot
   * @param isRevocable keep the previous state until the step is confirmed or revoked; takes a free slot
   */
  advance(sequence: Sequence, end: number, isKept: boolean, stepId: number, isRevocable = false): StateUse {
    const { state } = sequence
    const read = state.slot
    let write = read
    if (isRevocable) {
      const [fresh] = this.#pool.allocate(1) ?? []
      if (fresh === undefined || read < 0) throw new Error('a sequence has no second slot for its state')
      write = fresh
      // The border and the undo entry each hold the slot.
      if (state.border?.slot === read) this.#pool.acquire(read)
      state.undo.push({ stepId, slot: read, isSealed: state.isSealed })
    } else if (read < 0 || state.isSealed) {
      const [fresh] = this.#pool.allocate(1) ?? []
      if (fresh === undefined) {
        // No slot is free, but no other sequence holds this one: overwrite it and lose the snapshot.
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

  /** Confirms the oldest of a sequence's revocable steps: the state before it is no longer needed. */
  confirm({ state }: Sequence): void {
    const first = state.undo.shift()
    if (first !== undefined) this.#pool.release([first.slot])
  }

  /** Revokes the oldest of a sequence's revocable steps and all after it: restores the state before it. */
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
    // The border already holds this slot.
    if (state.border?.slot === first.slot) this.#pool.release([first.slot])
  }

  /** Call when more of a sequence's tokens are known: publishes its border as a snapshot if its text is complete. `chain`: hashes of its blocks. */
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

  /** Releases all slots of a sequence that ends or starts over. */
  release(sequence: Sequence): void {
    const { state } = sequence
    this.#dropBorder(state)
    if (state.slot >= 0) this.#pool.release([state.slot])
    this.#pool.release(state.undo.map(({ slot }) => slot))
    sequence.state = newSequenceState()
  }

  /** Forgets all snapshots, after the pool's content was lost. */
  clear(): void {
    this.#snapshots.clear()
  }

  /** The length, in blocks and at most `numBlocks`, of the longest prefix of a chain with a snapshot that step `stepId` can read. */
  #find(chain: readonly BlockHash[], numBlocks: number, stepId: number): number {
    for (let count = numBlocks; count > 0; count--) {
      const snapshot = this.#snapshots.byHash.get(chain[count - 1] ?? '')
      if (snapshot !== undefined && snapshot.stepId < stepId) return count
    }
    return 0
  }

  /** Drops the sequence's border, and with it the hold on a slot that the sequence no longer writes. */
  #dropBorder(state: SequenceState): void {
    const { border } = state
    state.border = null
    // The step being planned may still read this slot.
    if (border !== null && border.slot !== state.slot) this.#retired.push(border.slot)
  }

  #forget(hash: BlockHash | null): void {
    const snapshot = hash === null ? undefined : this.#snapshots.byHash.get(hash)
    if (snapshot !== undefined) this.#snapshots.forget(snapshot.slot)
  }
}
