/** Turns the sampling parameters of a request into the SampleSpec of each row. Works on tokens and counts only. */
import { invalidField } from '../request.ts'
import type { SamplingParams } from '../request.ts'
import type { SampleSpec } from '../runner/runner.ts'

interface SamplingOptions {
  readonly params: SamplingParams
  /** The request's seed, or a random one. u32. */
  readonly seed: number
  /** Number of the choice within its prompt: choices with one seed differ, whatever other prompts the request has. */
  readonly choice: number
  readonly minTokens: number
  /** EOS and stop tokens, which are banned until minTokens tokens have been generated. */
  readonly endTokenIds: readonly number[]
  readonly logprobs: number
  readonly vocabSize: number
}

/** Sampling of one sequence. Fixed parameters are compiled once; penalties follow the tokens that are pushed. */
export class SamplingState {
  /** Whether specs depend on the tokens generated so far. */
  readonly #dependsOnTokens: boolean
  readonly #options: SamplingOptions
  readonly #base: SampleSpec
  /** The fixed specs: while end tokens are banned, and afterwards. */
  readonly #banned: SampleSpec
  readonly #allowed: SampleSpec
  readonly #outputCounts = new Map<number, number>()
  /** Distinct tokens of prompt and output, for the repetition penalty. */
  readonly #seen = new Set<number>()

  constructor(options: SamplingOptions, promptTokens: Iterable<number>) {
    const { params } = options
    this.#options = options
    for (const token of biasedTokens(params)) {
      if (!Number.isInteger(token) || token < 0 || token >= options.vocabSize) {
        throw invalidField('logit_bias', `expected token ids 0..${options.vocabSize - 1}, found ${token}`)
      }
    }
    this.#dependsOnTokens =
      params.presencePenalty !== 0 || params.frequencyPenalty !== 0 || params.repetitionPenalty !== 1
    if (params.repetitionPenalty !== 1) for (const token of promptTokens) this.#seen.add(token)
    this.#base = {
      temperature: params.temperature,
      topK: params.topK,
      topP: params.topP,
      minP: params.minP,
      seed: options.seed,
      choice: options.choice,
      repetition: null,
      adjustments: null,
      pending: null,
      mask: null,
      logprobs: options.logprobs,
    }
    this.#banned = { ...this.#base, adjustments: adjustmentsOf(this.#deltas(true, new Map())) }
    this.#allowed = { ...this.#base, adjustments: adjustmentsOf(this.#deltas(false, new Map())) }
  }

  /** Counts a generated token. */
  push(token: number): void {
    if (!this.#dependsOnTokens) return
    this.#outputCounts.set(token, (this.#outputCounts.get(token) ?? 0) + 1)
    if (this.#options.params.repetitionPenalty !== 1) this.#seen.add(token)
  }

  /**
   * The spec of output token number `numOutputTokens` (0: the first), after the tokens pushed so far and `drafts`, whose verification decides
   * whether the row counts.
   * @param mask tokens that a grammar allows
   * @param pendingRow the sample row of the previous step that draws the token before this one, which is not known yet; -1: all are known
   */
  spec(numOutputTokens: number, mask: Uint32Array | null, drafts: readonly number[] = [], pendingRow = -1): SampleSpec {
    const isBanned = numOutputTokens < this.#options.minTokens
    const fixed = isBanned ? this.#banned : this.#allowed
    if (!this.#dependsOnTokens) return mask === null ? fixed : { ...fixed, mask }
    const deltas = this.#deltas(isBanned, this.#countsWith(drafts))
    return {
      ...this.#base,
      mask,
      repetition: this.#repetition(drafts),
      adjustments: adjustmentsOf(deltas),
      pending: pendingRow < 0 ? null : this.#pending(pendingRow, isBanned, deltas),
    }
  }

  #repetition(drafts: readonly number[]): SampleSpec['repetition'] {
    const penalty = this.#options.params.repetitionPenalty
    if (penalty === 1) return null
    const tokens = drafts.length === 0 ? this.#seen : new Set([...this.#seen, ...drafts])
    return { penalty, tokens: Int32Array.from(tokens) }
  }

  #countsWith(drafts: readonly number[]): ReadonlyMap<number, number> {
    if (drafts.length === 0) return this.#outputCounts
    const all = new Map(this.#outputCounts)
    for (const token of drafts) all.set(token, (all.get(token) ?? 0) + 1)
    return all
  }

  /** The adjustment of a token's logit by its number of occurrences, without its bias. */
  #penalty(count: number): number {
    const { presencePenalty, frequencyPenalty } = this.#options.params
    return count === 0 ? 0 : -presencePenalty - frequencyPenalty * count
  }

  #deltas(banEnd: boolean, counts: ReadonlyMap<number, number>): Map<number, number> {
    const { params, endTokenIds } = this.#options
    const deltas = new Map<number, number>()
    for (const token of biasedTokens(params)) deltas.set(token, params.logitBias?.[token] ?? 0)
    if (params.presencePenalty !== 0 || params.frequencyPenalty !== 0) {
      for (const [token, count] of counts) deltas.set(token, (deltas.get(token) ?? 0) + this.#penalty(count))
    }
    if (banEnd) for (const token of endTokenIds) deltas.set(token, -Infinity)
    return deltas
  }

  /** The adjustments as they will be once the pending token is pushed, whichever it is. */
  #pending(row: number, banEnd: boolean, deltas: ReadonlyMap<number, number>): SampleSpec['pending'] {
    const { params, endTokenIds } = this.#options
    const delta = Math.fround(this.#penalty(1))
    if (delta === 0 && params.frequencyPenalty === 0) return { row, delta, deltas: null }
    const next = Float32Array.from(deltas.keys(), (token) => {
      if (banEnd && endTokenIds.includes(token)) return -Infinity
      return (params.logitBias?.[token] ?? 0) + this.#penalty((this.#outputCounts.get(token) ?? 0) + 1)
    })
    return { row, delta, deltas: next }
  }
}

function adjustmentsOf(deltas: ReadonlyMap<number, number>): SampleSpec['adjustments'] {
  if (deltas.size === 0) return null
  return { tokens: Int32Array.from(deltas.keys()), deltas: Float32Array.from(deltas.values()) }
}

function biasedTokens(params: SamplingParams): number[] {
  return params.logitBias === null ? [] : Object.keys(params.logitBias).map(Number)
}
