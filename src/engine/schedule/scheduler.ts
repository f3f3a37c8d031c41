/**
 * Which sequences compute how many tokens in the next step. Pure data: sequences, counts and block numbers in, a plan out.
 *
 * One token budget per step. Every running sequence with fewer computed than total tokens gets the difference, decode steps first,
 * then prefill chunks in order of arrival, then newcomers; while someone decodes, only as many prompt tokens as take a bounded time. A sequence's prompt blocks are reserved when it is admitted, so only
 * decoding can run out of blocks; then the newest sequence gives its blocks back and recomputes later, before any newcomer.
 *
 * Tenants (API keys) take turns: waiting sequences and prompt chunks go by how many of a tenant's come before them, priorities count within a tenant, and
 * a tenant of which nothing runs gets the place of the newest sequence of the one that has most.
 *
 * A sampled token counts as pending from the moment its step is planned, so the next step can be planned and submitted before it is
 * known (run-ahead). Steps run in the order they were planned: a block given back now may be written by the very next plan.
 */
import { BlockPool } from './block-pool.ts'
import { compareRunning, compareWaiting, insert, remove } from './order.ts'
import { PrefixCache } from './prefix-cache.ts'
import type { BlockHash, PrefixCacheOptions, PrefixMatch } from './prefix-cache.ts'
import type { Sequence } from './sequence.ts'
import { StateSlots } from './state-slots.ts'
import { StepDraft } from './step-draft.ts'
import type { ScheduledSequence, ScheduledStep, StepBounds } from './step-draft.ts'
import type { PromptBacklog } from './step-times.ts'
import { countByTenant, newestOfLargest, takingTurns } from './turns.ts'

export interface SchedulerOptions extends PrefixCacheOptions, StepBounds {
  readonly numBlocks: number
  /** Slots for the states of sequences; absent or 0: the model keeps none. */
  readonly numStateSlots?: number
  readonly maxNumSeqs: number
  /**
   * Asked once for each waiting sequence that is next, with what the pool holds of it: true when more of its blocks are being
   * fetched (kv-tiers.ts), and it is to wait until `isLoadingKv` is unset.
   */
  readonly prefetch?: (sequence: Sequence, match: PrefixMatch) => boolean
  /** Prompt tokens that a step may have beside decode rows: every stream waits for all of them. Absent: the whole budget. */
  readonly maxPrefillTokens?: (numDecodeTokens: number, backlog: PromptBacklog) => number
}

/** What planning did, step or not. */
export interface Schedule {
  readonly step: ScheduledStep | null
  readonly preempted: readonly { readonly sequence: Sequence; readonly numComputedTokens: number }[]
}

const NO_MATCH: PrefixMatch = { blocks: [], partial: null, numTokens: 0, missReason: 'disabled' }

/** Plans steps: which sequences run, how many tokens each, with which KV blocks. */
export class Scheduler {
  readonly pool: BlockPool
  readonly cache: PrefixCache
  /** null: the model keeps no states. */
  readonly states: StateSlots | null
  readonly #options: SchedulerOptions
  /** In order of (priority, arrival): first served, last preempted. */
  readonly #running: Sequence[] = []
  /** In order of (priority, preempted first, arrival). */
  readonly #waiting: Sequence[] = []
  #stepId = 0
  #generation = 0

  constructor(options: SchedulerOptions) {
    this.#options = options
    this.cache = new PrefixCache(options)
    this.pool = new BlockPool(options.numBlocks, this.cache)
    const { numStateSlots = 0, blockSize } = options
    this.states = numStateSlots > 0 ? new StateSlots(numStateSlots, blockSize) : null
  }

  get running(): readonly Sequence[] {
    return this.#running
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting
  }

  /** Tokens of the waiting sequences. */
  get numWaitingTokens(): number {
    return this.#waiting.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
  }

  /** Id of the last step planned. */
  get stepId(): number {
    return this.#stepId
  }

  /** Counts how often the pool's content was lost. */
  get generation(): number {
    return this.#generation
  }

  /** Queues a sequence. Its tokens must fit the pool: ceil((prompt + output) / blockSize) <= numBlocks. */
  add(sequence: Sequence): void {
    insert(this.#waiting, sequence, compareWaiting)
  }

  /** Ends a sequence, in whatever state it is: its blocks are free for the next plan, what they hold can still be hit. */
  finish(sequence: Sequence): void {
    if (sequence.status === 'finished') return
    if (sequence.status === 'running') {
      remove(this.#running, sequence)
      this.#publishAll(sequence)
      this.#releaseBlocks(sequence)
    } else {
      remove(this.#waiting, sequence)
    }
    sequence.status = 'finished'
  }

  /**
   * The pool's content is lost: nothing of it may be hit again, and no step that was planned will be settled. Running sequences
   * are to be finished by the caller, or to start over (`restart`).
   */
  invalidate(): void {
    this.#generation++
    this.cache.clear()
    this.states?.clear()
    for (const sequence of this.#running) {
      noteComputed(sequence)
      sequence.numComputedTokens = 0
      sequence.numPendingTokens = 0
    }
    // Also of those that were preempted while their step was in flight: their token will not come.
    for (const sequence of this.#waiting) sequence.numPendingTokens = 0
  }

  /** After `invalidate`: running sequences go back to the queue and compute their known tokens again. */
  restart(): Schedule['preempted'] {
    const preempted: Schedule['preempted'][number][] = []
    for (const sequence of this.#running.slice()) {
      // Admitted by a plan that was never finished: nobody has heard of it.
      const isAnnounced = sequence.counters.firstScheduledMs !== null
      this.#requeue(sequence, isAnnounced ? 'preempted' : 'waiting')
      if (!isAnnounced) continue
      sequence.counters.numPreemptions++
      preempted.push({ sequence, numComputedTokens: 0 })
    }
    return preempted
  }

  /**
   * `count` blocks to fill from outside, and a hold on those they continue; null when that would take what running sequences need next.
   * All are the caller's to release.
   */
  reserve(held: readonly number[], count: number): number[] | null {
    for (const block of held) this.pool.acquire(block)
    const blocks = this.pool.numFree < count + this.#running.length ? null : this.pool.allocate(count)
    if (blocks === null) this.pool.release(held)
    return blocks
  }

  /** Plans the next step. Null step: nothing can run, or not before a step in flight is known. */
  schedule(): Schedule {
    this.states?.beginPlan()
    const isAhead = this.#running.filter(({ numPendingTokens }) => numPendingTokens > 0)
    if (isAhead.some(({ canRunAhead }) => !canRunAhead) || this.states?.canRevoke(isAhead) === false) {
      return { step: null, preempted: [] }
    }
    const draft = new StepDraft(this.#stepId + 1, this.#options, this.states)
    const preempted: Schedule['preempted'][number][] = []
    this.#makeRoom(preempted)
    this.#scheduleDecodes(draft, preempted)
    if (!draft.isEmpty) {
      draft.boundPrefill(this.#options.maxPrefillTokens?.(draft.numDecodeTokens, this.#backlog()) ?? Infinity)
    }
    for (const sequence of takingTurns(this.#running)) {
      if (!sequence.isDecoding && sequence.numPendingTokens === 0 && this.#hasStateSlot(sequence))
        draft.addChunk(sequence)
      this.#publish(sequence, draft.stepId)
    }
    if (preempted.length === 0) this.#admit(draft)
    if (draft.isEmpty) return { step: null, preempted }
    this.#stepId = draft.stepId
    return { step: draft.finish(), preempted }
  }

  /**
   * The step's result is known: `numAccepted` of its sampled tokens count (drafts are accepted while they equal the samples).
   * The caller pushes them to the sequence after this.
   */
  settle(entry: ScheduledSequence, numAccepted: number): void {
    const { sequence } = entry
    if (entry.numSampleRows === 0) return
    sequence.numPendingTokens -= entry.numSampleRows
    if (sequence.counters.numPreemptions !== entry.epoch) return
    sequence.numComputedTokens -= entry.numSampleRows - numAccepted
    if (!entry.isUnmasked) return
    if (numAccepted > 0) this.states?.confirm(sequence)
    else this.states?.revoke(sequence)
  }

  /** Tokens were pushed: full blocks of known tokens can be shared from now on. */
  publish(sequence: Sequence): void {
    this.#publish(sequence, this.#stepId)
  }

  /** Prompts that are not computed, of running sequences and of those that there is a place for. */
  #backlog(): PromptBacklog {
    const numPlaces = Math.max(0, this.#options.maxNumSeqs - this.#running.length)
    const started = this.#running.filter(({ isDecoding }) => !isDecoding)
    const prompts = [...started, ...this.#waiting.slice(0, numPlaces)]
    const numTokens = prompts.reduce((sum, { tokens, numComputedTokens }) => sum + tokens.length - numComputedTokens, 0)
    return { numPrompts: prompts.length, numTokens }
  }

  #scheduleDecodes(draft: StepDraft, preempted: Schedule['preempted'][number][]): void {
    let numDecoding = 0
    for (const sequence of this.#running) if (this.#wantsDecodeStep(sequence)) numDecoding++
    for (let i = 0; i < this.#running.length; i++) {
      const sequence = this.#running[i]
      if (sequence === undefined || !this.#wantsDecodeStep(sequence) || !this.#hasStateSlot(sequence)) continue
      if (draft.budget === 0) return
      numDecoding--
      const drafts = this.#draftsOf(sequence, draft.roomForDrafts(numDecoding))
      while (!this.#grow(sequence, sequence.numTokens + drafts.length)) {
        const victim = this.#victim(draft, sequence)
        preempted.push({ sequence: victim, numComputedTokens: victim.numComputedTokens })
        this.#preempt(victim)
        if (victim === sequence) return
      }
      draft.addDecode(sequence, drafts)
    }
  }

  /**
   * The tokens to verify in this step. They continue known tokens only, end where the answer (and so the context) does, and are dropped rather
   * than given a block that another sequence would have to make room for.
   */
  #draftsOf(sequence: Sequence, room: number): readonly number[] {
    const { drafts, numPendingTokens, maxOutputTokens, numOutputTokens, numTokens, blockTable } = sequence
    sequence.drafts = []
    if (drafts.length === 0 || numPendingTokens > 0) return []
    const { blockSize } = this.#options
    const numSpareBlocks = Math.max(0, this.pool.numFree - this.#running.length)
    const numSlots = (blockTable.length + numSpareBlocks) * blockSize - numTokens
    return drafts.slice(0, Math.max(0, Math.min(room, maxOutputTokens - numOutputTokens - 1, numSlots)))
  }

  /** The newest sequence without work in this step, of the tenant that has most; in the end the one that asks. */
  #victim(draft: StepDraft, asking: Sequence): Sequence {
    return newestOfLargest(this.#running, (sequence) => sequence === asking || !draft.includes(sequence)) ?? asking
  }

  /** A tenant of which nothing runs is not kept waiting by one of which several sequences do: the next step has room for its first. */
  #makeRoom(preempted: Schedule['preempted'][number][]): void {
    const counts = countByTenant(this.#running)
    const next = takingTurns(this.#waiting, counts).find((sequence) => isReady(sequence))
    if (next === undefined || counts.has(next.tenant)) return
    const numNew = Math.ceil(next.tokens.length / this.#options.blockSize)
    const fits = this.pool.numFree >= numNew + this.#running.length && this.states?.numFree !== 0
    if (fits && this.#running.length < this.#options.maxNumSeqs) return
    const victim = newestOfLargest(this.#running)
    if (victim === undefined || (counts.get(victim.tenant) ?? 0) < 2) return
    preempted.push({ sequence: victim, numComputedTokens: victim.numComputedTokens })
    this.#preempt(victim)
  }

  #preempt(sequence: Sequence): void {
    this.#publishAll(sequence)
    sequence.counters.numPreemptions++
    noteComputed(sequence)
    this.#requeue(sequence, 'preempted')
  }

  #requeue(sequence: Sequence, status: 'waiting' | 'preempted'): void {
    remove(this.#running, sequence)
    this.#releaseBlocks(sequence)
    sequence.numComputedTokens = 0
    sequence.status = status
    insert(this.#waiting, sequence, compareWaiting)
  }

  /** First come, first served within a tenant, tenants by turns: the first sequence that does not fit stops the loop, or small ones would starve it. */
  #admit(draft: StepDraft): void {
    for (const sequence of takingTurns(this.#waiting, countByTenant(this.#running)).slice()) {
      if (draft.prefillBudget === 0 || this.#running.length >= this.#options.maxNumSeqs) return
      if (!isReady(sequence)) continue
      if (this.states?.numFree === 0) return
      const match = this.#match(sequence, draft.stepId)
      if (this.states?.isAwaited(sequence, match, this.#running) === true) continue
      if (this.#options.prefetch?.(sequence, match) === true) continue
      if (!this.#allocate(sequence, match, draft)) return
      remove(this.#waiting, sequence)
      const kind = sequence.status === 'waiting' ? 'first' : 'resume'
      sequence.status = 'running'
      insert(this.#running, sequence, compareRunning)
      draft.admitted.push({ sequence, kind, match })
      if (this.#hasStateSlot(sequence)) draft.addChunk(sequence)
      this.#publish(sequence, draft.stepId)
    }
  }

  #match(sequence: Sequence, stepId: number): PrefixMatch {
    // Log-probabilities of prompt tokens need their logits: nothing of the prompt can be skipped.
    if (sequence.cacheRoot === null || sequence.promptLogprobs >= 0) return NO_MATCH
    this.#adoptHashes(sequence, sequence.cacheRoot)
    const match = this.cache.match(sequence.tokens.view, sequence.cacheRoot, sequence.blockHashes, stepId)
    return this.states === null ? match : this.states.match(sequence, match, stepId)
  }

  /** The hashes of a prompt are computed once for all its choices: hashing a long one takes milliseconds. */
  #adoptHashes({ blockHashes, promptHashes, numPromptTokens, tokens }: Sequence, root: BlockHash): void {
    if (blockHashes.length > 0) return
    const numBlocks = Math.floor(numPromptTokens / this.#options.blockSize)
    this.cache.extendChain(promptHashes, root, tokens.view, numBlocks)
    for (const hash of promptHashes) blockHashes.push(hash)
  }

  /** Masks of running sequences have to come before their next step: there are too few slots to take a state back. */
  get waitsForMasks(): boolean {
    return this.states?.canRevoke(this.#running) === false
  }

  #wantsDecodeStep({ isDecoding, wantsMoreTokens, isMaskLate, isPendingVoid }: Sequence): boolean {
    return isDecoding && wantsMoreTokens && !isPendingVoid && !isMaskLate
  }

  /** Whether there is room for the state after its next step; else the steps of others make some. */
  #hasStateSlot(sequence: Sequence): boolean {
    return this.states === null || this.states.canAdvance(sequence)
  }

  /** Blocks for all known tokens. Leaves one free for each running sequence, or admission and preemption would alternate. */
  #allocate(sequence: Sequence, match: PrefixMatch, draft: StepDraft): boolean {
    const { pool } = this
    const numNew = Math.ceil(sequence.tokens.length / this.#options.blockSize) - match.blocks.length
    for (const block of match.blocks) pool.acquire(block)
    const blocks = pool.numFree < numNew + this.#running.length ? null : pool.allocate(numNew)
    if (blocks === null) {
      pool.release(match.blocks)
      return false
    }
    for (const block of match.blocks) sequence.blockTable.push(block)
    for (const block of blocks) sequence.blockTable.push(block)
    if (match.partial !== null) {
      draft.blockCopies.push({ ...match.partial, destination: sequence.blockTable.at(match.blocks.length) })
    }
    this.states?.adopt(sequence, match.blocks.length)
    sequence.numComputedTokens = match.numTokens
    sequence.numPublishedBlocks = match.blocks.length
    return true
  }

  #grow(sequence: Sequence, numTokens: number): boolean {
    const numNew = Math.ceil(numTokens / this.#options.blockSize) - sequence.blockTable.length
    if (numNew <= 0) return true
    const blocks = this.pool.allocate(numNew)
    if (blocks === null) return false
    for (const block of blocks) sequence.blockTable.push(block)
    return true
  }

  #publish(sequence: Sequence, stepId: number): void {
    if (sequence.cacheRoot === null || sequence.status !== 'running') return
    const { blockSize } = this.#options
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

  /** Before its blocks are given back: full ones and the last, partly filled one. */
  #publishAll(sequence: Sequence): void {
    if (sequence.cacheRoot === null) return
    this.#publish(sequence, this.#stepId)
    const { blockSize } = this.#options
    const numKnown = Math.min(sequence.numComputedTokens, sequence.tokens.length)
    const numFull = sequence.numPublishedBlocks
    if (numKnown <= numFull * blockSize || this.states !== null) return
    const parent = numFull === 0 ? sequence.cacheRoot : (sequence.blockHashes[numFull - 1] ?? '')
    const content = sequence.tokens.view.subarray(numFull * blockSize, numKnown)
    this.cache.publishPartial(sequence.blockTable.at(numFull), parent, content, this.#stepId)
  }

  #releaseBlocks(sequence: Sequence): void {
    this.pool.release(sequence.blockTable.view)
    this.states?.release(sequence)
    sequence.blockTable.clear()
    sequence.numPublishedBlocks = 0
  }
}

/** Nothing has to arrive before it can be scheduled. */
function isReady({ isLoadingKv, isMaskPending, numPendingTokens }: Sequence): boolean {
  return !isLoadingKv && !isMaskPending && numPendingTokens === 0
}

/** What it has computed will be computed again: below this, work is recomputation. */
function noteComputed(sequence: Sequence): void {
  const numComputed = Math.min(sequence.numComputedTokens, sequence.tokens.length)
  sequence.maxComputedTokens = Math.max(sequence.maxComputedTokens, numComputed)
}
