/** What a SampleSpec changes of single tokens' logits, as the kernels want it: each token once. */
import type { SampleSpec } from './sample-spec.ts'

interface ChangedTokens {
  /** Penalised ones first. */
  readonly tokens: readonly number[]
  readonly numPenalized: number
  /** Of each token: its adjustment, and the one it has if it is the pending token. */
  readonly deltas: readonly number[]
  readonly pendingDeltas: readonly number[]
}

/** The tokens that a spec penalises or adjusts. */
export function changedTokens({ repetition, adjustments, pending }: SampleSpec): ChangedTokens {
  const tokens = [...(repetition?.tokens ?? [])]
  const numPenalized = tokens.length
  const deltas = tokens.map(() => 0)
  // Adjusted only if it is the pending one.
  const pendingDeltas = tokens.map(() => pending?.delta ?? 0)
  const indexOf = new Map(adjustments === null ? [] : tokens.map((token, i) => [token, i]))
  for (const [i, token] of adjustments?.tokens.entries() ?? []) {
    const index = indexOf.get(token) ?? tokens.length
    tokens[index] = token
    deltas[index] = adjustments?.deltas[i] ?? 0
    pendingDeltas[index] = pending?.deltas?.[i] ?? deltas[index]
  }
  return { tokens, numPenalized, deltas, pendingDeltas }
}
