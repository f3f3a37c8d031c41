/** What orders the passages that a search found: a cross-encoder, or late interaction over static token vectors. */
import { contextualText } from './chunk.ts'
import { loadedOnce, QUERY_PRIORITY } from './loaded-once.ts'
import type { LoadedReranker, Passage, RerankerApi } from './model-api.ts'
import type { StaticSource } from './models.ts'
import type { StaticApi } from './static-worker.ts'
import type { WorkerClient } from './worker-rpc.ts'

export interface Reranking {
  /** Relevance of each passage, 0..1. */
  readonly scores: Float32Array
  readonly numTokens: number
}

/** Calls may throw RagError `model_unavailable`, or the signal's reason once it is aborted. */
export interface Reranker {
  readonly name: string
  /** Passages that it is given where a request names no number: as many as it orders in good time. */
  readonly numCandidates: number
  /** Whether its relevance is what answers show as a passage's score; else it decides their order only. */
  readonly isShown: boolean
  /** Loads the model when it is not, and times it. */
  load(): Promise<LoadedReranker>
  /** One call between threads. */
  rerank(query: string, passages: readonly Passage[], options?: { readonly signal?: AbortSignal }): Promise<Reranking>
}

/** A cross-encoder in a worker for its kind. */
export function createReranker<Source extends { readonly name: string }>(
  model: Source,
  models: Pick<WorkerClient<RerankerApi<Source>>, 'call'>,
): Reranker {
  return {
    name: model.name,
    numCandidates: 20,
    isShown: true,
    load: loadedOnce(() => models.call('loadReranker', { model })),
    rerank: (query, passages, { signal } = {}) =>
      models.call(
        'rerank',
        { model, query, documents: passages.map(contextualText) },
        { priority: QUERY_PRIORITY, ...(signal && { signal }) },
      ),
  }
}

/** The static embedder's own: see `StaticModel.interact`. */
export function createInteraction(model: StaticSource, thread: Pick<WorkerClient<StaticApi>, 'call'>): Reranker {
  return {
    name: `${model.name}-interaction`,
    numCandidates: 50,
    isShown: false,
    load: loadedOnce(async () => {
      const { maxTokens } = await thread.call('loadEmbedder', { model })
      return { maxTokens, msPerPair: 0 }
    }),
    async rerank(query, passages, { signal } = {}) {
      const options = { priority: QUERY_PRIORITY, ...(signal && { signal }) }
      const scores = await thread.call('interact', { model, query, passages }, options)
      return { scores, numTokens: 0 }
    },
  }
}
