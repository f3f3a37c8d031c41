/**
 * Decides which sequences compute how many tokens in the next step. Works on plain data only: sequences, counts and block numbers.
 *
 * Continuous batching with one token budget per step: decode steps first, then prefill chunks in order of arrival, then newly admitted
 * sequences. While a sequence decodes, prompt tokens are limited to those that take a bounded time. Admission reserves all prompt blocks, so
 * only decoding can run out of blocks. Then the newest sequence is preempted: it releases its blocks and is recomputed later, before newcomers.
 * Tenants (API keys) take turns: the n-th sequence of each tenant comes before the (n + 1)-th of any; priorities apply within a tenant. A tenant
 * with no running sequence takes the place of the newest sequence of the tenant with the most.
 *
 * A sampled token counts as pending from the moment its step is planned, so the next step can be planned and submitted before the token
 * is known (run-ahead). Steps run in the order they were planned, so the very next plan may write a block that is released now.
 */
import { BlockPool } from './block-pool.ts'
import { compareRunning, compareWaiting, insert, remove } from './sequence-order.ts'
import { type BlockHash, PrefixCache, type PrefixCacheOptions, type PrefixMatch } from './prefix-cache.ts'
import type { Sequence } from './sequence.ts'
import { StateSlots } from './state-slots.ts'
import { type ScheduledSequence, type ScheduledStep, type StepBounds, StepDraft } from './step-draft.ts'
import type { PromptBacklog } from './step-times.ts'
import { countByTenant, newestOfLargestTenant, roundRobin } from './tenant-order.ts'

export interface SchedulerOptions extends PrefixCacheOptions, StepBounds {
  readonly numBlocks: number
  /** Slots of the state pool; absent or 0: the model keeps no states. */
  readonly numStateSlots?: number
  readonly maxNumSeqs: number
  /**
   * Called before a waiting sequence is admitted, with its prefix match in the pool. Returns true when it has started to fetch more of the
   * sequence's blocks (kv-tiers.ts); the sequence then waits until `isLoadingKv` is false.
   */
  readonly prefetch?: (sequence: Sequence, match: PrefixMatch) => boolean
  /** The most prompt tokens in a step with decode rows: every stream waits for them. Absent: the whole budget. */
  readonly maxPrefillTokens?: (numDecodeTokens: number, backlog: PromptBacklog) => number
}

interface Preempted {
  readonly sequence: Sequence
  readonly numComputedTokens: number
}

/** The result of planning. `step` is null when nothing can run now; sequences may have been preempted anyway. */
export interface Schedule {
  readonly step: ScheduledStep | null
  readonly preempted: readonly Preempted[]
}

const NO_MATCH: PrefixMatch = { blocks: [], partial: null, numTokens: 0, missReason: 'disabled' }

/** Plans steps: which sequences run, how many tokens each, with which KV blocks. */
export class Scheduler {
  readonly pool: BlockPool
  readonly cache: PrefixCache
  /** null when the model keeps no states. */
  readonly states: StateSlots | null
  readonly #options: SchedulerOptions
  /** In order of (priority, arrival): the first is served first and preempted last. */
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

  /** Id of the step planned last. */
  get stepId(): number {
    return this.#stepId
  }

  /** How often the pool's content was lost. */
  get generation(): number {
    return this.#generation
  }

  /** Queues a sequence. Its tokens must fit the pool: ceil((prompt + output) / blockSize) <= numBlocks. */
  add(sequence: Sequence): void {
    insert(this.#waiting, sequence, compareWaiting)
  }

  /** Ends a sequence in any status. Its blocks are free for the next plan; until they are reused, the prefix cache can still hit them. */
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
   * Call when the pool's content is lost: clears the prefix cache. Steps planned before will never be settled. The caller then finishes the
   * running sequences or starts them over (`restart`).
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
    // Includes sequences that were preempted while their step was in flight: its token will never arrive.
    for (const sequence of this.#waiting) sequence.numPendingTokens = 0
  }

  /** Call after `invalidate`: moves the running sequences back to the queue, to compute their known tokens again. */
  restart(): readonly Preempted[] {
    const preempted: Preempted[] = []
    for (const sequence of this.#running.slice()) {
      // A sequence admitted by a plan that never ran was never announced as scheduled, so it was not preempted either.
      const isAnnounced = sequence.counters.firstScheduledMs !== null
      this.#requeue(sequence, isAnnounced ? 'preempted' : 'waiting')
      if (!isAnnounced) continue
      sequence.counters.numPreemptions++
      preempted.push({ sequence, numComputedTokens: 0 })
    }
    return preempted
  }

  /**
   * Allocates `count` blocks, to compute or to fill from a KV tier, and acquires the blocks `held` that they continue; the caller releases both.
   * Returns null, with nothing acquired, when too few would be left for the running sequences' next steps.
   */
  reserve(held: readonly number[], count: number): number[] | null {
    for (const block of held) this.pool.acquire(block)
    const blocks = this.pool.numFree < count + this.#running.length ? null : this.pool.allocate(count)
    if (blocks === null) this.pool.release(held)
    return blocks
  }

  /** Plans the next step. `step` is null when nothing can run, or only after the result of a step in flight. */
  schedule(): Schedule {
    this.states?.beginPlan()
    const isAhead = this.#running.filter(({ numPendingTokens }) => numPendingTokens > 0)
    const mayRunAhead = isAhead.every(({ canRunAhead }) => canRunAhead) && this.#canRevoke(isAhead)
    if (!mayRunAhead) return { step: null, preempted: [] }
    const draft = new StepDraft(this.#stepId + 1, this.#options, this.states)
    const preempted: Preempted[] = []
    this.#makeRoom(preempted)
    this.#scheduleDecodes(draft, preempted)
    if (!draft.isEmpty) {
      draft.boundPrefill(this.#options.maxPrefillTokens?.(draft.numDecodeTokens, this.#backlog()) ?? Infinity)
    }
    for (const sequence of roundRobin(this.#running)) {
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
   * Records the result of a step: `numAccepted` of its sampled tokens are kept (a draft is accepted while it equals the sampled token).
   * The caller pushes these tokens to the sequence afterwards.
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

  /** Call after tokens were pushed: adds newly full blocks of known tokens to the prefix cache. */
  publish(sequence: Sequence): void {
    this.#publish(sequence, this.#stepId)
  }

  /** Prompt tokens still to compute, of running sequences and of the waiting ones that could be admitted by `maxNumSeqs`. */
  #backlog(): PromptBacklog {
    const numPlaces = Math.max(0, this.#options.maxNumSeqs - this.#running.length)
    const started = this.#running.filter(({ isDecoding }) => !isDecoding)
    const prompts = [...started, ...this.#waiting.slice(0, numPlaces)]
    const numTokens = prompts.reduce((sum, { tokens, numComputedTokens }) => sum + tokens.length - numComputedTokens, 0)
    return { numPrompts: prompts.length, numTokens }
  }

  #scheduleDecodes(draft: StepDraft, preempted: Preempted[]): void {
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
        this.#preempt(victim, preempted)
        if (victim === sequence) return
      }
      draft.addDecode(sequence, drafts)
    }
  }

  /**
   * The draft tokens to verify in this step; clears the sequence's drafts. There are none after a pending token, none past the end of the
   * answer, and none whose blocks would force a preemption.
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

  /** The sequence to preempt: the newest that has no work in this step yet, of the tenant with the most; `asking` itself when no other is left. */
  #victim(draft: StepDraft, asking: Sequence): Sequence {
    return (
      newestOfLargestTenant(this.#running, (sequence) => sequence === asking || !draft.includes(sequence)) ?? asking
    )
  }

  /** Preempts a sequence of a tenant with several when a tenant with none has a ready sequence that does not fit. */
  #makeRoom(preempted: Preempted[]): void {
    const counts = countByTenant(this.#running)
    const next = roundRobin(this.#waiting, counts).find((sequence) => isReady(sequence))
    if (next === undefined || counts.has(next.tenant)) return
    const numNew = Math.ceil(next.tokens.length / this.#options.blockSize)
    const fits = this.pool.numFree >= numNew + this.#running.length && this.states?.numFree !== 0
    if (fits && this.#running.length < this.#options.maxNumSeqs) return
    const victim = newestOfLargestTenant(this.#running)
    if (victim === undefined || (counts.get(victim.tenant) ?? 0) < 2) return
    this.#preempt(victim, preempted)
  }

  #preempt(sequence: Sequence, preempted: Preempted[]): void {
    preempted.push({ sequence, numComputedTokens: sequence.numComputedTokens })
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

  /** Admits waiting sequences, tenants taking turns. The first that does not fit ends the loop: otherwise smaller ones would starve it. */
  #admit(draft: StepDraft): void {
    for (const sequence of roundRobin(this.#waiting, countByTenant(this.#running)).slice()) {
      if (draft.prefillBudget === 0 || this.#running.length >= this.#options.maxNumSeqs) return
      if (!isReady(sequence)) continue
      if (this.states?.numFree === 0) return
      const match = this.#match(sequence, draft.stepId)
      if (this.states?.isAwaited(sequence, match, this.#running) === true) continue
      if (this.#options.prefetch?.(sequence, match) === true) continue
      if (!this.#allocate(sequence, match, draft)) return
      remove(this.#waiting, sequence)
      draft.admitted.push({ sequence, kind: sequence.status === 'waiting' ? 'first' : 'resume', match })
      sequence.status = 'running'
      insert(this.#running, sequence, compareRunning)
      if (this.#hasStateSlot(sequence)) draft.addChunk(sequence)
      this.#publish(sequence, draft.stepId)
    }
  }

  #match(sequence: Sequence, stepId: number): PrefixMatch {
    // Log-probabilities of prompt tokens need the logits of every row: no part of the prompt can be skipped.
    if (sequence.cacheRoot === null || sequence.promptLogprobs >= 0) return NO_MATCH
    this.#adoptHashes(sequence, sequence.cacheRoot)
    const match = this.cache.match(sequence.tokens.view, sequence.cacheRoot, sequence.blockHashes, stepId)
    return this.states === null ? match : this.states.match(sequence, match, stepId)
  }

  /** Takes the block hashes of the prompt, which all its choices share: hashing a long prompt takes milliseconds. */
  #adoptHashes({ blockHashes, promptHashes, numPromptTokens, tokens }: Sequence, root: BlockHash): void {
    if (blockHashes.length > 0) return
    const numBlocks = Math.floor(numPromptTokens / this.#options.blockSize)
    this.cache.extendChain(promptHashes, root, tokens.view, numBlocks)
    for (const hash of promptHashes) blockHashes.push(hash)
  }

  /** Whether running sequences must have their masks before their next step, because too few slots are free to undo a state. */
  get waitsForMasks(): boolean {
    return !this.#canRevoke(this.#running)
  }

  #canRevoke(sequences: readonly Sequence[]): boolean {
    const canAdmit = this.#waiting.length > 0 && this.#running.length < this.#options.maxNumSeqs
    return this.states?.canRevoke(sequences, this.#running, canAdmit) ?? true
  }

  #wantsDecodeStep({ isDecoding, wantsMoreTokens, isMaskLate, isPendingVoid }: Sequence): boolean {
    return isDecoding && wantsMoreTokens && !isPendingVoid && !isMaskLate
  }

  /** Whether a slot is free for the sequence's next state. If not, the sequence skips this step; other sequences will free slots. */
  #hasStateSlot(sequence: Sequence): boolean {
    return this.states === null || this.states.canAdvance(sequence)
  }

  /** Allocates blocks for all known tokens. Leaves one block free per running sequence: otherwise admission and preemption would alternate. */
  #allocate(sequence: Sequence, match: PrefixMatch, draft: StepDraft): boolean {
    const numNew = Math.ceil(sequence.tokens.length / this.#options.blockSize) - match.blocks.length
    const blocks = this.reserve(match.blocks, numNew)
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

  /** Adds all blocks to the prefix cache before they are released: the full ones and the last, partly filled one. */
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

/** Whether a waiting sequence can be scheduled: it waits for no KV blocks, mask or pending token. */
function isReady({ isLoadingKv, isMaskPending, numPendingTokens }: Sequence): boolean {
  return !isLoadingKv && !isMaskPending && numPendingTokens === 0
}

/** Records how far the sequence was computed before its blocks are lost: work up to there will count as recomputation. */
function noteComputed(sequence: Sequence): void {
  const numComputed = Math.min(sequence.numComputedTokens, sequence.tokens.length)
  sequence.maxComputedTokens = Math.max(sequence.maxComputedTokens, numComputed)
}
