/** From a query to its documents: embed, search, rerank. Each step is a span of the contract. */
import { stage } from '../observability/context.ts'
import { contextualText } from './chunk.ts'
import type { Embedder } from './embedder.ts'
import { RagError } from './errors.ts'
import { parseFilter } from './filter.ts'
import type { Reranker } from './reranker.ts'
import type { Candidate, Metadata, MetadataFilter, VectorIndex } from './vector-index.ts'

export interface RetrieveParams {
  /** Candidates that the search hands to the reranker. */
  readonly topK: number
  /** Documents kept. */
  readonly topN: number
  /** Documents with a lower score are dropped. */
  readonly minScore: number | null
  readonly filter: MetadataFilter | null
}

/** A chunk that answers, as responses show it. */
export interface RetrievedDocument {
  /** The document's id. */
  readonly id: string
  readonly chunk: number
  readonly source: string
  /** Relevance by the reranker, 0..1; cosine similarity with the query where it did not run. The order is `rank`. */
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
  /** False when the reranker failed or ran out of time: the documents are in the order of the search. */
  readonly isReranked: boolean
}

export const DEFAULT_TOP_K = 20
export const DEFAULT_TOP_N = 4
const MAX_TOP_K = 1000

/** What a caller asks for, with null for what it left out. */
export interface RawRetrieveParams {
  readonly topK: number | null
  readonly topN: number | null
  readonly minScore: number | null
  readonly filter: Readonly<Record<string, unknown>> | null
}

/**
 * Checks what a caller asks for and fills in the rest.
 * @param at where the fields are in the request, such as `rag.`
 * @throws RagError invalid_request naming the field.
 */
export function parseRetrieveParams({ topK, topN, minScore, filter }: RawRetrieveParams, at: string): RetrieveParams {
  const inRange = (value: number, name: string, max: number): number => {
    if (Number.isInteger(value) && value >= 1 && value <= max) return value
    throw new RagError(
      'invalid_request',
      `${at}${name}: expected a whole number from 1 to ${max}, found ${value}`,
      at + name,
    )
  }
  const k = inRange(topK ?? Math.max(DEFAULT_TOP_K, Math.min(topN ?? 0, MAX_TOP_K)), 'top_k', MAX_TOP_K)
  return {
    topK: k,
    topN: inRange(topN ?? Math.min(DEFAULT_TOP_N, k), 'top_n', k),
    minScore,
    filter: filter && parseFilter(filter, `${at}filter`),
  }
}

/**
 * Constant of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009; they use 60). Smaller than theirs: with two rankings
 * instead of dozens, 60 puts whatever both of them found before the best that one of them found.
 */
const RRF_K = 10

/** Weights of the two fusions: of the two searches, and of their result with the reranker's. */
export interface FusionWeights {
  readonly vector: number
  readonly text: number
  readonly search: number
  readonly rerank: number
}

/** Chosen on the development questions of experiments/models/retrieval; `npm run bench -- rag quality` shows what they reach on the others. */
export const FUSION_WEIGHTS: FusionWeights = { vector: 1, text: 0.4, search: 0.25, rerank: 1 }

const reciprocal = (rank: number | null, weight: number): number => (rank === null ? 0 : weight / (RRF_K + rank))

/** Candidates by the fusion of both searches, best first; equal ones by document and chunk, so that the order is always the same. */
export function fuse(candidates: readonly Candidate[], weights: FusionWeights = FUSION_WEIGHTS): Candidate[] {
  return candidates
    .map((candidate) => ({
      candidate,
      score: reciprocal(candidate.vectorRank, weights.vector) + reciprocal(candidate.textRank, weights.text),
    }))
    .sort((a, b) => b.score - a.score || compareChunks(a.candidate, b.candidate))
    .map(({ candidate }) => candidate)
}

/**
 * Positions in the search's order, best first, with the reranker's scores as a second ranking. A small cross-encoder errs, and its
 * errors are not those of the searches: together they err less than it does alone.
 */
export function fuseReranked(scores: ArrayLike<number>, weights: FusionWeights = FUSION_WEIGHTS): number[] {
  const places = Array.from({ length: scores.length }, (_, i) => i)
  const fused = places.map((place) => reciprocal(place + 1, weights.search))
  places
    .toSorted((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    .forEach((place, i) => (fused[place] = (fused[place] ?? 0) + reciprocal(i + 1, weights.rerank)))
  return places.sort((a, b) => (fused[b] ?? 0) - (fused[a] ?? 0) || a - b)
}

/** By document id (code units), then chunk. */
export const compareChunks = (
  a: { readonly documentId: string; readonly chunk: number },
  b: { readonly documentId: string; readonly chunk: number },
): number => (a.documentId < b.documentId ? -1 : a.documentId > b.documentId ? 1 : a.chunk - b.chunk)

export interface RetrieveParts {
  readonly index: VectorIndex
  readonly embedder: Embedder
  readonly reranker: Reranker
  /** Time the reranker may take before the search's order is used. */
  readonly rerankBudgetMs: number
}

/**
 * @throws RagError of the stage that failed, or the signal's reason. A failing reranker is no error: the search's order is used, and
 * its span says so.
 */
export async function retrieve(
  parts: RetrieveParts,
  query: string,
  params: RetrieveParams,
  signal?: AbortSignal,
): Promise<Retrieval> {
  const vector = await embedQuery(parts.embedder, query, signal)
  signal?.throwIfAborted()
  const candidates = await searchIndex(parts.index, vector, query, params, signal)
  signal?.throwIfAborted()
  const reranked = await rerank(parts, query, candidates, params.topN, signal)
  const ordered = reranked
    ? fuseReranked(reranked).flatMap((i) => toScored(candidates[i], reranked[i]))
    : candidates.flatMap((candidate) => toScored(candidate, candidate.similarity))
  const { minScore, topN } = params
  const documents = ordered
    .filter(({ score }) => minScore === null || score >= minScore)
    .slice(0, topN)
    .map(({ candidate, score }, i) => toDocument(candidate, score, i + 1))
  return { documents, numCandidates: candidates.length, isReranked: reranked !== null }
}

const toScored = (candidate: Candidate | undefined, score: number | undefined) =>
  candidate ? [{ candidate, score: score ?? 0 }] : []

function toDocument(candidate: Candidate, score: number, rank: number): RetrievedDocument {
  const { documentId: id, chunk, source, text, headings, start, end, metadata } = candidate
  return { id, chunk, source, score, rank, text, headings, start, end, metadata }
}

/** One text as a vector. */
export const embedQuery = (embedder: Embedder, query: string, signal?: AbortSignal): Promise<Float32Array> =>
  stage('embed.query', { 'rag.embed.model': embedder.name }, async (span) => {
    const { vectors } = await embedder.embed([query], { role: 'query', ...(signal && { signal }) })
    span.set({ 'rag.embed.dimensions': vectors.length })
    return vectors
  })

const searchIndex = (
  index: VectorIndex,
  vector: Float32Array,
  text: string,
  { topK, filter }: RetrieveParams,
  signal?: AbortSignal,
) =>
  stage('vector.search', { 'rag.search.top_k': topK }, async (span) => {
    const found = await index.search({ vector, text, depth: topK, ...(filter && { filter }) }, signal)
    const candidates = fuse(found).slice(0, topK)
    span.set({ 'rag.search.candidates': candidates.length })
    if (candidates.length > 0) {
      span.set({ 'rag.search.max_score': Math.max(...candidates.map(({ similarity }) => similarity)) })
    }
    return candidates
  })

/** Scores of the candidates, or null when there are none in time. */
const rerank = (
  { reranker, rerankBudgetMs }: RetrieveParts,
  query: string,
  candidates: readonly Candidate[],
  topN: number,
  cancel?: AbortSignal,
): Promise<Float32Array | null> =>
  stage(
    'rerank',
    { 'rag.rerank.model': reranker.name, 'rag.rerank.candidates': candidates.length, 'rag.rerank.top_n': topN },
    async (span) => {
      if (candidates.length === 0) return new Float32Array(0)
      const budget = AbortSignal.timeout(rerankBudgetMs)
      const signal = cancel ? AbortSignal.any([budget, cancel]) : budget
      try {
        return (await reranker.rerank(query, candidates.map(contextualText), { signal })).scores
      } catch (error) {
        cancel?.throwIfAborted()
        span.set({
          'error.type': budget.aborted ? 'timeout' : error instanceof RagError ? error.code : 'rerank_failed',
        })
        return null
      }
    },
  )
