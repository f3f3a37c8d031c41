/** The per-token logit changes of a SampleSpec in the form that kernels take: each token is listed once. */
import type { SampleSpec } from './sample-spec.ts'

interface ChangedTokens {
  /** Penalised tokens first. */
  readonly tokens: readonly number[]
  readonly numPenalized: number
  /** Per token: its adjustment, and in `pendingDeltas` its adjustment in case it is the pending token. */
  readonly deltas: readonly number[]
  readonly pendingDeltas: readonly number[]
}

/** The tokens that a spec penalises or adjusts. */
export function changedTokens({ repetition, adjustments, pending }: SampleSpec): ChangedTokens {
  const tokens = [...(repetition?.tokens ?? [])]
  const numPenalized = tokens.length
  const deltas = tokens.map(() => 0)
  // A token that is only penalised gets an adjustment only in case it is the pending token.
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
