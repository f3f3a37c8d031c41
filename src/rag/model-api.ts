/** The calls of embedding and reranking workers, on any runtime. */
export interface LoadedEmbedder {
  /** Name and hash of the weights: vectors of different ones do not compare. */
  readonly fingerprint: string
  readonly dimensions: number
  /** Tokens it reads, special tokens included. */
  readonly maxTokens: number
}

export interface LoadedReranker {
  readonly maxTokens: number
  /** What a pair of a question and a passage takes on this machine. */
  readonly msPerPair: number
}

/** A text with the headings above it, outermost first. */
export interface Passage {
  readonly headings: readonly string[]
  readonly text: string
}

/** What a text is to a model that was trained with instructions; `plain`: neither, as the model's makers embed a text without saying what it is. */
export type EmbeddingRole = 'query' | 'document' | 'plain'

/** What a worker of embedding models answers. `Source` says where a model of its kind is. */
export interface EmbedderApi<Source> {
  readonly loadEmbedder: { readonly params: { readonly model: Source }; readonly result: LoadedEmbedder }
  /**
   * Vectors [texts, dimensions] and the tokens read of each text. Longer texts are cut. Of queries and documents the vectors have length 1; of
   * plain texts the length that the model gives them.
   */
  readonly embed: {
    readonly params: { readonly model: Source; readonly texts: readonly string[]; readonly role: EmbeddingRole }
    readonly result: { readonly vectors: Float32Array<ArrayBuffer>; readonly numTokens: readonly number[] }
  }
  /** Token counts without special tokens. */
  readonly countTokens: {
    readonly params: { readonly model: Source; readonly texts: readonly string[] }
    readonly result: readonly number[]
  }
  /** Texts of token ids; null where an id is outside the vocabulary. */
  readonly decode: {
    readonly params: { readonly model: Source; readonly ids: readonly (readonly number[])[] }
    readonly result: readonly (string | null)[]
  }
}

/** What a worker of reranking models answers. */
export interface RerankerApi<Source> {
  readonly loadReranker: { readonly params: { readonly model: Source }; readonly result: LoadedReranker }
  /** Relevance of each document to the query, 0..1. Longer documents are cut. Stops between batches when it is cancelled. */
  readonly rerank: {
    readonly params: { readonly model: Source; readonly query: string; readonly documents: readonly string[] }
    readonly result: { readonly scores: Float32Array; readonly numTokens: number }
  }
}

export interface ModelApi<Source> extends EmbedderApi<Source>, RerankerApi<Source> {}
