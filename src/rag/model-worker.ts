/** The worker's side of embedding and reranking models, the same for every runtime. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { TextRole } from '../engine/runner/encoder/text-model.ts'
import type { EmbedderApi, Embeddings, RerankerApi } from './model-api.ts'
import { Transferred, type CallHandlers } from './worker-rpc.ts'

type Scored = RerankerApi<never>['rerank']['result']

/** A loaded embedding model. */
export interface WorkerEmbedder {
  /** Hash of the weights; null: unknown. */
  readonly digest: string | null
  readonly dimensions: number
  readonly maxTokens: number
  embed(texts: readonly string[], role: TextRole): Embeddings | Promise<Embeddings>
  countTokens(text: string): number
  decode(ids: readonly number[]): string | null
}

/** A loaded reranking model. */
interface WorkerReranker {
  readonly maxTokens: number
  score(query: string, documents: readonly string[]): Promise<Scored>
}

/** The calls of an embedding worker. @param load called for each call, so it should return a model that is already loaded */
export const embedderCalls = <Source extends { readonly name: string }>(
  load: (source: Source) => Promise<WorkerEmbedder>,
): CallHandlers<EmbedderApi<Source>> => ({
  async loadEmbedder({ model }) {
    const { digest, dimensions, maxTokens } = await load(model)
    return { fingerprint: digest === null ? model.name : `${model.name}@${digest}`, dimensions, maxTokens }
  },
  async embed({ model, texts, role }) {
    const result = await (await load(model)).embed(texts, role)
    return new Transferred(result, [result.vectors.buffer])
  },
  async countTokens({ model, texts }) {
    const embedder = await load(model)
    return texts.map((text) => embedder.countTokens(text))
  },
  async decode({ model, ids }) {
    const embedder = await load(model)
    return ids.map((list) => embedder.decode(list))
  },
})

/** Pairs that are scored together: a call can be cancelled between batches. */
const RERANK_BATCH = 8
/** The pair that a reranker is timed with, of typical length. */
const SAMPLE_QUESTION = 'Which flag of the server sets the port that it listens on?'
const SAMPLE_PASSAGE = 'Sets the port that the server listens on; 0 takes any free one. '.repeat(8)

/** The calls of a reranking worker. @param load as in `embedderCalls` */
export const rerankerCalls = <Source>(
  load: (source: Source) => Promise<WorkerReranker>,
): CallHandlers<RerankerApi<Source>> => ({
  async loadReranker({ model }) {
    const reranker = await load(model)
    const passages = Array.from({ length: RERANK_BATCH }, () => SAMPLE_PASSAGE)
    // The first run prepares the model for the shape.
    await reranker.score(SAMPLE_QUESTION, passages)
    const started = performance.now()
    await reranker.score(SAMPLE_QUESTION, passages)
    return { msPerPair: (performance.now() - started) / RERANK_BATCH }
  },
  async rerank({ model, query, documents }, signal) {
    const reranker = await load(model)
    const scores = new Float32Array(documents.length)
    // Texts of similar length need little padding.
    const order = documents.map((_, i) => i).sort((a, b) => (documents[a]?.length ?? 0) - (documents[b]?.length ?? 0))
    let numTokens = 0
    for (let from = 0; from < order.length; from += RERANK_BATCH) {
      const rows = order.slice(from, from + RERANK_BATCH)
      const batch = await reranker.score(
        query,
        rows.map((row) => documents[row] ?? ''),
      )
      rows.forEach((row, i) => (scores[row] = batch.scores[i] ?? 0))
      numTokens += batch.numTokens
      // Lets a message that cancels the call arrive.
      await nextTurn()
      signal.throwIfAborted()
    }
    return { scores, numTokens }
  },
})
