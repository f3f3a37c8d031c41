/** Scores of documents against a query by a model that reads both together. */
import { QUERY_PRIORITY, type ModelProcess, type ModelSource } from './models.ts'

export interface Reranking {
  /** Relevance of each document, 0..1. */
  readonly scores: Float32Array
  readonly numTokens: number
}

/** A cross-encoder. Calls may throw RagError `model_unavailable`, or the signal's reason once it is aborted. */
export interface Reranker {
  readonly name: string
  /** Loads the model when it is not. */
  load(): Promise<void>
  rerank(query: string, documents: readonly string[], options?: { readonly signal?: AbortSignal }): Promise<Reranking>
}

/** Pairs of one call to the worker: a time budget is checked between calls. */
const BATCH_SIZE = 8

/** A cross-encoder in the models' process. */
export function createReranker(model: ModelSource, models: ModelProcess): Reranker {
  return {
    name: model.name,
    async load() {
      await models.call('loadReranker', { model })
    },
    async rerank(query, documents, { signal } = {}) {
      const scores = new Float32Array(documents.length)
      const order = documents.map((_, i) => i).sort((a, b) => (documents[a]?.length ?? 0) - (documents[b]?.length ?? 0))
      let numTokens = 0
      for (let from = 0; from < order.length; from += BATCH_SIZE) {
        const rows = order.slice(from, from + BATCH_SIZE)
        const batch = await models.call(
          'rerank',
          { model, query, documents: rows.map((row) => documents[row] ?? '') },
          { priority: QUERY_PRIORITY, ...(signal && { signal }) },
        )
        rows.forEach((row, i) => (scores[row] = batch.scores[i] ?? 0))
        numTokens += batch.numTokens
      }
      return { scores, numTokens }
    },
  }
}
