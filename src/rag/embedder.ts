/** Texts to vectors. */
import { INGEST_PRIORITY, QUERY_PRIORITY, type ModelProcess, type ModelSource } from './models.ts'
import type { EmbeddingRole, LoadedEmbedder } from './model-worker.ts'

export interface EmbedOptions {
  readonly role: EmbeddingRole
  readonly signal?: AbortSignal
}

export interface Embeddings {
  /** [texts, dimensions] f32, L2-normalised. */
  readonly vectors: Float32Array
  /** Tokens read of each text, special tokens included. */
  readonly numTokens: readonly number[]
}

/** An embedding model. Calls may throw RagError `model_unavailable`, or the signal's reason once it is aborted. */
export interface Embedder {
  /** Name for responses and spans. */
  readonly name: string
  /** Loads the model when it is not; what indexes are held against. */
  load(): Promise<LoadedEmbedder>
  /** Any number of texts; those longer than the model reads are cut. */
  embed(texts: readonly string[], options: EmbedOptions): Promise<Embeddings>
  /** Token counts, special tokens left out. */
  countTokens(texts: readonly string[], options?: { readonly signal?: AbortSignal }): Promise<readonly number[]>
  /** Texts of token ids of this model's tokenizer; null where an id is unknown. */
  decode(ids: readonly (readonly number[])[]): Promise<readonly (string | null)[]>
}

/** Texts of one call to the worker: as long as a query may have to wait behind an ingestion. */
const BATCH_SIZE = 16

/** Indexes of the texts by length: batches of like lengths have little padding. */
const byLength = (texts: readonly string[]): number[] =>
  texts.map((_, i) => i).sort((a, b) => (texts[a]?.length ?? 0) - (texts[b]?.length ?? 0))

/** An embedding model in the models' process. */
export function createEmbedder(model: ModelSource, models: ModelProcess): Embedder {
  return {
    name: model.name,
    load: () => models.call('loadEmbedder', { model }),
    async embed(texts, { role, signal }) {
      const priority = role === 'query' ? QUERY_PRIORITY : INGEST_PRIORITY
      const options = { priority, ...(signal && { signal }) }
      const order = byLength(texts)
      const numTokens = texts.map(() => 0)
      let vectors = new Float32Array(0)
      for (let from = 0; from < order.length; from += BATCH_SIZE) {
        const rows = order.slice(from, from + BATCH_SIZE)
        const batch = await models.call('embed', { model, role, texts: rows.map((row) => texts[row] ?? '') }, options)
        const dimensions = batch.vectors.length / rows.length
        if (vectors.length === 0) vectors = new Float32Array(texts.length * dimensions)
        rows.forEach((row, i) => {
          vectors.set(batch.vectors.subarray(i * dimensions, (i + 1) * dimensions), row * dimensions)
          numTokens[row] = batch.numTokens[i] ?? 0
        })
      }
      return { vectors, numTokens }
    },
    countTokens: (texts, { signal } = {}) =>
      models.call('countTokens', { model, texts }, { priority: INGEST_PRIORITY, ...(signal && { signal }) }),
    decode: (ids) => models.call('decode', { model, ids }),
  }
}
