/** What attention ops compute with, and with what options. */
import type { Activation, Columns, Norm, RopeTable, Vector } from './ops.ts'

/** What q and k are normalised over: each head, all heads, or each head after its rotation. */
export type QkNormKind = 'head' | 'full' | 'rotatedHead'

export interface QkvOptions {
  /** Index into KvLayout.layers. */
  readonly layer: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  /** RMSNorm of q and k. */
  readonly qkNorm: { readonly kind: QkNormKind; readonly q: Norm; readonly k: Norm } | null
  /** Each head of v is divided by its root mean square; together with a `qkNorm` of heads only. */
  readonly vNorm?: { readonly eps: number } | null
  readonly rope: RopeTable | null
  /** There are queries alone, [rows, numHeads headDim]: the layer attends to what another one stored. */
  readonly isQueryOnly?: boolean
}

/** What is added to each head's scores, before `softcap`, by the distance from a row to a token: T5's and MPNet's buckets, ALiBi's slopes. */
interface DistanceBias {
  readonly kind: 'distance'
  /** [numHeads, 2 reach + 1]: of tokens `reach` before the row to `reach` behind it. Those beyond count as the last. */
  readonly values: Vector
  /** At least 1. */
  readonly reach: number
}

/**
 * What is added by the bucket of a distance, once for the row and once for the token (disentangled attention, arXiv 2006.03654): scores[row, 0, head, b]
 * + scores[the token's row, 1, head, b]. The step has whole sequences.
 */
interface DisentangledBias {
  readonly kind: 'disentangled'
  readonly scores: Activation // [rows, 2, numHeads, numBuckets], as headProducts makes them
  readonly numBuckets: number
  /** [2 reach + 1]: the bucket of each distance, as DistanceBias.values. */
  readonly buckets: Vector
  readonly reach: number
}

/** Products of each head's part of a row with vectors that the head has. */
export interface HeadProductsOptions {
  /** [numHeads headDim] */
  readonly x: Columns
  readonly numHeads: number
  readonly headDim: number
  /** Vectors of a head; a multiple of 16. */
  readonly count: number
  /** [numHeads, count / 16, headDim, 16] */
  readonly table: Vector
}

export interface AttentionOptions {
  /** Index into KvLayout.layers. */
  readonly layer: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  /** Scores are multiplied by this. */
  readonly scale: number
  /** Position p attends to p - window + 1 .. p, and up to p + window - 1 where attention is bidirectional. */
  readonly window: number | null
  /** scores = softcap * tanh(scores / softcap). */
  readonly softcap: number | null
  /** [numHeads]: a logit beside the scores of each head, to which nothing belongs (attention sinks). */
  readonly sinks?: Vector | null
  readonly bias?: DistanceBias | DisentangledBias | null
  /** Rows see the rows after them too, as encoders do. The same in all attention ops of a step, which has whole sequences. */
  readonly bidirectional?: boolean
}
