/** Options of the attention ops. */
import type { Activation, Columns, Norm, RopeTable, Vector } from './ops.ts'

/** RMSNorm of q and k: over each head, over all heads together, or over each head after rotary embedding. */
export type QkNormKind = 'head' | 'full' | 'rotatedHead'

export interface QkvOptions {
  /** Index into KvLayout.layers. */
  readonly layer: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  /** RMSNorm of q and k. */
  readonly qkNorm: { readonly kind: QkNormKind; readonly q: Norm; readonly k: Norm } | null
  /** Divides each head of v by its root mean square. Only together with a per-head `qkNorm`. */
  readonly vNorm?: { readonly eps: number } | null
  readonly rope: RopeTable | null
  /** The input holds queries only, [rows, numHeads headDim]: the layer attends to the K and V of another layer. */
  readonly isQueryOnly?: boolean
}

/**
 * A bias per head and distance between a row and a token, added to the scores before `softcap`. Covers the relative position buckets of T5
 * (arXiv 1910.10683) and MPNet, and ALiBi's slopes (arXiv 2108.12409).
 */
interface DistanceBias {
  readonly kind: 'distance'
  /** [numHeads, 2 reach + 1]: for tokens from `reach` before the row to `reach` after it. Distances beyond are clamped. */
  readonly values: Vector
  /** At least 1. */
  readonly reach: number
}

/**
 * The two position terms of disentangled attention (DeBERTa, arXiv 2006.03654). With b the bucket of the distance between row and token, adds
 * scores[row, 0, head, b] + scores[tokenRow, 1, head, b]. The step must contain whole sequences.
 */
interface DisentangledBias {
  readonly kind: 'disentangled'
  readonly scores: Activation // [rows, 2, numHeads, numBuckets], from headProducts
  readonly numBuckets: number
  /** [2 reach + 1]: the bucket of each distance, indexed like DistanceBias.values. */
  readonly buckets: Vector
  readonly reach: number
}

/** Dot products of each head's slice of a row with that head's vectors. */
export interface HeadProductsOptions {
  /** [numHeads headDim] */
  readonly x: Columns
  readonly numHeads: number
  readonly headDim: number
  /** Vectors per head; a multiple of 16. */
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
  /** Position p attends to p - window + 1 .. p, and up to p + window - 1 when attention is bidirectional. null: no window. */
  readonly window: number | null
  /** scores = softcap * tanh(scores / softcap). null: off. */
  readonly softcap: number | null
  /** [numHeads]: an extra logit in each head's softmax that has no value vector (attention sinks, arXiv 2309.17453). */
  readonly sinks?: Vector | null
  readonly bias?: DistanceBias | DisentangledBias | null
  /** Rows also attend to later rows, as in encoders. Must be equal in all attention ops of a step, and the step must contain whole sequences. */
  readonly bidirectional?: boolean
}
