/**
 * Combines five scores into one order: those of vector search and of lexical search, each for passages and for documents, and that of a reranker.
 * Each score is scaled so that the query's best candidate has 1; their weighted sum decides (the convex combination of Bruch, Gai and Ingber, An
 * Analysis of Fusion Functions for Hybrid Retrieval, 2023). Unlike ranks, scores distinguish a clear winner from a first among equals.
 */
import type { Candidate } from './vector-index.ts'

export interface FusionWeights {
  /** The cosine similarity. */
  readonly vector: number
  /** The candidate's BM25 score. */
  readonly text: number
  /** The reranker's relevance, if one runs. */
  readonly rerank: number
  /** The BM25 score of the candidate's document as a whole. */
  readonly document: number
  /** The similarity of the closest passages of the candidate's document. */
  readonly topic: number
}

/**
 * By the kind of embedding model: an encoder's similarity deserves more trust than that of static embeddings. Chosen on the tuning half of bench/rag,
 * for which `npm run bench -- rag ablation` shows the effect of each weight; `rag yardstick` shows the result on the other half.
 */
export const FUSION_WEIGHTS = {
  static: { vector: 1, text: 0.1, rerank: 1, document: 0.6, topic: 0 },
  encoder: { vector: 1, text: 0.05, rerank: 1, document: 0.4, topic: 0.7 },
} as const satisfies Readonly<Record<string, FusionWeights>>

type Scored = Pick<
  Candidate,
  'documentId' | 'chunk' | 'text' | 'similarity' | 'textShare' | 'documentShare' | 'documentSimilarity'
>

/** Scores divided by the largest, at least 0; all 0 if none is positive. */
function scaled(values: readonly number[]): number[] {
  const max = values.reduce((largest, value) => Math.max(largest, value), 0)
  return values.map((value) => (max > 0 ? Math.max(0, value) / max : 0))
}

/**
 * The positions of the candidates, best first. Equal ones are ordered by chunk and document, so that the order is always the same. Of candidates with
 * the same text, only the first in its document is kept: a manual indexed both as one page and by chapters would fill an answer with repetitions.
 * @param relevance the reranker's score of each, 0..1; null if it did not run
 */
export function fusedOrder(
  candidates: readonly Scored[],
  relevance: ArrayLike<number> | null,
  weights: FusionWeights,
): number[] {
  const factors = [
    [weights.vector, scaled(candidates.map(({ similarity }) => similarity))],
    [weights.text, scaled(candidates.map(({ textShare }) => textShare))],
    [weights.document, scaled(candidates.map(({ documentShare }) => documentShare))],
    [weights.topic, scaled(candidates.map(({ documentSimilarity }) => documentSimilarity))],
    [weights.rerank, relevance ? scaled(candidates.map((_, i) => relevance[i] ?? 0)) : []],
  ] as const
  const scores = candidates.map((_, i) => factors.reduce((sum, [weight, values]) => sum + weight * (values[i] ?? 0), 0))
  return firstOfEachText(candidates).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || compareAt(candidates, a, b))
}

function firstOfEachText(candidates: readonly Scored[]): number[] {
  const first = new Map<string, number>()
  for (const [i, { text }] of candidates.entries()) {
    const known = first.get(text)
    if (known === undefined || compareAt(candidates, i, known) < 0) first.set(text, i)
  }
  return [...first.values()]
}

function compareAt(candidates: readonly Scored[], a: number, b: number): number {
  const [left, right] = [candidates[a], candidates[b]]
  return left && right ? left.chunk - right.chunk || compareChunks(left, right) : a - b
}

/** Compares by document id (in code units), then by chunk. */
export const compareChunks = (
  a: { readonly documentId: string; readonly chunk: number },
  b: { readonly documentId: string; readonly chunk: number },
): number => (a.documentId < b.documentId ? -1 : a.documentId > b.documentId ? 1 : a.chunk - b.chunk)
