/** One choice of one prompt: its tokens, how far they are computed, its blocks and its counts. Plain numbers, no compute. */
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

  /** A copy with a buffer of its own (a view's buffer would be cloned whole on its way to a worker). */
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
  /** Absent: everybody is one tenant. */
  readonly tenant?: string | undefined
  readonly promptTokens: readonly number[]
  /** Index of its adapter; absent: none. */
  readonly adapter?: number | undefined
  /** Tokens to generate at most; 0: compute the prompt only. */
  readonly maxOutputTokens: number
  readonly sampling: SamplingState
  /** -1: none; 0..20: log-probabilities of the prompt's tokens. */
  readonly promptLogprobs: number
  /** First parent of its block hashes; null: neither served from the prefix cache nor put there. */
  readonly cacheRoot: BlockHash | null
  /** Hashes of the prompt's blocks as far as they are known, one list for all choices of the prompt. */
  readonly promptHashes: BlockHash[]
  /** Tokens are constrained by a grammar: its steps need a mask. */
  readonly hasGrammar: boolean
  readonly lookup: PromptLookup | null
  readonly arrivedMs: number
}

/** Where a state was before a step whose row may turn out not to count. */
interface StateUndo {
  readonly stepId: number
  readonly slot: number
  readonly isSealed: boolean
}

/** What a sequence holds of the pool of states (state-slots.ts). */
export interface SequenceState {
  /** Holds the state after its computed tokens; -1: it has none yet. */
  slot: number
  isSealed: boolean
  /** A sealed slot whose text is not published yet: the step was planned ahead of its tokens. */
  border: { readonly slot: number; readonly numTokens: number; readonly stepId: number } | null
  /** Of its steps in flight that may be revoked, in their order. Each has a hold on its slot. */
  undo: StateUndo[]
  /** The newest snapshot behind the prompt: the next one takes its place. */
  newest: BlockHash | null
  /** A border inside the prompt where another text may leave it: a snapshot is wanted there. */
  branch: number
}

/** The state of a sequence that has not begun. */
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
  /** Chained hashes of its full blocks, as far as they were needed. */
  readonly blockHashes: BlockHash[] = []
  readonly counters: MutableCounters

  /** Its slots of the pool of states, in models that have one. */
  state: SequenceState = newSequenceState()
  status: SequenceStatus = 'waiting'
  /** Tokens whose K and V are in the pool once the planned steps have run. */
  numComputedTokens = 0
  /** The most tokens it ever had computed: below it, work after a preemption is recomputation. */
  maxComputedTokens = 0
  /** Tokens planned steps will draw and the host does not know yet: 0 or 1, or 1 + drafts. */
  numPendingTokens = 0
  /** The sample row that draws the pending token, and its step. */
  pendingSampleRow = -1
  pendingStepId = -1
  /** Output tokens there are once the pending ones are known. */
  #numPlannedTokens = 0
  /** Its first blocks known to the prefix cache. */
  numPublishedBlocks = 0
  /** Tokens to verify in its next decode step. */
  drafts: readonly number[] = []
  /** Tokens allowed next, by its grammar. */
  mask: Uint32Array | null = null
  /** The mask is being computed. */
  isMaskPending = false
  /** A step's layers were computed before the mask came: not to be scheduled before it does. */
  isMaskLate = false
  /** Blocks of a KV tier are on their way: not to be scheduled yet. */
  isLoadingKv = false
  /** The KV tiers were asked for its prefix. */
  isKvLookedUp = false
  /** Guesses its next tokens; null: not to be. */
  readonly lookup: PromptLookup | null
  /** It has something to guess by: its next step is planned when its newest token is known. */
  wantsDrafts = false
  /** Since when it waits, for the `scheduled` event. */
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

  /** Known and pending tokens. */
  get numTokens(): number {
    return this.tokens.length + this.numPendingTokens
  }

  get numOutputTokens(): number {
    return this.tokens.length - this.numPromptTokens
  }

  /** Everything but the newest token is computed: the next step is a decode step. */
  get isDecoding(): boolean {
    return this.numTokens > this.numPromptTokens && this.numTokens - this.numComputedTokens === 1
  }

  /** No step may be planned past the tokens it may still generate. */
  get wantsMoreTokens(): boolean {
    return this.numOutputTokens + this.numPendingTokens < this.maxOutputTokens
  }

  /**
   * Its next decode step can be planned before the pending token is known: the mask for it may follow. Not behind drafts: the step would take for granted
   * that all of them hold, and a token behind them. Where they do not, the sequence has lost a step to save the time between two, 15 % of one at most
   * (bench/results/serve-runahead-1.json): that pays only if they hold in seven of eight steps.
   */
  get canRunAhead(): boolean {
    return !this.wantsDrafts && this.numPendingTokens <= 1
  }

  /** The mask of its next token is not known yet: it is being computed, or depends on a pending token. */
  get isUnmasked(): boolean {
    return this.isMaskPending || (this.hasGrammar && this.numPendingTokens > 0)
  }

  /** A planned step draws so many tokens for it. */
  addPending(numTokens: number, sampleRow: number, stepId: number): void {
    this.numPendingTokens += numTokens
    this.pendingSampleRow = sampleRow
    this.pendingStepId = stepId
    this.#numPlannedTokens = this.numOutputTokens + this.numPendingTokens
  }

  /** The pending token continues one that was drawn without its mask: neither counts. Nothing may continue it. */
  get isPendingVoid(): boolean {
    return this.numPendingTokens > 0 && this.numOutputTokens + this.numPendingTokens !== this.#numPlannedTokens
  }
}

/** The counts of a sequence that just arrived. */
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
