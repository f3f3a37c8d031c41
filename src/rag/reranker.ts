/** Orders the passages that a search found: a cross-encoder, or late interaction over static token vectors. */
import { contextualText } from './chunk.ts'
import { QUERY_PRIORITY, type LoadedReranker, type Passage, type RerankerApi } from './model-api.ts'
import type { StaticSource } from './models.ts'
import { shared } from '../promises.ts'
import type { StaticApi } from './static-worker.ts'
import type { WorkerClient } from './worker-rpc.ts'

/** `scores`: the relevance of each passage, 0..1. */
export type Reranking = RerankerApi<never>['rerank']['result']

/** A reranking model. Calls may throw RagError model_unavailable, or the signal's reason once it is aborted. */
export interface Reranker {
  readonly name: string
  /** Passages to rerank if a request names no number: as many as it can order quickly. */
  readonly numCandidates: number
  /** Whether answers show its relevance as a passage's score. If not, it only decides their order. */
  readonly isShown: boolean
  /** Loads the model if necessary, and times it. */
  load(): Promise<LoadedReranker>
  /** Takes one call between threads. */
  rerank(query: string, passages: readonly Passage[], options?: { readonly signal?: AbortSignal }): Promise<Reranking>
}

/** A cross-encoder in a worker of its kind. */
export function createReranker<Source extends { readonly name: string }>(
  model: Source,
  models: Pick<WorkerClient<RerankerApi<Source>>, 'call'>,
): Reranker {
  return {
    name: model.name,
    numCandidates: 20,
    isShown: true,
    load: shared(() => models.call('loadReranker', { model })),
    rerank: (query, passages, { signal } = {}) =>
      models.call(
        'rerank',
        { model, query, documents: passages.map(contextualText) },
        { priority: QUERY_PRIORITY, signal },
      ),
  }
}

/** Late interaction over a static model's token vectors: see `StaticModel.interact`. */
export function createInteraction(model: StaticSource, thread: Pick<WorkerClient<StaticApi>, 'call'>): Reranker {
  return {
    name: `${model.name}-interaction`,
    numCandidates: 50,
    isShown: false,
    load: shared(async () => {
      await thread.call('loadEmbedder', { model })
      return { msPerPair: 0 }
    }),
    async rerank(query, passages, { signal } = {}) {
      const options = { priority: QUERY_PRIORITY, signal }
      const scores = await thread.call('interact', { model, query, passages }, options)
      return { scores, numTokens: 0 }
    },
  }
}
