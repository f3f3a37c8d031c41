/** Retrieval as the server and the command line use it: indexes by name, searching them, and filling them. */
import type { PromptInput } from '../engine/request.ts'
import { stage } from '../observability/context.ts'
import { untilAborted } from './shared-work.ts'
import type { IndexAccess } from './access.ts'
import type { BundledIndex } from './bundled.ts'
import type { DocumentReader } from './document-reader.ts'
import type { Embedder } from './embedder.ts'
import { indexNotFound, RagError } from './errors.ts'
import { buildFinalPrompt, refuseContinuation, type Generation, type PromptEngine } from './final-prompt.ts'
import { createSentencePicker, type SentencePicker } from './closest-sentences.ts'
import { documentsOf, type NamedContent } from './files.ts'
import type { FusionWeights } from './fusion.ts'
import { createHybridReranker } from './hybrid-reranker.ts'
import { IndexCatalog, type ListedIndex } from './index-catalog.ts'
import { ingest, type IngestOptions, type IngestResult, type Rejection, type SourceDocument } from './ingest.ts'
import type { Reranker, Reranking } from './reranker.ts'
import { parseRetrieval, type RetrievalRequest, type Retrieving } from './retrieval-request.ts'
import { retrieve, type RetrievedDocument, type Retrieval } from './retrieve.ts'
import { isDocumentId, type IndexStore, type StoredDocument, type VectorIndex } from './vector-index.ts'

/** A retrieved document as a response names it. */
interface Citation {
  readonly id: string
  readonly chunk: number
  readonly source: string
  /** What is appended to the source in a link to the passage, such as `#page=3` or `#fees`. */
  readonly anchor: string | null
  readonly score: number
  readonly rank: number
}

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

interface RagParts {
  readonly defaultIndex: string
  readonly embedder: Embedder
  /** null: found passages keep the order of the search. */
  readonly reranker: Reranker | null
  readonly weights: FusionWeights
  readonly reader: DocumentReader
  readonly store: IndexStore
  readonly bundled: BundledIndex | null
  readonly rerankBudgetMs: number
  readonly onRerankFailure?: (kind: string) => void
  readonly closeModels: () => Promise<void>
}

/** Retrieval for one caller: search, prompt augmentation and ingestion over the indexes that the caller may see. */
export class RagService {
  /** Scores texts for those who ask for it: the reranking model, or what search itself goes by where there is none. */
  readonly scorer: Reranker
  readonly #parts: RagParts
  readonly #indexes: IndexCatalog
  readonly #closest: SentencePicker

  constructor(parts: RagParts, indexes = new IndexCatalog(parts)) {
    this.#parts = parts
    this.#indexes = indexes
    const { reranker, embedder, weights } = parts
    this.#closest = createSentencePicker(embedder)
    this.scorer = reranker?.isShown ? reranker : createHybridReranker(embedder, weights)
  }

  /** The same service as one caller sees it: with the indexes that its names mean. Closing it is not its caller's. */
  as(access: IndexAccess): Omit<RagService, 'close'> {
    return new RagService(this.#parts, this.#indexes.as(access))
  }

  get defaultIndex(): string {
    return this.#parts.defaultIndex
  }

  get embedder(): Embedder {
    return this.#parts.embedder
  }

  get reader(): DocumentReader {
    return this.#parts.reader
  }

  /** Reads the default index, so that a server that says it is ready answers its first question at once. Failures are kept as in `warm`. */
  async readDefaultIndex(): Promise<void> {
    const read = async (): Promise<void> => void (await (await this.#indexes.find(this.defaultIndex))?.info())
    await Promise.allSettled([read()])
  }

  /**
   * Loads the models and brings the bundled index up to date, so that the first request need not wait for it. Failures are kept for
   * the requests that need what failed. Resolves when done.
   */
  async warm(): Promise<void> {
    await Promise.allSettled([this.embedder.load(), this.scorer.load(), this.#parts.bundled?.open() ?? null])
  }

  /**
   * The final prompt of a generation request: its documents and its question in the model's own template, as the span rag.retrieve.
   * @param signal ends it: calls that wait for a model or a store are dropped, and no later stage begins.
   * @throws RagError naming the field, or the part that failed; the signal's reason.
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
      // Not before it is found: a name that is none of the caller's indexes is the caller's text.
      const onFound = (): void => span.set({ 'rag.index.name': name })
      const found = await this.#retrieveFrom({ name, at: 'rag.index', onFound }, retrieving, signal)
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

  /** Documents that answer a query. Without the span rag.retrieve, which belongs to generation requests. */
  async query(request: RetrievalRequest, signal?: AbortSignal): Promise<Retrieval & { readonly index: string }> {
    const name = request.index ?? this.defaultIndex
    const retrieving = parseRetrieval(request, '', this.#defaults())
    return { index: name, ...(await this.#retrieveFrom({ name, at: 'index' }, retrieving, signal)) }
  }

  /** The index meant by a name, or by none. @throws RagError invalid_request for what cannot be one. */
  indexName(name: string | null): string {
    return this.#indexes.checkedName(name)
  }

  /** Puts documents into an index, which their first one makes. They can be found when this resolves. */
  async ingestDocuments(
    indexName: string,
    documents: readonly SourceDocument[],
    options: Pick<IngestOptions, 'signal' | 'onAccepted'> = {},
  ): Promise<IngestResult> {
    if (documents.length === 0) return { accepted: 0, unchanged: 0, rejected: [], chunks: 0 }
    const index = await this.openForWriting(indexName)
    return ingest(documents, { index, embedder: this.embedder, reader: this.reader, ...options })
  }

  /** Puts the documents of a file into an index; its name says of what kind it is. */
  async ingestFile(
    indexName: string,
    file: Pick<NamedContent, 'name' | 'content'>,
    options: Pick<IngestOptions, 'signal' | 'onAccepted'> = {},
  ): Promise<IngestResult> {
    const unread: Rejection[] = []
    const documents: SourceDocument[] = []
    const named = { ...file, id: file.name, origin: '' }
    for await (const document of documentsOf(named, this.reader, (rejection) => unread.push(rejection))) {
      documents.push(document)
    }
    const result = await this.ingestDocuments(indexName, documents, options)
    return { ...result, rejected: [...unread, ...result.rejected] }
  }

  /** @throws RagError invalid_request, index_model_mismatch */
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

  /** @throws RagError index_not_found, document_not_found, invalid_request for an index that the caller may not change */
  async deleteDocument(indexName: string | null, id: string): Promise<void> {
    const index = await this.#indexes.openForChange(indexName ?? this.defaultIndex)
    if (!isDocumentId(id) || (await index.delete([id])) === 0) throw documentNotFound()
  }

  /** Drops an index with its documents. @throws RagError index_not_found, invalid_request if the caller may not change it */
  deleteIndex(name: string): Promise<void> {
    return this.#indexes.drop(name)
  }

  listIndexes(): Promise<readonly ListedIndex[]> {
    return this.#indexes.list()
  }

  /** Scores of documents against a query, as the span rerank. */
  rerank(query: string, documents: readonly string[], topN: number, signal?: AbortSignal): Promise<Reranking> {
    const attributes = {
      'rag.rerank.model': this.scorer.name,
      'rag.rerank.candidates': documents.length,
      'rag.rerank.top_n': topN,
    }
    const passages = documents.map((text) => ({ headings: [], text }))
    return stage('rerank', attributes, () => this.scorer.rerank(query, passages, signal && { signal }))
  }

  /** Idempotent. */
  async close(): Promise<void> {
    const { closeModels, reader, store, bundled } = this.#parts
    await closeModels()
    await Promise.all([reader.close(), store.close(), bundled?.close()])
  }

  /** What a request gets that names no numbers. */
  #defaults(topN?: number): { readonly topK?: number; readonly topN?: number } {
    const { reranker } = this.#parts
    return { ...(reranker && { topK: reranker.numCandidates }), ...(topN !== undefined && { topN }) }
  }

  /**
   * Retrieves from the index of a name. On a warm path that is three calls between threads: embed, search, rerank; whether the index is
   * empty is asked only when nothing was found.
   * @param at the request's field that names the index.
   */
  async #retrieveFrom(
    { name, at, onFound = () => {} }: { readonly name: string; readonly at: string; readonly onFound?: () => void },
    retrieving: Retrieving,
    signal?: AbortSignal,
  ): Promise<Retrieval> {
    const own = await untilAborted(this.#indexes.find(name), signal)
    if (own) {
      await this.#checkModel(own, at, signal)
      onFound()
      const found = await this.#retrieve(own, retrieving, signal)
      if (found.numCandidates > 0 || (await untilAborted(own.info(), signal)).numChunks > 0) return found
    }
    const bundled = this.#indexes.bundledOf(name)
    if (!bundled) {
      if (!own) throw indexNotFound(at)
      throw new RagError('index_empty', `${at}: the index has no documents; POST some to /v1/rag/documents`, at)
    }
    const index = await untilAborted(bundled.open(), signal)
    await this.#checkModel(index, at, signal)
    onFound()
    return this.#retrieve(index, retrieving, signal)
  }

  async #retrieve(index: VectorIndex, retrieving: Retrieving, signal?: AbortSignal): Promise<Retrieval> {
    try {
      return await retrieve({ ...this.#parts, index }, retrieving, signal)
    } catch (error) {
      // Dropped or made anew by another process since it was opened: the next request opens the current one.
      if (error instanceof RagError && error.code.startsWith('index_')) this.#indexes.forget(index)
      throw error
    }
  }

  /** Requests share the loading of a model: an aborted request stops waiting, and loading goes on. */
  async #checkModel(index: VectorIndex, at: string, signal?: AbortSignal): Promise<void> {
    const { fingerprint, dimensions } = await untilAborted(this.embedder.load(), signal)
    if (index.model === fingerprint && index.dimensions === dimensions) return
    throw new RagError(
      'index_model_mismatch',
      `${at}: the index was built with the embedding model ${index.model}, this server has ${fingerprint}; delete the index and index the documents again, or start the server with the model that made it`,
      at,
    )
  }
}

const toCitation = ({ id, chunk, source, anchor, score, rank }: RetrievedDocument): Citation => ({
  id,
  chunk,
  source,
  anchor,
  score,
  rank,
})

const documentNotFound = (): RagError =>
  new RagError('document_not_found', 'id: no document of that id in the index', 'id')

/** The query and what was found for it, in the form of OpenTelemetry's conventions. */
export const retrievedContent = (query: string, documents: readonly RetrievedDocument[]) => ({
  'gen_ai.retrieval.query.text': query,
  'gen_ai.retrieval.documents': JSON.stringify(documents.map(({ id, score, text }) => ({ id, score, content: text }))),
})
