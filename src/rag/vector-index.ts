/**
 * The contract of an index of chunks: what every store keeps, answers and throws. Stores differ in where the data lives
 * (stores/memory.ts: this process and one file per index; stores/pgvector.ts: PostgreSQL), not in what a search returns.
 */

export type MetadataScalar = string | number | boolean | null
export type MetadataValue = MetadataScalar | readonly MetadataScalar[]
/** What a document carries besides its text, for filters. */
export type Metadata = Readonly<Record<string, MetadataValue>>

/** A piece of a document, the unit of search. */
export interface Chunk {
  /** Position among the document's chunks, from 0. */
  readonly chunk: number
  readonly text: string
  /** Headings above it, outermost first. */
  readonly headings: readonly string[]
  /** What a link to it has behind the document's address, such as `#page=3`; absent: nothing closer than the document. */
  readonly anchor?: string
  /** Its range in the document's text, in UTF-16 units: [start, end). */
  readonly start: number
  readonly end: number
  /** By the embedding model's tokenizer. */
  readonly numTokens: number
}

/** A document as an index keeps it. */
export interface StoredDocument {
  /** Unique in the index. A file's is its path from the folder that its root lies in. */
  readonly id: string
  /** Where it came from, for people: a path, a URL. */
  readonly source: string
  /** SHA-256 (hex) over text, metadata and chunking: equal hash, nothing to do. */
  readonly contentHash: string
  /** Which ingestion made it, to distinguish deleted files of a folder from documents of other origin. Empty for HTTP. */
  readonly origin: string
  /** Size and time of its file when it was read, and how it was cut; absent if they do not show whether it must be read again. */
  readonly stamp?: string
  readonly metadata: Metadata
  readonly chunks: readonly Chunk[]
}

/** A document with the embeddings of its chunks, L2-normalised: [chunks, dimensions] f32. */
export interface EmbeddedDocument extends StoredDocument {
  readonly vectors: Float32Array
}

/** What is compared to decide whether a document must be read again. */
export interface DocumentSummary {
  readonly id: string
  readonly contentHash: string
  readonly origin: string
  readonly stamp?: string
}

export interface IndexInfo {
  readonly name: string
  /** Name of the embedding model that made the vectors. */
  readonly model: string
  readonly dimensions: number
  readonly numDocuments: number
  readonly numChunks: number
  /** Size on disk, or in the database. */
  readonly bytes: number
}

/** A condition on a metadata field: equality, one of several, or a comparison. `source` and `id` are fields too. */
export type FilterCondition =
  | MetadataScalar
  | readonly MetadataScalar[]
  | {
      readonly ne?: MetadataScalar
      readonly gt?: number | string
      readonly gte?: number | string
      readonly lt?: number | string
      readonly lte?: number | string
      readonly prefix?: string
      readonly exists?: boolean
    }

/** Conditions that must all be met. A field that is a list matches when one of its values does. */
export type MetadataFilter = Readonly<Record<string, FilterCondition>>

export interface SearchQuery {
  /** L2-normalised, as long as the index's dimensions. */
  readonly vector: Float32Array
  /** For lexical search. */
  readonly text: string
  /** How many to find by each of the two searches. */
  readonly depth: number
  readonly filter?: MetadataFilter
}

/** Chunks of a document that say how close the document is. */
export const CLOSEST_CHUNKS = 3

/** A chunk found by one search or both. */
export interface Candidate extends Chunk {
  readonly documentId: string
  readonly source: string
  readonly metadata: Metadata
  /** Cosine similarity with the query, -1..1; known also for chunks found by their words only. */
  readonly similarity: number
  /** Place among the results of vector search from 1, null when not among them. */
  readonly vectorRank: number | null
  /** Place among the results of lexical search from 1, null when not among them. */
  readonly textRank: number | null
  /**
   * How much of the query's words lexical search found in it, 0 and up: its BM25 score as a share of what a chunk of mean length gets that
   * has every one of them once (words that no chunk has count too). Known also of chunks found by their vector only.
   */
  readonly textShare: number
  /**
   * The same of its document as a whole, 0 and up: BM25 over whole documents, with how rare the words are among chunks. A question's words are
   * often spread over a document, of which a chunk has some.
   */
  readonly documentShare: number
  /**
   * Mean similarity of the query with the closest chunks of its document, CLOSEST_CHUNKS at most: one chunk is close by chance more often
   * than three of one document.
   */
  readonly documentSimilarity: number
}

/**
 * A named index. Every call may throw RagError `store_unavailable`. What `upsert` and `delete` did is durable and searchable when
 * they resolve, whole documents at a time.
 */
export interface VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  info(): Promise<IndexInfo>
  /** Adds documents, replacing those of the same ids. */
  upsert(documents: readonly EmbeddedDocument[]): Promise<void>
  /** @returns how many of them were there. */
  delete(ids: readonly string[]): Promise<number>
  get(id: string): Promise<StoredDocument | null>
  /** Of the documents of these ids that are there; of all without. */
  summaries(ids?: readonly string[]): Promise<readonly DocumentSummary[]>
  /**
   * Up to `depth` chunks by similarity and up to `depth` by their words, without duplicates, in no particular order.
   * @throws the signal's reason once it is aborted.
   */
  search(query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]>
}

/** What an index is made for. */
export interface IndexSpec {
  readonly model: string
  readonly dimensions: number
}

/** Stores indexes by their stored names (access.ts). */
export interface IndexStore {
  /** Names of all, in order. */
  names(): Promise<readonly string[]>
  /** Cheaper than `open`. */
  exists(name: string): Promise<boolean>
  /** null when there is none of that name. @throws RagError index_corrupt, store_unavailable */
  open(name: string): Promise<VectorIndex | null>
  /** Opens or creates the index. @throws RagError index_model_mismatch if it exists with another spec. */
  openOrCreate(name: string, spec: IndexSpec): Promise<VectorIndex>
  /** @returns whether it was there. */
  drop(name: string): Promise<boolean>
  /** Forgets what it knows of an index that turned out to have changed: the next `open` looks. */
  forget?(name: string): void
  /** Idempotent. */
  close(): Promise<void>
}

export const INDEX_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/** Whether a name can be an index's: it becomes a file's name and a table's key. */
export const isIndexName = (name: string): boolean => INDEX_NAME.test(name)

/** UTF-16 units of a document's id: it is a key of the store. */
export const MAX_ID_LENGTH = 512

/** Control characters, and halves of surrogate pairs, which no store and no log line keeps as they are. */
const UNFIT_FOR_ID = /[\p{Cc}\p{Cs}]/u

/** A segment of dots: URLs resolve it, so the document could not be requested. */
const DOT_SEGMENT = /(?:^|\/)\.\.?(?:\/|$)/

/** Whether a text can be a document's id. */
export const isDocumentId = (id: string): boolean =>
  id.length > 0 && id.length <= MAX_ID_LENGTH && !UNFIT_FOR_ID.test(id) && !DOT_SEGMENT.test(id)

/** NUL and halves of surrogate pairs: JSON can write them, PostgreSQL's jsonb refuses them. */
const UNFIT_FOR_METADATA = /[\0\p{Cs}]/u

/** Whether every store can keep a text of metadata, as a value and as a name. */
export const isStorableText = (text: string): boolean => !UNFIT_FOR_METADATA.test(text)
