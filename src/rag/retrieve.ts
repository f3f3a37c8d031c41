/** Finds the passages for a query: embed, search, rerank. Each step is a span of the contract. */
import { stage } from '../observability/context.ts'
import { untilAborted } from '../promises.ts'
import type { Embedder } from './embedder.ts'
import { RagError } from './errors.ts'
import { fusedOrder, type FusionWeights } from './fusion.ts'
import type { Reranker } from './reranker.ts'
import type { Retrieving } from './retrieval-request.ts'
import type { Candidate, Metadata, VectorIndex } from './vector-index.ts'

/** A passage as responses show it. */
export interface RetrievedDocument {
  /** The document's id. */
  readonly id: string
  readonly chunk: number
  readonly source: string
  /** The fragment of a link to the passage, such as `#page=3`; null: none. */
  readonly anchor: string | null
  /** The relevance by a reranker that shows it, 0..1; otherwise the cosine similarity. `rank` gives the order. */
  readonly score: number
  /** From 1, best first. */
  readonly rank: number
  readonly text: string
  readonly headings: readonly string[]
  readonly start: number
  readonly end: number
  readonly metadata: Metadata
}

export interface Retrieval {
  readonly documents: readonly RetrievedDocument[]
  readonly numCandidates: number
  /** False if no reranker ran, or it did not finish: the passages are in the order of the search. */
  readonly isReranked: boolean
  /** Whether a reranker failed or took too long. */
  readonly hasRerankFailed: boolean
}

/** Chunks that each search returns to the fusion, at least. */
const MIN_DEPTH = 50

export interface RetrieveParts {
  readonly index: VectorIndex
  readonly embedder: Embedder
  /** null: passages keep the order of the search. */
  readonly reranker: Reranker | null
  /** The weights of the models. A request may replace them. */
  readonly weights: FusionWeights
  /** Time for the reranker before the order of the search is used; slow machines get more. */
  readonly rerankBudgetMs: number
  /** Called with the kind of the error when the reranker failed or took too long. */
  readonly onRerankFailure?: (kind: string) => void
}

/**
 * Finds the passages for a query. If the reranker fails, the order of the search is used, and the span records the failure.
 * @throws RagError of the step that failed, or the signal's reason
 */
export async function retrieve(parts: RetrieveParts, params: Retrieving, signal?: AbortSignal): Promise<Retrieval> {
  const { query } = params
  const vector = await embedQuery(parts.embedder, query, signal)
  signal?.throwIfAborted()
  const weights = { ...parts.weights, ...params.weights }
  const candidates = await searchIndex(parts.index, vector, query, params, weights, signal)
  signal?.throwIfAborted()
  const { scores: reranked, hasFailed } = await rerank(parts, query, candidates, params, signal)
  const order = reranked ? fusedOrder(candidates, reranked, weights) : candidates.map((_, i) => i)
  const shown = parts.reranker?.isShown ? reranked : null
  const ordered = order.flatMap((i) => {
    const candidate = candidates[i]
    return candidate ? [{ candidate, score: shown?.[i] ?? candidate.similarity }] : []
  })
  const { minScore, topN } = params
  const documents = ordered
    .filter(({ score }) => minScore === null || score >= minScore)
    .slice(0, topN)
    .map(({ candidate, score }, i) => toDocument(candidate, score, i + 1))
  return { documents, numCandidates: candidates.length, isReranked: reranked !== null, hasRerankFailed: hasFailed }
}

function toDocument(candidate: Candidate, score: number, rank: number): RetrievedDocument {
  const { documentId: id, chunk, source, anchor = null, text, headings, start, end, metadata } = candidate
  return { id, chunk, source, anchor, score, rank, text, headings, start, end, metadata }
}

/** Embeds the query. */
const embedQuery = (embedder: Embedder, query: string, signal?: AbortSignal): Promise<Float32Array> =>
  stage('embed.query', { 'rag.embed.model': embedder.name }, async (span) => {
    const { vectors } = await embedder.embed([query], { role: 'query', signal })
    span.set({ 'rag.embed.dimensions': vectors.length })
    return vectors
  })

const searchIndex = (
  index: VectorIndex,
  vector: Float32Array,
  text: string,
  { topK, filter }: Retrieving,
  weights: FusionWeights,
  signal?: AbortSignal,
) =>
  stage('vector.search', { 'rag.search.top_k': topK }, async (span) => {
    // Deeper than requested: a chunk that is second in both searches may have the best sum, and duplicates are dropped.
    const depth = Math.max(topK, MIN_DEPTH)
    const found = await index.search({ vector, text, depth, ...(filter && { filter }) }, signal)
    const candidates = fusedOrder(found, null, weights)
      .slice(0, topK)
      .flatMap((i) => found[i] ?? [])
    span.set({ 'rag.search.candidates': candidates.length })
    if (candidates.length > 0) {
      span.set({ 'rag.search.max_score': Math.max(...candidates.map(({ similarity }) => similarity)) })
    }
    return candidates
  })

/** On a busy machine a reranker may take this many times as long as when it was timed, up to the longest time that a user waits. */
const RERANK_PATIENCE = 4
const MAX_RERANK_BUDGET_MS = 10_000
/** The `rag.rerank.model` of the span if the order of the search is kept. */
const NO_RERANKER = 'none'

interface Reranked {
  /** The scores of the candidates; null if no reranker ran, or it did not finish. */
  readonly scores: Float32Array | null
  readonly hasFailed: boolean
}

const rerank = (
  { reranker: available, rerankBudgetMs, onRerankFailure }: RetrieveParts,
  query: string,
  candidates: readonly Candidate[],
  { topN, isReranked }: Retrieving,
  cancel?: AbortSignal,
): Promise<Reranked> => {
  const reranker = isReranked ? available : null
  return stage(
    'rerank',
    {
      'rag.rerank.model': reranker?.name ?? NO_RERANKER,
      'rag.rerank.candidates': candidates.length,
      'rag.rerank.top_n': topN,
    },
    async (span) => {
      if (reranker === null) return { scores: null, hasFailed: false }
      if (candidates.length === 0) return { scores: new Float32Array(0), hasFailed: false }
      let budget = AbortSignal.timeout(rerankBudgetMs)
      const withCancel = (own: AbortSignal): AbortSignal => (cancel ? AbortSignal.any([own, cancel]) : own)
      try {
        const { msPerPair } = await untilAborted(reranker.load(), withCancel(budget))
        const patience = Math.min(MAX_RERANK_BUDGET_MS, RERANK_PATIENCE * msPerPair * candidates.length)
        if (patience > rerankBudgetMs) budget = AbortSignal.timeout(Math.round(patience))
        const signal = withCancel(budget)
        const { scores } = await reranker.rerank(query, candidates, { signal })
        return { scores, hasFailed: false }
      } catch (error) {
        cancel?.throwIfAborted()
        const kind = budget.aborted ? 'timeout' : error instanceof RagError ? error.code : 'rerank_failed'
        span.set({ 'error.type': kind })
        onRerankFailure?.(kind)
        return { scores: null, hasFailed: true }
      }
    },
  )
}
