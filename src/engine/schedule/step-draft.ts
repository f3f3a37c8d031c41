/** A step while it is being planned: its rows, its samples and the rest of its budget. */
import type { PrefixMatch } from './prefix-cache.ts'
import type { SampleSpec, SequencePlan, StepPlan } from '../runner/runner.ts'
import type { Sequence } from './sequence.ts'
import { snapshotBorder } from './state-slots.ts'
import type { StateSlots, StateUse } from './state-slots.ts'

/** The work of one step for one sequence. */
export interface ScheduledSequence {
  readonly sequence: Sequence
  readonly startPosition: number
  readonly numTokens: number
  /** Draft tokens to verify: the last `drafts.length` of the `numTokens` tokens. */
  readonly drafts: readonly number[]
  readonly numSampleRows: number
  /** The mask is not known yet: the drawn token may be dropped. */
  readonly isUnmasked: boolean
  /** The sequence has no output yet: the counters count this work as a prefill chunk. */
  readonly isPrefill: boolean
  /** The sequence's preemptions at planning time: if the number differs later, its blocks have been released. */
  readonly epoch: number
}

interface Admission {
  readonly sequence: Sequence
  readonly kind: 'first' | 'resume'
  readonly match: PrefixMatch
}

/** A sample row that is planned before its mask is known. */
export interface UnmaskedRow {
  readonly sequence: Sequence
  /** How many output tokens of the sequence the mask depends on. */
  readonly numOutputTokens: number
}

export interface ScheduledStep {
  readonly plan: StepPlan
  readonly sequences: readonly ScheduledSequence[]
  readonly admitted: readonly Admission[]
  /** Rows without a mask yet, by index of the sample row. */
  readonly unmasked: ReadonlyMap<number, UnmaskedRow>
  readonly numRows: number
  readonly numPrefillTokens: number
  readonly numDecodeTokens: number
}

export interface StepBounds {
  /** The most rows (tokens) per step. */
  readonly maxNumBatchedTokens: number
  /** The most sampled rows per step. */
  readonly maxSampleRows: number
  /** Tokens per block. */
  readonly blockSize: number
}

/** Planning failed because of one sequence. The runner fails that sequence; the others continue. */
export class SequenceFault extends Error {
  override readonly name = 'SequenceFault'
  readonly sequence: Sequence

  constructor(sequence: Sequence, cause: unknown) {
    super(`sequence ${sequence.requestId}/${sequence.choice} cannot be planned`, { cause })
    this.sequence = sequence
  }
}

/** A step while it is being planned. Each addition takes rows and samples from its budget. */
export class StepDraft {
  readonly stepId: number
  readonly admitted: Admission[] = []
  readonly #unmasked = new Map<number, UnmaskedRow>()
  readonly blockCopies: { source: number; destination: number; numTokens: number }[] = []
  budget: number
  readonly #sequences = new Map<Sequence, ScheduledSequence>()
  readonly #plans: SequencePlan[] = []
  readonly #maxSampleRows: number
  readonly #blockSize: number
  readonly #states: StateSlots | null
  #maxPrefillTokens = Infinity
  #numSampleRows = 0
  #numPrefillTokens = 0
  #numDecodeTokens = 0

  /** @param states null when the model keeps no states */
  constructor(stepId: number, options: StepBounds, states: StateSlots | null) {
    this.stepId = stepId
    this.#blockSize = options.blockSize
    this.#states = states
    this.budget = options.maxNumBatchedTokens
    this.#maxSampleRows = options.maxSampleRows
  }

  get isEmpty(): boolean {
    return this.#plans.length === 0
  }

  get numDecodeTokens(): number {
    return this.#numDecodeTokens
  }

  /** Prompt tokens that still fit. */
  get prefillBudget(): number {
    return Math.max(0, Math.min(this.budget, this.#maxPrefillTokens - this.#numPrefillTokens))
  }

  /** Limits the step to `numTokens` prompt tokens. */
  boundPrefill(numTokens: number): void {
    this.#maxPrefillTokens = numTokens
  }

  includes(sequence: Sequence): boolean {
    return this.#sequences.has(sequence)
  }

  /** Rows left for drafts after this sequence and `numOthers` others get one row each. */
  roomForDrafts(numOthers: number): number {
    const left = Math.min(this.budget, this.#maxSampleRows - this.#numSampleRows)
    return Math.max(0, left - 1 - numOthers)
  }

  /** Adds a decode step: the newest token, and drafts after it. @throws SequenceFault */
  addDecode(sequence: Sequence, drafts: readonly number[]): void {
    withSequenceFault(sequence, () => this.#addDecode(sequence, drafts))
  }

  /** Adds as many uncomputed tokens as the budget allows. A token is sampled if the chunk reaches the last of them. @throws SequenceFault */
  addChunk(sequence: Sequence): void {
    withSequenceFault(sequence, () => this.#addChunk(sequence))
  }

  finish(): ScheduledStep {
    return {
      plan: { stepId: this.stepId, blockCopies: this.blockCopies, sequences: this.#plans },
      sequences: [...this.#sequences.values()],
      admitted: this.admitted,
      unmasked: this.#unmasked,
      numRows: this.#numPrefillTokens + this.#numDecodeTokens,
      numPrefillTokens: this.#numPrefillTokens,
      numDecodeTokens: this.#numDecodeTokens,
    }
  }

  #addDecode(sequence: Sequence, drafts: readonly number[]): void {
    const start = sequence.numComputedTokens
    const numKnown = sequence.numOutputTokens + sequence.numPendingTokens
    const sample: SampleSpec[] = []
    const pendingRow = sequence.numPendingTokens === 0 ? -1 : sequence.pendingSampleRow
    const { isUnmasked } = sequence
    if (isUnmasked) this.#unmasked.set(this.#numSampleRows, { sequence, numOutputTokens: numKnown })
    for (let i = 0; i <= drafts.length; i++) {
      sample.push(sequence.sampling.spec(numKnown + i, sequence.mask, drafts.slice(0, i), pendingRow))
    }
    this.#numDecodeTokens += 1 + drafts.length
    if (sequence.numPendingTokens === 0) {
      const ids = Int32Array.of(sequence.tokens.at(start), ...drafts)
      this.#add(sequence, { ids }, drafts, sample, null, isUnmasked)
      return
    }
    if (sequence.pendingStepId !== this.stepId - 1) {
      throw new Error(`pending token of step ${sequence.pendingStepId} used in step ${this.stepId}`)
    }
    this.#add(sequence, { fromPreviousStep: sequence.pendingSampleRow }, drafts, sample, null, isUnmasked)
  }

  #addChunk(sequence: Sequence): void {
    const start = sequence.numComputedTokens
    const end = this.#chunkEnd(sequence, start + this.prefillBudget)
    const samples =
      end === sequence.tokens.length && sequence.wantsMoreTokens && this.#numSampleRows < this.#maxSampleRows
    // Without a free sample row, the last token waits for a later step.
    const last = end === sequence.tokens.length && sequence.wantsMoreTokens && !samples ? end - 1 : end
    if (last <= start) return
    sequence.counters.numRecomputedTokens += Math.max(0, Math.min(last, sequence.maxComputedTokens) - start)
    this.#numPrefillTokens += last - start
    const sample = samples ? [sequence.sampling.spec(sequence.numOutputTokens, sequence.mask)] : []
    this.#add(sequence, { ids: sequence.tokens.slice(start, last) }, [], sample, promptScores(sequence, start, last))
  }

  /** Where a chunk ends: at the next border where a snapshot of the state is wanted, but at `most` at the latest. */
  #chunkEnd(sequence: Sequence, most: number): number {
    const end = Math.min(sequence.tokens.length, most)
    const border = this.#states === null ? null : snapshotBorder(sequence, this.#blockSize)
    return border === null ? end : Math.min(end, border)
  }

  #useState(sequence: Sequence, end: number, isRevocable: boolean): { readonly state?: StateUse } {
    if (this.#states === null) return {}
    const isDecoding = end > sequence.numPromptTokens && end >= sequence.tokens.length
    const isBorder = end % this.#blockSize === 0 && sequence.cacheRoot !== null
    const isKept = isBorder && (isDecoding || end === snapshotBorder(sequence, this.#blockSize))
    return { state: this.#states.advance(sequence, end, isKept, this.stepId, isRevocable) }
  }

  #add(
    sequence: Sequence,
    tokenSource: SequencePlan['tokenSource'],
    drafts: readonly number[],
    sample: readonly SampleSpec[],
    score: SequencePlan['score'],
    isUnmasked = false,
  ): void {
    const startPosition = sequence.numComputedTokens
    const numTokens = 'ids' in tokenSource ? tokenSource.ids.length : 1
    this.#sequences.set(sequence, {
      sequence,
      startPosition,
      numTokens,
      drafts,
      numSampleRows: sample.length,
      isUnmasked,
      isPrefill: sequence.counters.firstTokenMs === null && sequence.numPendingTokens === 0,
      epoch: sequence.counters.numPreemptions,
    })
    const state = this.#useState(sequence, startPosition + numTokens, isUnmasked)
    const adapter = sequence.adapter === undefined ? {} : { adapter: sequence.adapter }
    const blockTable = sequence.blockTable.slice()
    this.#plans.push({ tokenSource, startPosition, blockTable, ...adapter, ...state, sample, score })
    this.budget -= numTokens
    sequence.numComputedTokens += numTokens
    if (sample.length > 0) {
      sequence.addPending(sample.length, this.#numSampleRows, this.stepId)
      this.#numSampleRows += sample.length
    }
  }
}

function withSequenceFault(sequence: Sequence, add: () => void): void {
  try {
    add()
  } catch (error) {
    throw new SequenceFault(sequence, error)
  }
}

/** Score rows for prompt tokens start .. end - 1. Each row scores the next prompt token; the last prompt token has none. */
function promptScores(sequence: Sequence, start: number, end: number): SequencePlan['score'] {
  if (sequence.promptLogprobs < 0) return null
  const targets = sequence.tokens.slice(start + 1, Math.min(end + 1, sequence.numPromptTokens))
  return targets.length === 0 ? null : { targets, topN: sequence.promptLogprobs }
}
