/** From a query to its documents: embed, search, rerank. Each step is a span of the contract. */
import { stage } from '../observability/context.ts'
import { untilAborted } from './shared-work.ts'
import type { Embedder } from './embedder.ts'
import { RagError } from './errors.ts'
import { fusedOrder, type FusionWeights } from './fusion.ts'
import type { Reranker } from './reranker.ts'
import type { Retrieving } from './retrieval-request.ts'
import type { Candidate, Metadata, VectorIndex } from './vector-index.ts'

/** A chunk that answers, as responses show it. */
export interface RetrievedDocument {
  /** The document's id. */
  readonly id: string
  readonly chunk: number
  readonly source: string
  /** Behind its source in a link to the passage, such as `#page=3`; null: there is none. */
  readonly anchor: string | null
  /** Relevance by a reranker that shows it, 0..1; else the cosine similarity with the query. The order is `rank`. */
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
  /** False when no reranker ran, or not to its end: the documents are in the order of the search. */
  readonly isReranked: boolean
  /** There is a reranker, and it failed or took too long. */
  readonly hasRerankFailed: boolean
}

/** Chunks that each search gives to the fusion, at least. */
const MIN_DEPTH = 50

interface RetrieveParts {
  readonly index: VectorIndex
  readonly embedder: Embedder
  /** null: the order of the search is kept. */
  readonly reranker: Reranker | null
  /** Those of the models; a request may set its own. */
  readonly weights: FusionWeights
  /** Time the reranker may take before the search's order is used, at least: slow machines get more. */
  readonly rerankBudgetMs: number
  /** Called with the kind of the error when the reranker failed or took too long. */
  readonly onRerankFailure?: (kind: string) => void
}

/**
 * @throws RagError of the stage that failed, or the signal's reason. A failing reranker is no error: the search's order is used, and
 * its span says so.
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

/** One text as a vector. */
const embedQuery = (embedder: Embedder, query: string, signal?: AbortSignal): Promise<Float32Array> =>
  stage('embed.query', { 'rag.embed.model': embedder.name }, async (span) => {
    const { vectors } = await embedder.embed([query], { role: 'query', ...(signal && { signal }) })
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
    // Deeper than asked for: what comes second in both searches may be first in sum, and repetitions fall away.
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

/** A reranker may take this many times what it took alone, so that a busy machine still reranks; and no longer than a reader waits. */
const RERANK_PATIENCE = 4
const MAX_RERANK_BUDGET_MS = 10_000
/** The span's `rag.rerank.model` where the order of the search is kept. */
const NO_RERANKER = 'none'

interface Reranked {
  /** Of the candidates; null where no reranker runs, or not in time. */
  readonly scores: Float32Array | null
  /** There is one, and it failed or took too long. */
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
