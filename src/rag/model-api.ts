/** The calls of embedding and reranking workers, the same for every runtime. `Source` locates a model of the worker's kind. */
import type { TextRole } from '../engine/runner/encoder/text-model.ts'

/** Priorities of calls to the models: a client's query goes before the next batch of an ingestion. */
export const QUERY_PRIORITY = 0
export const INGEST_PRIORITY = 1

export interface LoadedEmbedder {
  /** Name and hash of the weights: vectors of different models cannot be compared. */
  readonly fingerprint: string
  readonly dimensions: number
  /** Tokens that the model reads, special tokens included. */
  readonly maxTokens: number
}

export interface Embeddings {
  /** [texts, dimensions] f32. Vectors of queries and documents have length 1; those of plain texts have the length that the model gives them. */
  readonly vectors: Float32Array<ArrayBuffer>
  /** Tokens read of each text, special tokens included. */
  readonly numTokens: readonly number[]
}

export interface LoadedReranker {
  /** Time per pair of a question and a passage, measured on this machine. */
  readonly msPerPair: number
}

/** A text with the headings above it, outermost first. */
export interface Passage {
  readonly headings: readonly string[]
  readonly text: string
}

export interface EmbedderApi<Source> {
  readonly loadEmbedder: { readonly params: { readonly model: Source }; readonly result: LoadedEmbedder }
  /** Longer texts are cut. */
  readonly embed: {
    readonly params: { readonly model: Source; readonly texts: readonly string[]; readonly role: TextRole }
    readonly result: Embeddings
  }
  /** Token counts without special tokens. */
  readonly countTokens: {
    readonly params: { readonly model: Source; readonly texts: readonly string[] }
    readonly result: readonly number[]
  }
  /** Texts of token ids; null if an id is outside the vocabulary. */
  readonly decode: {
    readonly params: { readonly model: Source; readonly ids: readonly (readonly number[])[] }
    readonly result: readonly (string | null)[]
  }
}

export interface RerankerApi<Source> {
  readonly loadReranker: { readonly params: { readonly model: Source }; readonly result: LoadedReranker }
  /** The relevance of each document to the query, 0..1. Longer documents are cut. Stops between batches when cancelled. */
  readonly rerank: {
    readonly params: { readonly model: Source; readonly query: string; readonly documents: readonly string[] }
    readonly result: { readonly scores: Float32Array; readonly numTokens: number }
  }
}

export interface ModelApi<Source> extends EmbedderApi<Source>, RerankerApi<Source> {}
