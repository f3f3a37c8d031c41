/** Retrieval for the server and the command line: finds indexes by name, searches them and fills them. */
import type { PromptInput } from '../engine/request.ts'
import { stage } from '../observability/context.ts'
import { untilAborted } from '../promises.ts'
import type { IndexAccess } from './access.ts'
import type { BundledIndex } from './bundled.ts'
import type { DocumentReader } from './document-reader.ts'
import type { Embedder } from './embedder.ts'
import { indexNotFound, RagError } from './errors.ts'
import { buildFinalPrompt, refuseContinuation, type Generation, type PromptEngine } from './final-prompt.ts'
import { createSentencePicker, type SentencePicker } from './closest-sentences.ts'
import { documentsOf, type NamedContent } from './files.ts'
import { createHybridReranker } from './hybrid-reranker.ts'
import { IndexCatalog, type ListedIndex } from './index-catalog.ts'
import {
  ingest,
  type FileIngestResult,
  type IngestOptions,
  type IngestResult,
  type Remark,
  type SourceDocument,
} from './ingest.ts'
import type { Reranker, Reranking } from './reranker.ts'
import { parseRetrieval, type RetrievalRequest, type Retrieving } from './retrieval-request.ts'
import { retrieve, type RetrievedDocument, type RetrieveParts, type Retrieval } from './retrieve.ts'
import { checkSpec, isDocumentId, type IndexStore, type StoredDocument, type VectorIndex } from './vector-index.ts'

/** A retrieved document as a response names it. */
type Citation = Pick<RetrievedDocument, 'id' | 'chunk' | 'source' | 'anchor' | 'score' | 'rank'>

/** The documents that a prompt was given. */
export interface Citations {
  readonly index: string
  /** False if the reranker failed or took too long: the documents are then in the order of the search. */
  readonly reranked: boolean
  readonly documents: readonly Citation[]
}

interface AugmentedPrompts {
  readonly prompts: readonly PromptInput[]
  readonly citations: Citations
}

interface RagParts extends Omit<RetrieveParts, 'index'> {
  readonly defaultIndex: string
  readonly reader: DocumentReader
  readonly store: IndexStore
  readonly bundled: BundledIndex | null
  readonly closeModels: () => Promise<void>
}

/**
 * Search, prompt augmentation and ingestion. The first instance sees all indexes; `as` gives one for a caller, with the indexes that the caller may
 * see.
 */
export class RagService {
  /** Scores texts for POST /v1/rerank: the reranking model, or the scores of the search if there is none. */
  readonly scorer: Reranker
  readonly defaultIndex: string
  readonly embedder: Embedder
  readonly reader: DocumentReader
  readonly #parts: RagParts
  readonly #indexes: IndexCatalog
  readonly #closest: SentencePicker

  /** `as` gives the arguments after `parts`, so that they are made once and not for each request. */
  constructor(
    parts: RagParts,
    indexes = new IndexCatalog(parts),
    scorer = scorerOf(parts),
    closest = createSentencePicker(parts.embedder),
  ) {
    this.#parts = parts
    this.#indexes = indexes
    this.defaultIndex = parts.defaultIndex
    this.embedder = parts.embedder
    this.reader = parts.reader
    this.#closest = closest
    this.scorer = scorer
  }

  /** The service for one caller, with the indexes that the caller may see. It cannot be closed. */
  as(access: IndexAccess): Omit<RagService, 'close'> {
    return new RagService(this.#parts, this.#indexes.as(access), this.scorer, this.#closest)
  }

  /** Reads the default index, so that a server that is ready answers its first question at once. Failures show as in `warm`. */
  async readDefaultIndex(): Promise<void> {
    const read = async (): Promise<void> => void (await (await this.#indexes.find(this.defaultIndex))?.info())
    await Promise.allSettled([read()])
  }

  /**
   * Loads the models and updates the bundled index, so that the first request does not wait for them. A failure shows in the requests that need the
   * part that failed.
   */
  async warm(): Promise<void> {
    await Promise.allSettled([this.embedder.load(), this.scorer.load(), this.#parts.bundled?.open() ?? null])
  }

  /**
   * Retrieves documents and builds the final prompt of a generation request, as the span rag.retrieve.
   * @param signal drops calls that wait for a model or a store, and starts no further step
   * @throws RagError naming the field or the part that failed; the signal's reason
   */
  augment(
    request: RetrievalRequest,
    generation: Generation,
    engine: PromptEngine,
    signal?: AbortSignal,
  ): Promise<AugmentedPrompts> {
    const name = request.index ?? this.defaultIndex
    return stage('rag.retrieve', async (span) => {
      const retrieving = parseRetrieval(request, 'rag.', this.#defaults(engine.promptTemplate?.documents))
      refuseContinuation(generation.prompts)
      span.set({ 'gen_ai.retrieval.top_k': retrieving.topK })
      // Only once the index is found: another name is the caller's text, which must not reach the span.
      const onFound = (): void => span.set({ 'rag.index.name': name })
      const found = await this.#retrieveFrom({ name, field: 'rag.index', onFound }, retrieving, signal)
      const closest: SentencePicker = (question, passages, count) => this.#closest(question, passages, count, signal)
      const { prompt, used } = await buildFinalPrompt(request.query, generation, engine, found.documents, closest)
      span.set({
        'rag.docs.retrieved': found.numCandidates,
        'rag.docs.reranked': found.hasRerankFailed ? 0 : used.length,
      })
      if (span.capturesContent) span.set(retrievedContent(request.query, used))
      return {
        prompts: [prompt],
        citations: { index: name, reranked: found.isReranked, documents: used.map(toCitation) },
      }
    })
  }

  /** Retrieves passages for a query, without the span rag.retrieve, which belongs to generation requests. */
  async query(request: RetrievalRequest, signal?: AbortSignal): Promise<Retrieval & { readonly index: string }> {
    const name = request.index ?? this.defaultIndex
    const retrieving = parseRetrieval(request, '', this.#defaults())
    return { index: name, ...(await this.#retrieveFrom({ name, field: 'index' }, retrieving, signal)) }
  }

  /** The name of an index; without a name, that of the default index. @throws RagError invalid_request for an invalid name */
  indexName(name: string | null): string {
    return this.#indexes.checkedName(name)
  }

  /** Puts documents into an index, which is made if necessary. They can be found when this resolves. */
  async ingestDocuments(
    indexName: string,
    documents: readonly SourceDocument[],
    options: Pick<IngestOptions, 'signal' | 'onAccepted'> = {},
  ): Promise<IngestResult> {
    if (documents.length === 0) return { accepted: 0, unchanged: 0, rejected: [], chunks: 0 }
    const index = await this.openForWriting(indexName)
    return ingest(documents, { index, embedder: this.embedder, reader: this.reader, ...options })
  }

  /** Puts the documents of a file into an index. The name determines the kind of file. */
  async ingestFile(
    indexName: string,
    file: Pick<NamedContent, 'name' | 'content'>,
    options: Pick<IngestOptions, 'signal' | 'onAccepted'> = {},
  ): Promise<FileIngestResult> {
    const unread: Remark[] = []
    const warnings: Remark[] = []
    const documents: SourceDocument[] = []
    const named = { ...file, id: file.name, origin: '' }
    const report = { reject: (remark: Remark) => unread.push(remark), warn: (remark: Remark) => warnings.push(remark) }
    for await (const document of documentsOf(named, this.reader, report)) {
      documents.push(document)
    }
    const result = await this.ingestDocuments(indexName, documents, options)
    // A warning means that the file is indexed all the same.
    return { ...result, rejected: [...unread, ...result.rejected], warnings: result.accepted > 0 ? warnings : [] }
  }

  /** Opens or makes an index for documents. @throws RagError invalid_request, index_model_mismatch */
  async openForWriting(name: string): Promise<VectorIndex> {
    const checked = this.indexName(name)
    const { fingerprint, dimensions } = await this.embedder.load()
    return this.#indexes.openForWriting(checked, { model: fingerprint, dimensions })
  }

  /** @throws RagError index_not_found, document_not_found */
  async getDocument(indexName: string | null, id: string): Promise<StoredDocument> {
    const index = await this.#indexes.open(indexName ?? this.defaultIndex)
    const document = isDocumentId(id) ? await index.get(id) : null
    if (!document) throw documentNotFound()
    return document
  }

  /** @throws RagError index_not_found, document_not_found; invalid_request for an index that the caller may not change */
  async deleteDocument(indexName: string | null, id: string): Promise<void> {
    const index = await this.#indexes.openForChange(indexName ?? this.defaultIndex)
    if (!isDocumentId(id) || (await index.delete([id])) === 0) throw documentNotFound()
  }

  /** Drops an index with its documents. @throws RagError index_not_found; invalid_request if the caller may not change it */
  deleteIndex(name: string): Promise<void> {
    return this.#indexes.drop(name)
  }

  listIndexes(): Promise<readonly ListedIndex[]> {
    return this.#indexes.list()
  }

  /** Scores documents against a query, as the span rerank. */
  rerank(query: string, documents: readonly string[], topN: number, signal?: AbortSignal): Promise<Reranking> {
    const attributes = {
      'rag.rerank.model': this.scorer.name,
      'rag.rerank.candidates': documents.length,
      'rag.rerank.top_n': topN,
    }
    const passages = documents.map((text) => ({ headings: [], text }))
    return stage('rerank', attributes, () => this.scorer.rerank(query, passages, { signal }))
  }

  /** Idempotent. */
  async close(): Promise<void> {
    const { closeModels, reader, store, bundled } = this.#parts
    await closeModels()
    await Promise.all([reader.close(), store.close(), bundled?.close()])
  }

  /** The defaults of a request that sets no numbers. */
  #defaults(topN?: number): { readonly topK?: number; readonly topN?: number } {
    const { reranker } = this.#parts
    return { ...(reranker && { topK: reranker.numCandidates }), ...(topN !== undefined && { topN }) }
  }

  /**
   * Retrieves from the index of a name. Once all is loaded, this takes three calls between threads: embed, search and rerank. Only if nothing is found,
   * it checks whether the index is empty.
   * @param field the field of the request that names the index
   */
  async #retrieveFrom(
    {
      name,
      field,
      onFound = () => {},
    }: { readonly name: string; readonly field: string; readonly onFound?: () => void },
    retrieving: Retrieving,
    signal?: AbortSignal,
  ): Promise<Retrieval> {
    const callersIndex = await untilAborted(this.#indexes.find(name), signal)
    if (callersIndex) {
      await this.#checkModel(callersIndex, field, signal)
      onFound()
      const found = await this.#retrieve(callersIndex, retrieving, signal)
      if (found.numCandidates > 0 || (await untilAborted(callersIndex.info(), signal)).numChunks > 0) return found
    }
    const bundled = this.#indexes.bundledOf(name)
    if (!bundled) {
      if (!callersIndex) throw indexNotFound(field)
      throw new RagError('index_empty', `${field}: the index has no documents; POST some to /v1/rag/documents`, field)
    }
    const index = await untilAborted(bundled.open(), signal)
    await this.#checkModel(index, field, signal)
    onFound()
    return this.#retrieve(index, retrieving, signal)
  }

  async #retrieve(index: VectorIndex, retrieving: Retrieving, signal?: AbortSignal): Promise<Retrieval> {
    try {
      return await retrieve({ ...this.#parts, index }, retrieving, signal)
    } catch (error) {
      // Another process has dropped or replaced the index since it was opened: the next request opens the current one.
      if (error instanceof RagError && error.code.startsWith('index_')) this.#indexes.forget(index)
      throw error
    }
  }

  /** Loads the model if necessary. An aborted request stops waiting, while loading continues for the others. */
  async #checkModel(index: VectorIndex, field: string, signal?: AbortSignal): Promise<void> {
    const { fingerprint, dimensions } = await untilAborted(this.embedder.load(), signal)
    checkSpec(index, { model: fingerprint, dimensions }, field)
  }
}

const scorerOf = ({ reranker, embedder, weights }: RagParts): Reranker =>
  reranker?.isShown ? reranker : createHybridReranker(embedder, weights)

function toCitation({ id, chunk, source, anchor, score, rank }: RetrievedDocument): Citation {
  return { id, chunk, source, anchor, score, rank }
}

const documentNotFound = (): RagError =>
  new RagError('document_not_found', 'id: no document of that id in the index', 'id')

/** The query and its passages as attributes of OpenTelemetry's conventions. */
export const retrievedContent = (query: string, documents: readonly RetrievedDocument[]) => ({
  'gen_ai.retrieval.query.text': query,
  'gen_ai.retrieval.documents': JSON.stringify(documents.map(({ id, score, text }) => ({ id, score, content: text }))),
})
