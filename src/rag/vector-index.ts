/**
 * The contract of an index of chunks: what each store keeps, returns and throws. Stores differ in where the data is (stores/memory.ts: in this
 * process and one file per index; stores/pgvector.ts: in PostgreSQL), not in what they return; a large pgvector index searches approximately.
 */
import { RagError } from './errors.ts'

export type MetadataScalar = string | number | boolean | null
export type MetadataValue = MetadataScalar | readonly MetadataScalar[]
/** The fields of a document besides its text, for filters. */
export type Metadata = Readonly<Record<string, MetadataValue>>

/** A piece of a document, the unit of search. */
export interface Chunk {
  /** The position among the document's chunks, from 0. */
  readonly chunk: number
  readonly text: string
  /** Headings above it, outermost first. */
  readonly headings: readonly string[]
  /** The fragment that a link to the chunk appends to the document's address, such as `#page=3`; absent: only the document can be linked to. */
  readonly anchor?: string
  /** The range in the document's text: [start, end) in UTF-16 units. */
  readonly start: number
  readonly end: number
  /** Counted by the embedding model's tokenizer. */
  readonly numTokens: number
}

/** A document in an index. */
export interface StoredDocument {
  /** Unique in the index. For a file, its path relative to the parent folder of its root. */
  readonly id: string
  /** Where the document came from, for users: a path or a URL. */
  readonly source: string
  /** SHA-256 (hex) over text, metadata and chunking. Nothing needs to be done while it stays the same. */
  readonly contentHash: string
  /** The path of its file, to find the documents of deleted files; empty for a document sent over HTTP. */
  readonly origin: string
  /** The size and time of its file, and how it was cut into chunks; absent if the file must be read to see whether it changed. */
  readonly stamp?: string
  readonly metadata: Metadata
  readonly chunks: readonly Chunk[]
}

/** A document with the embeddings of its chunks, L2-normalised: [chunks, dimensions] f32. */
export interface EmbeddedDocument extends StoredDocument {
  readonly vectors: Float32Array
}

/** What decides whether a document must be indexed again. */
export type DocumentSummary = Pick<StoredDocument, 'id' | 'contentHash' | 'origin' | 'stamp'>

export interface IndexInfo {
  readonly name: string
  /** Name of the embedding model that made the vectors. */
  readonly model: string
  readonly dimensions: number
  readonly numDocuments: number
  readonly numChunks: number
  /** The size on disk, or in the database. */
  readonly bytes: number
}

/** A condition on a metadata field: equal to a value, equal to one of several, or a comparison. `source` and `id` are fields, too. */
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

/** Conditions by field, all of which must be met. A list matches if one of its values does. */
export type MetadataFilter = Readonly<Record<string, FilterCondition>>

export interface SearchQuery {
  /** L2-normalised; as many values as the index has dimensions. */
  readonly vector: Float32Array
  /** For lexical search. */
  readonly text: string
  /** Chunks to find by each of the two searches. */
  readonly depth: number
  readonly filter?: MetadataFilter
}

/** The number of a document's closest chunks that determine how close the document is. */
export const CLOSEST_CHUNKS = 3

/** A chunk found by vector search, by lexical search, or by both. */
export interface Candidate extends Chunk {
  readonly documentId: string
  readonly source: string
  readonly metadata: Metadata
  /** The cosine similarity with the query, -1..1, also for chunks found only by their words. */
  readonly similarity: number
  /** The rank among the results of vector search, from 1; null if it is not among them. */
  readonly vectorRank: number | null
  /** The rank among the results of lexical search, from 1; null if it is not among them. */
  readonly textRank: number | null
  /**
   * The BM25 score divided by that of a chunk of mean length with each word of the query once, including words that no chunk has; at least 0. Also
   * known for chunks found only by their vector.
   */
  readonly textShare: number
  /**
   * The same for its document as a whole: BM25 over documents, with the inverse document frequencies among chunks. A question's words are often
   * spread over several chunks of a document.
   */
  readonly documentShare: number
  /**
   * The mean similarity of the query with the CLOSEST_CHUNKS closest chunks of its document: a single chunk is close by chance more often than
   * three chunks of one document.
   */
  readonly documentSimilarity: number
}

/**
 * A named index. Every call may throw RagError store_unavailable. Changes are durable and searchable when `upsert` or `delete` resolves; a document
 * changes as a whole.
 */
export interface VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  info(): Promise<IndexInfo>
  /** Adds documents; replaces those with the same ids. */
  upsert(documents: readonly EmbeddedDocument[]): Promise<void>
  /** @returns how many of them existed */
  delete(ids: readonly string[]): Promise<number>
  get(id: string): Promise<StoredDocument | null>
  /** The summaries of the documents with these ids; without ids, of all documents. */
  summaries(ids?: readonly string[]): Promise<readonly DocumentSummary[]>
  /**
   * Finds up to `depth` chunks by similarity and up to `depth` by their words, without duplicates, in no particular order.
   * @throws the signal's reason once it is aborted
   */
  search(query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]>
}

/** The embedding model of an index. */
export interface IndexSpec {
  readonly model: string
  readonly dimensions: number
}

/** Checks that an index was made for a spec. @param at the field of the request that names the index @throws RagError index_model_mismatch */
export function checkSpec(index: IndexSpec, { model, dimensions }: IndexSpec, at = 'index'): void {
  if (index.model === model && index.dimensions === dimensions) return
  const [made, wanted] = [index, { model, dimensions }].map((spec) => `${spec.model} (${spec.dimensions} dimensions)`)
  throw new RagError(
    'index_model_mismatch',
    `${at}: built with the embedding model ${made}, not with ${wanted}; delete it (DELETE /v1/rag/indexes/NAME) and index the documents ` +
      `again, use another index name, or start the server with the model that made it`,
    at,
  )
}

/** Stores indexes by their stored names (access.ts). */
export interface IndexStore {
  /** The names of all indexes, in order. */
  names(): Promise<readonly string[]>
  /** May be cheaper than `open`. */
  exists(name: string): Promise<boolean>
  /** Opens an index; null if there is none of that name. @throws RagError index_corrupt, store_unavailable */
  open(name: string): Promise<VectorIndex | null>
  /** Opens or creates an index. @throws RagError index_model_mismatch if it exists with another spec */
  openOrCreate(name: string, spec: IndexSpec): Promise<VectorIndex>
  /** @returns whether it existed */
  drop(name: string): Promise<boolean>
  /** Forgets what is cached about an index that turned out to have changed. */
  forget?(name: string): void
  /** Idempotent. */
  close(): Promise<void>
}

export const INDEX_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/** What INDEX_NAME takes, for messages. */
export const INDEX_NAME_WORDS = 'up to 64 letters, digits, dots, dashes and underscores'

/** Whether a name is valid for an index. It becomes the name of a file and a key in a table. */
export const isIndexName = (name: string): boolean => INDEX_NAME.test(name)

/** UTF-16 units of a document's id, which is a key in the store. */
export const MAX_ID_LENGTH = 512

/** Control characters and halves of surrogate pairs, which stores and log lines do not preserve. */
const UNFIT_FOR_ID = /[\p{Cc}\p{Cs}]/u

/** A segment of dots: URLs resolve it, so a document could not be requested by it. */
const DOT_SEGMENT = /(?:^|\/)\.\.?(?:\/|$)/

/** Whether a text is valid as a document's id. */
export const isDocumentId = (id: string): boolean =>
  id.length > 0 && id.length <= MAX_ID_LENGTH && !UNFIT_FOR_ID.test(id) && !DOT_SEGMENT.test(id)

/** NUL and halves of surrogate pairs, which JSON allows but PostgreSQL's jsonb rejects. */
const UNFIT_FOR_METADATA = /[\0\p{Cs}]/u

/** Whether every store can keep a text in metadata, as a value or a name. */
export const isStorableText = (text: string): boolean => !UNFIT_FOR_METADATA.test(text)
