/** What a request says about retrieval, in one place for every route that has it: its fields on the wire, and what they mean. */
import { z } from 'zod'
import { RagError } from './errors.ts'
import { parseFilter } from './filter.ts'
import type { FusionWeights } from './fusion.ts'
import type { MetadataFilter } from './vector-index.ts'

/** In place of a weight that belongs to the models. */
const weight = z.number().min(0).max(1000).exactOptional()

/** The fields; each may be left out. Operators of filters are checked by `parseRetrieval`. */
export const retrievalFields = {
  index: z.string().min(1),
  top_k: z.int().min(1).max(1000),
  top_n: z.int().min(1).max(1000),
  min_score: z.number(),
  filter: z.record(z.string(), z.unknown()),
  weights: z.strictObject({ vector: weight, text: weight, rerank: weight, document: weight, topic: weight }),
  rerank: z.boolean(),
} as const

/** What a caller gave of the fields. */
export type RetrievalFields = {
  readonly [F in keyof typeof retrievalFields]?: z.output<(typeof retrievalFields)[F]> | undefined
}

/** A question and what its caller said about how to retrieve for it. */
export interface RetrievalRequest extends RetrievalFields {
  readonly query: string
}

/** What is retrieved: a request checked against its bounds, with defaults for what it leaves out. */
export interface Retrieving {
  readonly query: string
  /** Candidates that the search hands to the reranker. */
  readonly topK: number
  /** Documents kept. */
  readonly topN: number
  /** Documents with a lower score are dropped. */
  readonly minScore: number | null
  readonly filter: MetadataFilter | null
  /** In place of those that belong to the models. */
  readonly weights: Partial<FusionWeights>
  /** Whether the reranker may run. */
  readonly isReranked: boolean
}

/**
 * UTF-16 units of a query that are searched with, more than embedding models read: a prompt of a megabyte would keep the models' process
 * from everybody else's.
 */
const MAX_QUERY_CHARS = 16_384

const DEFAULT_TOP_K = 20
const DEFAULT_TOP_N = 4
const MAX_TOP_K = 1000

/**
 * Checks what a caller asks for and fills in the rest.
 * @param at where the fields are in the request, such as `rag.`
 * @param defaults in place of 20 candidates and 4 passages, where the caller names no numbers.
 * @throws RagError invalid_request naming the field.
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
