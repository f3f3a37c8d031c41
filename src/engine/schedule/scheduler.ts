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
import type { BlockPool } from './block-pool.ts'
import { compareRunning, compareWaiting, insert, remove } from './sequence-order.ts'
import type { PrefixCache, PrefixMatch } from './prefix-cache.ts'
import { SequenceMemory, type SequenceMemoryOptions } from './sequence-memory.ts'
import type { Sequence } from './sequence.ts'
import type { StateSlots } from './state-slots.ts'
import { type ScheduledSequence, type ScheduledStep, type StepBounds, StepDraft } from './step-draft.ts'
import type { PromptBacklog } from './step-times.ts'
import { countByTenant, newestOfLargestTenant, roundRobin } from './tenant-order.ts'

export interface SchedulerOptions extends SequenceMemoryOptions, StepBounds {
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

/** Plans steps: which sequences run, how many tokens each, with which KV blocks. */
export class Scheduler {
  readonly #memory: SequenceMemory
  readonly #options: SchedulerOptions
  /** In order of (priority, arrival): the first is served first and preempted last. */
  readonly #running: Sequence[] = []
  /** In order of (priority, preempted first, arrival). */
  readonly #waiting: Sequence[] = []
  #stepId = 0
  #generation = 0

  constructor(options: SchedulerOptions) {
    this.#options = options
    this.#memory = new SequenceMemory(options)
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
  get pool(): BlockPool {
    return this.#memory.pool
  }

  get cache(): PrefixCache {
    return this.#memory.cache
  }

  /** null when the model keeps no states. */
  get states(): StateSlots | null {
    return this.#memory.states
  }

  add(sequence: Sequence): void {
    insert(this.#waiting, sequence, compareWaiting)
  }

  /** Ends a sequence in any status. Its blocks are free for the next plan; until they are reused, the prefix cache can still hit them. */
  finish(sequence: Sequence): void {
    if (sequence.status === 'finished') return
    if (sequence.status === 'running') {
      remove(this.#running, sequence)
      this.#memory.publishAll(sequence, this.#stepId)
      this.#memory.release(sequence)
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

  /** As `SequenceMemory.reserve`, with a block left for the next step of each running sequence. */
  reserve(held: readonly number[], count: number): number[] | null {
    return this.#memory.reserve(held, count, this.#running.length)
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
      this.#memory.publish(sequence, draft.stepId)
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
    this.#memory.publish(sequence, this.#stepId)
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
      while (!this.#memory.grow(sequence, sequence.numTokens + drafts.length)) {
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
    this.#memory.publishAll(sequence, this.#stepId)
    sequence.counters.numPreemptions++
    noteComputed(sequence)
    this.#requeue(sequence, 'preempted')
  }

  #requeue(sequence: Sequence, status: 'waiting' | 'preempted'): void {
    remove(this.#running, sequence)
    this.#memory.release(sequence)
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
      const match = this.#memory.match(sequence, draft.stepId)
      if (this.states?.isAwaited(sequence, match, this.#running) === true) continue
      if (this.#options.prefetch?.(sequence, match) === true) continue
      if (!this.#memory.allocate(sequence, match, draft, this.#running.length)) return
      remove(this.#waiting, sequence)
      draft.admitted.push({ sequence, kind: sequence.status === 'waiting' ? 'first' : 'resume', match })
      sequence.status = 'running'
      insert(this.#running, sequence, compareRunning)
      if (this.#hasStateSlot(sequence)) draft.addChunk(sequence)
      this.#memory.publish(sequence, draft.stepId)
    }
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
