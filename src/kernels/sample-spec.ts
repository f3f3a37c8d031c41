/** How rows are sampled and scored, and the log-probabilities that result. */

/**
 * How one row is sampled. Plain data, compiled once per request. The order is the usual one:
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
  /** u32. The noise of a token is hash(seed, choice, position of the sampled token, token id). */
  readonly seed: number
  readonly choice: number
  /** The logit l of a listed token becomes l > 0 ? l / penalty : l * penalty. */
  readonly repetition: { readonly penalty: number; readonly tokens: Int32Array } | null
  /** Added to the logits of the listed tokens; -Infinity bans. Tokens are distinct. */
  readonly adjustments: { readonly tokens: Int32Array; readonly deltas: Float32Array } | null
  /** Set when the token before this one is still on the device: how that token changes the lists above. */
  readonly pending: PendingToken | null
  /** Bit t & 31 of word t >> 5 is set when token t is allowed. u32[ceil(vocab / 32)]. null: all are allowed. */
  readonly mask: Uint32Array | null
  /** N from 0 to 20: report log-probabilities of the sampled token and of the N most likely tokens, from the raw logits. -1: none. */
  readonly logprobs: number
}

/**
 * The token that sample row `row` of the previous step drew. If `repetition` is set, it counts as listed there. Its adjustment is `deltas[i]` if
 * it equals `adjustments.tokens[i]`, else `delta`.
 */
interface PendingToken {
  readonly row: number
  /** As long as `adjustments.tokens`; null: the same as `adjustments.deltas`. */
  readonly deltas: Float32Array | null
  readonly delta: number
}

export interface SampleRow {
  /** Row of the step whose logits are sampled; the sampled token's position is positions[row] + 1. */
  readonly row: number
  readonly spec: SampleSpec
}

/** A row that asks for the log-probability of a given next token (prompt scoring). */
export interface ScoreRow {
  readonly row: number
  readonly target: number
  readonly topN: number
}

export interface TokenLogprobs {
  /** Log-probability of the sampled or target token: the natural logarithm of the softmax of the raw logits. */
  readonly logprob: number
  /** Rank of that token among all tokens; 1 is the most likely. */
  readonly rank: number
  readonly topTokens: readonly number[]
  readonly topLogprobs: readonly number[]
}
