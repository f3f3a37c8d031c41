/** How rows are sampled and scored, and what log-probabilities come of it. */

/**
 * How one row is sampled. Plain data, compiled once a request. The order is the field's usual one:
 * repetition penalty -> additive adjustments -> mask -> temperature -> top-k -> top-p -> min-p -> Gumbel-max.
 * Where a row is sampled (device or host) never changes the token: `kernels/sampling.ts` is the definition.
 */
export interface SampleSpec {
  /** 0: greedy (argmax after adjustments and mask; lowest token id wins ties). */
  readonly temperature: number
  /** 0: off. */
  readonly topK: number
  /** 1: off. */
  readonly topP: number
  /** 0: off. */
  readonly minP: number
  /** u32. Noise of a token = hash(seed, choice, position of the sampled token, token id). */
  readonly seed: number
  readonly choice: number
  /** Logit l of a listed token becomes l > 0 ? l / penalty : l * penalty. */
  readonly repetition: { readonly penalty: number; readonly tokens: Int32Array } | null
  /** Added to the logits of the listed tokens; -Infinity bans. Tokens are distinct. */
  readonly adjustments: { readonly tokens: Int32Array; readonly deltas: Float32Array } | null
  /** The token before this one where it is still on the device: what it changes once it is known. */
  readonly pending: PendingToken | null
  /** Bit t of word t >> 5 set = token t allowed. u32[ceil(vocab / 32)]. */
  readonly mask: Uint32Array | null
  /** -1: none. Otherwise log-probabilities of the sampled token and of the top N (0..20), from the raw logits. */
  readonly logprobs: number
}

/**
 * The token that a sample row of the previous step drew. It counts as listed in `repetition` where there is one; its adjustment is `deltas[i]`
 * where it is `adjustments.tokens[i]`, else `delta`.
 */
interface PendingToken {
  readonly row: number
  /** As long as `adjustments.tokens`; null: what they are without it. */
  readonly deltas: Float32Array | null
  readonly delta: number
}

export interface SampleRow {
  /** Row of the step whose logits are sampled; the sampled token's position is positions[row] + 1. */
  readonly row: number
  readonly spec: SampleSpec
}

/** Log-probabilities of given next tokens (prompt scoring). */
export interface ScoreRow {
  readonly row: number
  readonly target: number
  readonly topN: number
}

export interface TokenLogprobs {
  /** Of the sampled or the target token; natural logarithm of the softmax of the raw logits. */
  readonly logprob: number
  /** Rank among all tokens, 1 = most likely. */
  readonly rank: number
  readonly topTokens: readonly number[]
  readonly topLogprobs: readonly number[]
}
