/** One choice of one prompt: its tokens, how many of them are computed, its block table and its counters. */
import type { SequenceCounters } from '../events.ts'
import type { BlockHash } from './prefix-cache.ts'
import type { SamplingState } from '../requests/sampling.ts'
import type { PromptLookup } from './speculate.ts'

/** A growing Int32Array. */
class Int32Vector {
  #values: Int32Array
  #length = 0

  constructor(values: Iterable<number> = []) {
    this.#values = Int32Array.from(values)
    this.#length = this.#values.length
  }

  get length(): number {
    return this.#length
  }

  /** The values so far, without a copy; valid until the next push. */
  get view(): Int32Array {
    return this.#values.subarray(0, this.#length)
  }

  at(index: number): number {
    if (index < 0 || index >= this.#length) throw new RangeError(`index ${index} of ${this.#length}`)
    return this.#values[index] ?? 0
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const grown = new Int32Array(Math.max(16, this.#length * 2))
      grown.set(this.#values)
      this.#values = grown
    }
    this.#values[this.#length++] = value
  }

  /** A copy with its own buffer. Posting a view to a worker would clone its whole buffer. */
  slice(start = 0, end = this.#length): Int32Array {
    return this.#values.slice(start, Math.min(end, this.#length))
  }

  clear(): void {
    this.#length = 0
  }
}

type SequenceStatus = 'waiting' | 'running' | 'preempted' | 'finished'

export type MutableCounters = { -readonly [K in keyof SequenceCounters]: SequenceCounters[K] } & {
  decodeStepMicros: number[]
}

interface SequenceOptions {
  readonly requestId: string
  readonly choice: number
  /** Order of arrival. */
  readonly arrival: number
  readonly priority: number
  /** Absent: the sequence belongs to the one unnamed tenant. */
  readonly tenant?: string | undefined
  readonly promptTokens: readonly number[]
  /** Index of the LoRA adapter; absent: none. */
  readonly adapter?: number | undefined
  /** The most tokens to generate; 0: compute the prompt only. */
  readonly maxOutputTokens: number
  readonly sampling: SamplingState
  /** N from 0 to 20: log-probabilities of the prompt's tokens and of the N most likely at each position. -1: none. */
  readonly promptLogprobs: number
  /** Parent hash of the first block; null: the sequence does not use the prefix cache. */
  readonly cacheRoot: BlockHash | null
  /** Hashes of the prompt's first blocks, as many as were computed so far; all choices of the prompt share this list. */
  readonly promptHashes: BlockHash[]
  /** A grammar constrains the tokens: every sampled row needs a mask. */
  readonly hasGrammar: boolean
  readonly lookup: PromptLookup | null
  readonly arrivedMs: number
}

/** Where the state was before a step that may be revoked. */
interface StateUndo {
  readonly stepId: number
  readonly slot: number
  readonly isSealed: boolean
}

/** The slots of the state pool that a sequence holds (state-slots.ts). */
export interface SequenceState {
  /** The slot with the state after the computed tokens; -1: none yet. */
  slot: number
  isSealed: boolean
  /** A sealed slot that is not published as a snapshot yet: its step was planned before all of its tokens were known. */
  border: { readonly slot: number; readonly numTokens: number; readonly stepId: number } | null
  /** One entry per step in flight that may be revoked, oldest first. Each entry holds its slot. */
  undo: StateUndo[]
  /** The newest snapshot after the prompt; the next one replaces it. */
  newest: BlockHash | null
  /** A block border in the prompt, in tokens, where other texts may diverge: a snapshot is wanted there. 0: none. */
  branch: number
}

/** The state of a sequence that has computed nothing. */
export const newSequenceState = (): SequenceState => ({
  slot: -1,
  isSealed: false,
  border: null,
  undo: [],
  newest: null,
  branch: 0,
})

/** Tokens, block table and counters of one choice. */
export class Sequence {
  readonly requestId: string
  readonly choice: number
  readonly arrival: number
  readonly priority: number
  readonly tenant: string
  readonly numPromptTokens: number
  readonly adapter: number | undefined
  readonly maxOutputTokens: number
  readonly sampling: SamplingState
  readonly promptLogprobs: number
  readonly cacheRoot: BlockHash | null
  readonly promptHashes: BlockHash[]
  readonly hasGrammar: boolean
  /** Prompt and output tokens known to the host. */
  readonly tokens: Int32Vector
  readonly blockTable = new Int32Vector()
  /** Chained hashes of the full blocks, as many as were needed so far. */
  readonly blockHashes: BlockHash[] = []
  readonly counters: MutableCounters

  /** Slots of the state pool, in models that keep states. */
  state: SequenceState = newSequenceState()
  status: SequenceStatus = 'waiting'
  /** Tokens whose K and V are in the pool after all planned steps. */
  numComputedTokens = 0
  /** The most tokens that were ever computed. After a preemption, work up to here counts as recomputation. */
  maxComputedTokens = 0
  /** Tokens that planned steps draw and the host does not know yet: 0, 1, or 1 + drafts. */
  numPendingTokens = 0
  /** The sample row that draws the pending token, and in `pendingStepId` its step. */
  pendingSampleRow = -1
  pendingStepId = -1
  /** Output tokens once the pending ones are known. */
  #numPlannedTokens = 0
  /** Number of leading blocks that are in the prefix cache. */
  numPublishedBlocks = 0
  /** Draft tokens to verify in the next decode step. */
  drafts: readonly number[] = []
  /** Tokens that the grammar allows next; u32[ceil(vocab / 32)]. */
  mask: Uint32Array | null = null
  /** The mask is being computed. */
  isMaskPending = false
  /** A step reached its sampling before the mask arrived. The sequence must not be scheduled until the mask is there. */
  isMaskLate = false
  /** Its blocks are being loaded from a KV tier: it must not be scheduled yet. */
  isLoadingKv = false
  /** Its prefix was already looked up in the KV tiers. */
  isKvLookedUp = false
  /** Drafts its next tokens (prompt lookup); null: no speculation. */
  readonly lookup: PromptLookup | null
  /** Drafts are likely, so its next step is planned only once its newest token is known. */
  wantsDrafts = false
  /** When it began to wait, for the `scheduled` event. */
  waitingSinceMs: number

  constructor(options: SequenceOptions) {
    this.requestId = options.requestId
    this.choice = options.choice
    this.arrival = options.arrival
    this.priority = options.priority
    this.tenant = options.tenant ?? ''
    this.numPromptTokens = options.promptTokens.length
    this.adapter = options.adapter
    this.maxOutputTokens = options.maxOutputTokens
    this.sampling = options.sampling
    this.promptLogprobs = options.promptLogprobs
    this.cacheRoot = options.cacheRoot
    this.promptHashes = options.promptHashes
    this.hasGrammar = options.hasGrammar
    this.lookup = options.lookup
    this.tokens = new Int32Vector(options.promptTokens)
    this.waitingSinceMs = options.arrivedMs
    this.counters = newCounters(this.numPromptTokens, options.arrivedMs)
  }

  /** Number of known and pending tokens. */
  get numTokens(): number {
    return this.tokens.length + this.numPendingTokens
  }

  get numOutputTokens(): number {
    return this.tokens.length - this.numPromptTokens
  }

  /** All tokens but the newest are computed: the next step is a decode step. */
  get isDecoding(): boolean {
    return this.numTokens > this.numPromptTokens && this.numTokens - this.numComputedTokens === 1
  }

  /** Whether it may generate more tokens than are known and pending. */
  get wantsMoreTokens(): boolean {
    return this.numOutputTokens + this.numPendingTokens < this.maxOutputTokens
  }

  /**
   * Whether its next decode step can be planned before the pending token is known; a mask may follow later. Not after drafts: such a step would
   * assume that all drafts are accepted, and be lost otherwise. Planning ahead saves at most 15 % of a step
   * (bench/results/serve-runahead-1.json), so it would pay only if all drafts were accepted in seven of eight steps.
   */
  get canRunAhead(): boolean {
    return !this.wantsDrafts && this.numPendingTokens <= 1
  }

  /** Whether the mask of its next token is unknown: it is being computed, or depends on a pending token. */
  get isUnmasked(): boolean {
    return this.isMaskPending || (this.hasGrammar && this.numPendingTokens > 0)
  }

  /** Records that a planned step draws `numTokens` tokens for it. */
  addPending(numTokens: number, sampleRow: number, stepId: number): void {
    this.numPendingTokens += numTokens
    this.pendingSampleRow = sampleRow
    this.pendingStepId = stepId
    this.#numPlannedTokens = this.numOutputTokens + this.numPendingTokens
  }

  /** Whether the pending token follows a token that was revoked for want of its mask. It will be dropped, so no step may continue it. */
  get isPendingVoid(): boolean {
    return this.numPendingTokens > 0 && this.numOutputTokens + this.numPendingTokens !== this.#numPlannedTokens
  }
}

/** The counters of a sequence that has just arrived. */
export function newCounters(numPromptTokens: number, arrivedMs: number): MutableCounters {
  return {
    numPromptTokens,
    numCachedTokens: 0,
    numMissTokens: 0,
    missReason: 'none',
    numRecomputedTokens: 0,
    numPreemptions: 0,
    numGeneratedTokens: 0,
    numReasoningTokens: 0,
    arrivedMs,
    grammarMs: 0,
    firstScheduledMs: null,
    firstTokenMs: null,
    lastTokenMs: null,
    scoredMs: null,
    prefillChunks: 0,
    decodeSteps: 0,
    decodeStepMicros: [],
    decodeRowSum: 0,
    prefillGpuMicros: null,
    prefillGpuShareMicros: null,
    decodeGpuMicros: null,
    decodeGpuShareMicros: null,
    numDraftTokens: 0,
    numAcceptedTokens: 0,
  }
}
