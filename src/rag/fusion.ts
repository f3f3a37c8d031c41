/**
 * One order out of five scores: of vector search and of lexical search, each over passages and over documents, and of a reranker. Each is scaled so that
 * the query's best candidate has 1, and the weighted sum decides (the convex combination of Bruch, Gai and Ingber, An Analysis of Fusion
 * Functions for Hybrid Retrieval, 2023): unlike ranks, scores distinguish a clear first place from a first place among equals.
 */
import type { Candidate } from './vector-index.ts'

export interface FusionWeights {
  /** Of the cosine similarity. */
  readonly vector: number
  /** Of what the candidate has of the query's words: BM25. */
  readonly text: number
  /** Of the reranker's relevance, where one runs. */
  readonly rerank: number
  /** Of what the candidate's document as a whole has of the query's words. */
  readonly document: number
  /** Of how close the closest passages of the candidate's document are. */
  readonly topic: number
}

/**
 * By what made the vectors, for weights belong to a pair of models: an encoder's similarity deserves more trust than that of static
 * embeddings. Chosen on the tuning half of bench/rag (`npm run bench -- rag ablation` shows what each is worth there); `rag yardstick` shows what
 * they reach on the other half.
 */
export const FUSION_WEIGHTS = {
  static: { vector: 1, text: 0.1, rerank: 1, document: 0.6, topic: 0 },
  encoder: { vector: 1, text: 0.05, rerank: 1, document: 0.4, topic: 0.7 },
} as const satisfies Readonly<Record<string, FusionWeights>>

type Scored = Pick<
  Candidate,
  'documentId' | 'chunk' | 'text' | 'similarity' | 'textShare' | 'documentShare' | 'documentSimilarity'
>

const largest = (values: readonly number[]): number => values.reduce((max, value) => Math.max(max, value), 0)

/** Scores divided by the largest, with a minimum of 0; all 0 if none is positive. */
function scaled(values: readonly number[]): number[] {
  const max = largest(values)
  return values.map((value) => (max > 0 ? Math.max(0, value) / max : 0))
}

/**
 * Positions of the candidates, best first; equal ones by their place in their document, then by document, so that the order is always the same.
 * Of candidates with the same text only the one that stands first in its document is kept: a manual that is there as one page and as
 * chapters would fill an answer with repetitions.
 * @param relevance what the reranker says of each, 0..1; null when it did not run.
 */
export function fusedOrder(
  candidates: readonly Scored[],
  relevance: ArrayLike<number> | null,
  weights: FusionWeights,
): number[] {
  const vector = scaled(candidates.map(({ similarity }) => similarity))
  const text = scaled(candidates.map(({ textShare }) => textShare))
  const rerank = relevance ? scaled(candidates.map((_, i) => relevance[i] ?? 0)) : null
  const document = scaled(candidates.map(({ documentShare }) => documentShare))
  const topic = scaled(candidates.map(({ documentSimilarity }) => documentSimilarity))
  const scores = candidates.map(
    (_, i) =>
      weights.vector * (vector[i] ?? 0) +
      weights.text * (text[i] ?? 0) +
      weights.document * (document[i] ?? 0) +
      weights.topic * (topic[i] ?? 0) +
      weights.rerank * (rerank?.[i] ?? 0),
  )
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

/** By document id (code units), then chunk. */
export const compareChunks = (
  a: { readonly documentId: string; readonly chunk: number },
  b: { readonly documentId: string; readonly chunk: number },
): number => (a.documentId < b.documentId ? -1 : a.documentId > b.documentId ? 1 : a.chunk - b.chunk)
