/**
 * One order out of three: of vector search, of lexical search and of the reranker. Reciprocal rank fusion (Cormack, Clarke and
 * Buettcher, SIGIR 2009), in which a lexical rank counts by how much of the query's words it stands for: BM25 always has a first
 * place to give away, and for a question in other words than the text's it is chance.
 */
import type { Candidate } from './vector-index.ts'

export interface FusionWeights {
  /** Constant added to each rank: the larger, the less a first place counts. */
  readonly k: number
  readonly vector: number
  /** Times `textShare ** textPower`: what the candidate has of the query's words. */
  readonly text: number
  /** Above 1: few of the words count for little, since some chunk has them by chance. */
  readonly textPower: number
  readonly rerank: number
}

/**
 * Chosen by experiments/models/retrieval/tune-fusion.mjs, which scores this module on development questions. `npm run bench -- rag quality`
 * shows what they reach on the evaluation questions.
 */
export const FUSION_WEIGHTS: FusionWeights = { k: 10, vector: 0.25, text: 1, textPower: 2, rerank: 1 }

type Ranked = Pick<Candidate, 'documentId' | 'chunk' | 'vectorRank' | 'textRank' | 'textShare'>

/**
 * Positions of the candidates, best first; equal ones by document and chunk, so that the order is always the same.
 * @param relevance what the reranker says of each; null when it did not run.
 */
export function fusedOrder(
  candidates: readonly Ranked[],
  relevance: ArrayLike<number> | null,
  { k, vector, text, textPower, rerank }: FusionWeights = FUSION_WEIGHTS,
): number[] {
  const reciprocal = (rank: number | null): number => (rank === null ? 0 : 1 / (k + rank))
  const scores = candidates.map(
    ({ vectorRank, textRank, textShare }) =>
      vector * reciprocal(vectorRank) + text * textShare ** textPower * reciprocal(textRank),
  )
  const bySearch = (a: number, b: number) => (scores[b] ?? 0) - (scores[a] ?? 0) || compareAt(candidates, a, b)
  const places = candidates.map((_, i) => i)
  if (relevance) {
    places.sort((a, b) => (relevance[b] ?? 0) - (relevance[a] ?? 0) || bySearch(a, b))
    places.forEach((place, i) => (scores[place] = (scores[place] ?? 0) + rerank * reciprocal(i + 1)))
  }
  return places.sort(bySearch)
}

function compareAt(candidates: readonly Ranked[], a: number, b: number): number {
  const [left, right] = [candidates[a], candidates[b]]
  return left && right ? compareChunks(left, right) : a - b
}

/** By document id (code units), then chunk. */
export const compareChunks = (
  a: { readonly documentId: string; readonly chunk: number },
  b: { readonly documentId: string; readonly chunk: number },
): number => (a.documentId < b.documentId ? -1 : a.documentId > b.documentId ? 1 : a.chunk - b.chunk)
