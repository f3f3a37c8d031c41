/** Scores of documents against a query by a model that reads both together. */
import { loadedOnce, QUERY_PRIORITY } from './loaded-once.ts'
import type { LoadedReranker, RerankerApi } from './model-api.ts'
import type { WorkerClient } from './worker-rpc.ts'

export interface Reranking {
  /** Relevance of each document, 0..1. */
  readonly scores: Float32Array
  readonly numTokens: number
}

/** A cross-encoder. Calls may throw RagError `model_unavailable`, or the signal's reason once it is aborted. */
export interface Reranker {
  readonly name: string
  /** Loads the model when it is not, and times it. */
  load(): Promise<LoadedReranker>
  /** One call to the model's worker. */
  rerank(query: string, documents: readonly string[], options?: { readonly signal?: AbortSignal }): Promise<Reranking>
}

/** A cross-encoder in a worker for its kind. */
export function createReranker<Source extends { readonly name: string }>(
  model: Source,
  models: Pick<WorkerClient<RerankerApi<Source>>, 'call'>,
): Reranker {
  return {
    name: model.name,
    load: loadedOnce(() => models.call('loadReranker', { model })),
    rerank: (query, documents, { signal } = {}) =>
      models.call('rerank', { model, query, documents }, { priority: QUERY_PRIORITY, ...(signal && { signal }) }),
  }
}
