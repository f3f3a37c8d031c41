/** The fields of a request that concern retrieval, for every route that has them: validation, bounds and defaults. */
import { z } from 'zod'
import { RagError } from './errors.ts'
import { parseFilter } from './filter.ts'
import type { FusionWeights } from './fusion.ts'
import type { MetadataFilter } from './vector-index.ts'

/** Replaces the weight that belongs to the models. */
const weight = z.number().min(0).max(1000).exactOptional()

/** The fields, all optional. `parseRetrieval` validates the operators of filters. */
export const retrievalFields = {
  index: z.string().min(1),
  top_k: z.int().min(1).max(1000),
  top_n: z.int().min(1).max(1000),
  min_score: z.number(),
  filter: z.record(z.string(), z.unknown()),
  weights: z.strictObject({ vector: weight, text: weight, rerank: weight, document: weight, topic: weight }),
  rerank: z.boolean(),
} as const

/** The fields that a caller has set. */
export type RetrievalFields = {
  readonly [F in keyof typeof retrievalFields]?: z.output<(typeof retrievalFields)[F]> | undefined
}

/** A question, and how its caller wants to retrieve for it. */
export interface RetrievalRequest extends RetrievalFields {
  readonly query: string
}

/** A validated request, with defaults for the fields that are not set. */
export interface Retrieving {
  readonly query: string
  /** Candidates passed from the search to the reranker. */
  readonly topK: number
  /** Passages kept. */
  readonly topN: number
  /** Passages with a lower score are dropped. */
  readonly minScore: number | null
  readonly filter: MetadataFilter | null
  /** Replace the weights that belong to the models. */
  readonly weights: Partial<FusionWeights>
  /** Whether the reranker may run. */
  readonly isReranked: boolean
}

/**
 * UTF-16 units of a query that are used, more than embedding models read: a prompt of a megabyte would hold up the model worker for all others.
 */
const MAX_QUERY_CHARS = 16_384

const DEFAULT_TOP_K = 20
const DEFAULT_TOP_N = 4
const MAX_TOP_K = 1000

/**
 * Validates a request and adds the defaults.
 * @param at the prefix of the fields in the request, such as `rag.`
 * @param defaults replace 20 candidates and 4 passages
 * @throws RagError invalid_request naming the field
 */
export function parseRetrieval(
  request: RetrievalRequest,
  at: string,
  defaults: { readonly topK?: number; readonly topN?: number } = {},
): Retrieving {
  const inRange = (value: number, name: string, max: number): number => {
    if (Number.isInteger(value) && value >= 1 && value <= max) return value
    throw new RagError(
      'invalid_request',
      `${at}${name}: expected a whole number from 1 to ${max}, found ${value}`,
      at + name,
    )
  }
  const wanted = request.top_n ?? defaults.topN
  const usual = Math.max(defaults.topK ?? DEFAULT_TOP_K, Math.min(wanted ?? 0, MAX_TOP_K))
  const k = inRange(request.top_k ?? usual, 'top_k', MAX_TOP_K)
  return {
    query: request.query.slice(0, MAX_QUERY_CHARS),
    topK: k,
    topN: inRange(wanted ?? Math.min(DEFAULT_TOP_N, k), 'top_n', k),
    minScore: request.min_score ?? null,
    filter: request.filter === undefined ? null : parseFilter(request.filter, `${at}filter`),
    weights: request.weights ?? {},
    isReranked: request.rerank ?? true,
  }
}
