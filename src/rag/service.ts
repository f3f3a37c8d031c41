/** Retrieval as the server and the command line use it: named indexes, models and the bundled index behind one object. */
import { join } from 'node:path'
import type { PromptInput } from '../engine/request.ts'
import { stage } from '../observability/context.ts'
import { bundledIndex, type BundledIndex } from './bundled.ts'
import { untilAborted } from './abort.ts'
import { createDocumentReader, type DocumentReader } from './document-reader.ts'
import { createEmbedder, type Embedder, type Embeddings } from './embedder.ts'
import { RagError } from './errors.ts'
import { buildFinalPrompt, refuseContinuation, type Generation, type PromptEngine } from './final-prompt.ts'
import { documentsOf, type NamedContent } from './files.ts'
import { FUSION_WEIGHTS, type FusionWeights } from './fusion.ts'
import { createHybridReranker } from './hybrid-reranker.ts'
import { ingest, type IngestOptions, type IngestResult, type Rejection, type SourceDocument } from './ingest.ts'
import { createModelProcess, createStaticThread, resolveEmbedder, resolveModel, type StaticSource } from './models.ts'
import type { PromptTemplate } from './prompt.ts'
import { createReranker, type Reranker, type Reranking } from './reranker.ts'
import {
  parseRetrieveParams,
  retrieve,
  type RawRetrieveParams,
  type RetrievedDocument,
  type Retrieval,
  type RetrieveParams,
} from './retrieve.ts'
import { createMemoryStore } from './stores/memory.ts'
import { createPgvectorStore } from './stores/pgvector.ts'
import {
  isDocumentId,
  isIndexName,
  type IndexInfo,
  type IndexStore,
  type StoredDocument,
  type VectorIndex,
} from './vector-index.ts'
import type { WorkerDeathListener } from './worker-rpc.ts'

export interface RagOptions {
  readonly store: 'memory' | 'pgvector'
  /** postgres://… for pgvector. */
  readonly storeUrl: string | null
  /** Folder of the memory store's indexes. */
  readonly dataDir: string
  /** Folder of what can be made again: the bundled index. */
  readonly cacheDir: string
  /** Folder of the bundled models. */
  readonly modelsDir: string
  /** A folder or a hub id; null: the bundled model. */
  readonly embeddingModel: string | null
  /** A folder or a hub id; null: found passages keep the order of the search. */
  readonly rerankerModel: string | null
  /** In place of the fusion's weights for the models. */
  readonly weights?: Partial<FusionWeights>
  /** The hub's cache on this machine, its address, and whether it may be called. */
  readonly hub: { readonly cacheDir: string; readonly endpoint: string; readonly isOffline: boolean }
  /** The index of `"rag": true`. */
  readonly defaultIndex: string
  /** Files of the bundled index, which answers as `BUNDLED_INDEX` while the user has no document under that name. Empty: none. */
  readonly bundledFiles: readonly string[]
  readonly rerankBudgetMs: number
  /** Told when the models' process or a store's thread ends by itself: the next call starts another. */
  readonly onWorkerDeath?: WorkerDeathListener
  /** Told when an answer keeps the order of the search, because the reranker failed (with the kind of its error) or took too long. */
  readonly onRerankFailure?: (kind: string) => void
  /** prompt.json of the served model, asked for with each request (the model may be loading still); null for one without. */
  readonly promptTemplate: () => PromptTemplate | null
}

/** Name of the bundled index. */
export const BUNDLED_INDEX = 'docs'
export const DEFAULT_RERANK_BUDGET_MS = 1000

/** What to retrieve for a generation request. */
export interface RagRequest extends RawRetrieveParams {
  readonly query: string
  readonly index: string | null
}

export interface Citation {
  readonly id: string
  readonly chunk: number
  readonly source: string
  readonly score: number
  readonly rank: number
}

export interface AugmentedPrompts {
  readonly prompts: readonly PromptInput[]
  readonly citations: {
    readonly index: string
    /** False when the reranker failed or took too long: the documents are in the order of the search. */
    readonly reranked: boolean
    readonly documents: readonly Citation[]
  }
}

export class RagService {
  readonly defaultIndex: string
  readonly embedder: Embedder
  /** Scores texts for those who ask for it: the reranking model, or what search itself goes by where there is none. */
  readonly scorer: Reranker
  readonly #reranker: Reranker | null
  readonly #weights: FusionWeights
  readonly reader: DocumentReader
  readonly #store: IndexStore
  readonly #bundled: BundledIndex | null
  readonly #rerankBudgetMs: number
  readonly #onRerankFailure: ((kind: string) => void) | undefined
  readonly #template: () => PromptTemplate | null
  readonly #closeModels: () => Promise<void>

  constructor(parts: {
    readonly defaultIndex: string
    readonly embedder: Embedder
    readonly reranker: Reranker | null
    readonly weights: FusionWeights
    readonly reader: DocumentReader
    readonly store: IndexStore
    readonly bundled: BundledIndex | null
    readonly rerankBudgetMs: number
    readonly onRerankFailure?: (kind: string) => void
    readonly promptTemplate: () => PromptTemplate | null
    readonly closeModels: () => Promise<void>
  }) {
    this.defaultIndex = parts.defaultIndex
    this.embedder = parts.embedder
    this.scorer = parts.reranker ?? createHybridReranker(parts.embedder, parts.weights)
    this.#reranker = parts.reranker
    this.#weights = parts.weights
    this.reader = parts.reader
    this.#store = parts.store
    this.#bundled = parts.bundled
    this.#rerankBudgetMs = parts.rerankBudgetMs
    this.#onRerankFailure = parts.onRerankFailure
    this.#template = parts.promptTemplate
    this.#closeModels = parts.closeModels
  }

  /** Reads the default index, so that a server that says it is ready answers its first question at once. Failures are kept as in `warm`. */
  async readDefaultIndex(): Promise<void> {
    const read = async (): Promise<void> => void (await (await this.#store.open(this.defaultIndex))?.isEmpty())
    await Promise.allSettled([read()])
  }

  /**
   * Loads the models and brings the bundled index up to date, so that the first request need not wait for it. Failures are kept for
   * the requests that need what failed. Resolves when done.
   */
  async warm(): Promise<void> {
    await Promise.allSettled([this.embedder.load(), this.scorer.load(), this.#bundled?.open() ?? null])
  }

  /**
   * The final prompt of a generation request: its documents and its question in the model's own template, as the span rag.retrieve.
   * @param signal ends it: calls that wait for a model or a store are dropped, and no later stage begins.
   * @throws RagError naming the field, or the part that failed; the signal's reason.
   */
  augment(
    request: RagRequest,
    generation: Generation,
    engine: PromptEngine,
    signal?: AbortSignal,
  ): Promise<AugmentedPrompts> {
    const name = request.index ?? this.defaultIndex
    return stage('rag.retrieve', async (span) => {
      const params = parseRetrieveParams(
        { ...request, topN: request.topN ?? this.#template()?.documents ?? null },
        'rag.',
      )
      refuseContinuation(generation.prompts)
      span.set({ 'gen_ai.retrieval.top_k': params.topK })
      // Not before it is found: a name that is none of ours is the caller's text.
      const onFound = (): void => span.set({ 'rag.index.name': name })
      const found = await this.#retrieveFrom(name, { query: request.query, params, at: 'rag.index', onFound }, signal)
      const { prompt, used } = await buildFinalPrompt(
        request.query,
        generation,
        engine,
        found.documents,
        this.#template(),
      )
      span.set({ 'rag.docs.retrieved': found.numCandidates, 'rag.docs.reranked': found.isReranked ? used.length : 0 })
      if (span.capturesContent) span.set(captured(request.query, used))
      return {
        prompts: [prompt],
        citations: { index: name, reranked: found.isReranked, documents: used.map(toCitation) },
      }
    })
  }

  /** Documents that answer a query. Without the span rag.retrieve, which belongs to generation requests. */
  async query(
    query: string,
    indexName: string | null,
    params: RawRetrieveParams,
    signal?: AbortSignal,
  ): Promise<Retrieval & { readonly index: string }> {
    const name = indexName ?? this.defaultIndex
    const parsed = parseRetrieveParams(params, '')
    return { index: name, ...(await this.#retrieveFrom(name, { query, params: parsed, at: 'index' }, signal)) }
  }

  /** The index meant by a name, or by none. @throws RagError invalid_request for what cannot be one. */
  indexName(name: string | null): string {
    const wanted = name ?? this.defaultIndex
    if (isIndexName(wanted)) return wanted
    throw new RagError(
      'invalid_request',
      'index: expected up to 64 letters, digits, dots, dashes and underscores',
      'index',
    )
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
    file: Pick<NamedContent, 'name' | 'content' | 'charset'>,
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
    return this.#store.openOrCreate(checked, { model: fingerprint, dimensions })
  }

  /** @throws RagError index_not_found, document_not_found */
  async getDocument(indexName: string | null, id: string): Promise<StoredDocument> {
    const index = await this.#open(indexName ?? this.defaultIndex, 'index')
    const document = isDocumentId(id) ? await index.get(id) : null
    if (!document) throw documentNotFound()
    return document
  }

  /** @throws RagError index_not_found, document_not_found, invalid_request for the bundled index */
  async deleteDocument(indexName: string | null, id: string): Promise<void> {
    const name = indexName ?? this.defaultIndex
    const index = await this.#own(name)
    if (!index && this.#bundled && name === BUNDLED_INDEX) throw bundledIsFixed()
    if (!index) throw indexNotFound('index')
    if (!isDocumentId(id) || (await index.delete([id])) === 0) throw documentNotFound()
  }

  /** Drops an index with its documents; under the bundled one's name, the bundled one answers again. @throws RagError index_not_found, invalid_request for the bundled index */
  async deleteIndex(name: string): Promise<void> {
    if (await this.#store.drop(name)) return
    throw this.#bundled && name === BUNDLED_INDEX ? bundledIsFixed() : indexNotFound('index')
  }

  async listIndexes(): Promise<readonly (IndexInfo & { readonly isBundled: boolean })[]> {
    const own = (await this.#store.list())
      .filter((info) => !this.#isHidden(info))
      .map((info) => ({ ...info, isBundled: false }))
    if (!this.#bundled || own.some(({ name }) => name === BUNDLED_INDEX)) return own
    return [...own, { ...(await (await this.#bundled.open()).info()), isBundled: true }]
  }

  /** Vectors of texts, as the span embed.query. @throws RagError invalid_request naming a text that is too long for the model. */
  embed(texts: readonly string[], signal?: AbortSignal): Promise<Embeddings> {
    return stage('embed.query', { 'rag.embed.model': this.embedder.name }, async (span) => {
      const { maxTokens, dimensions } = await untilAborted(this.embedder.load(), signal)
      span.set({ 'rag.embed.dimensions': dimensions })
      refuseLong(texts, maxTokens)
      const counts = await this.embedder.countTokens(texts, signal && { signal })
      const tooLong = counts.findIndex((count) => count + 2 > maxTokens)
      if (tooLong >= 0) {
        const param = texts.length > 1 ? `input.${tooLong}` : 'input'
        throw new RagError(
          'context_length_exceeded',
          `${param}: expected at most ${maxTokens - 2} tokens, found ${counts[tooLong] ?? 0}`,
          param,
        )
      }
      return this.embedder.embed(texts, { role: 'query', isBulk: texts.length > 1, ...(signal && { signal }) })
    })
  }

  /** Scores of documents against a query, as the span rerank. */
  rerank(query: string, documents: readonly string[], topN: number, signal?: AbortSignal): Promise<Reranking> {
    const attributes = {
      'rag.rerank.model': this.scorer.name,
      'rag.rerank.candidates': documents.length,
      'rag.rerank.top_n': topN,
    }
    return stage('rerank', attributes, () => this.scorer.rerank(query, documents, signal && { signal }))
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await this.#closeModels()
    await Promise.all([this.reader.close(), this.#store.close(), this.#bundled?.close()])
  }

  async #open(name: string, param: string): Promise<VectorIndex> {
    const index = await this.#own(name)
    if (index) return index
    if (this.#bundled && name === BUNDLED_INDEX) return this.#bundled.open()
    throw indexNotFound(param)
  }

  /** The user's own index of a name, unless the bundled one answers in its place. */
  async #own(name: string): Promise<VectorIndex | null> {
    const index = await this.#store.open(name)
    if (!index || !this.#bundled || name !== BUNDLED_INDEX) return index
    return (await index.isEmpty()) ? null : index
  }

  /** Whether an own index is one without documents under the bundled one's name: it must not take that one's place. */
  #isHidden({ name, numDocuments }: IndexInfo): boolean {
    return this.#bundled !== null && name === BUNDLED_INDEX && numDocuments === 0
  }

  /**
   * Retrieves from the index of a name. On a warm path that is three calls between threads: embed, search, rerank; whether the index is
   * empty is asked only when nothing was found.
   */
  async #retrieveFrom(
    name: string,
    {
      query,
      params,
      at,
      onFound = () => {},
    }: { readonly query: string; readonly params: RetrieveParams; readonly at: string; readonly onFound?: () => void },
    signal?: AbortSignal,
  ): Promise<Retrieval> {
    const own = await untilAborted(this.#store.open(name), signal)
    if (own) {
      await this.#checkModel(own, at, signal)
      onFound()
      const found = await this.#retrieve(own, query, params, signal)
      if (found.numCandidates > 0 || !(await untilAborted(own.isEmpty(), signal))) return found
    }
    if (!this.#bundled || name !== BUNDLED_INDEX) {
      if (!own) throw indexNotFound(at)
      throw new RagError('index_empty', `${at}: the index has no documents; POST some to /v1/rag/documents`, at)
    }
    const bundled = await untilAborted(this.#bundled.open(), signal)
    await this.#checkModel(bundled, at, signal)
    onFound()
    return this.#retrieve(bundled, query, params, signal)
  }

  async #retrieve(index: VectorIndex, query: string, params: RetrieveParams, signal?: AbortSignal): Promise<Retrieval> {
    try {
      return await retrieve(this.#retrieveParts(index), query, params, signal)
    } catch (error) {
      // Dropped or made anew by another process since it was opened: the next request sees what is there.
      if (error instanceof RagError && error.code.startsWith('index_')) this.#store.forget?.(index.name)
      throw error
    }
  }

  /** Loading a model is work that requests share: one that goes away stops waiting, and the work goes on. */
  async #checkModel(index: VectorIndex, at: string, signal?: AbortSignal): Promise<void> {
    const { fingerprint, dimensions } = await untilAborted(this.embedder.load(), signal)
    if (index.model === fingerprint && index.dimensions === dimensions) return
    throw new RagError(
      'index_model_mismatch',
      `${at}: the index was built with the embedding model ${index.model}, this server has ${fingerprint}; index the documents again`,
      at,
    )
  }

  #retrieveParts(index: VectorIndex) {
    return {
      index,
      embedder: this.embedder,
      reranker: this.#reranker,
      weights: this.#weights,
      rerankBudgetMs: this.#rerankBudgetMs,
      ...(this.#onRerankFailure && { onRerankFailure: this.#onRerankFailure }),
    }
  }
}

/** UTF-16 units of a text for each token of the model, at most: longer texts are not even tokenized, for that would take others' time. */
const MAX_CHARS_PER_TOKEN = 32

function refuseLong(texts: readonly string[], maxTokens: number): void {
  const at = texts.findIndex(({ length }) => length > maxTokens * MAX_CHARS_PER_TOKEN)
  if (at < 0) return
  const param = texts.length > 1 ? `input.${at}` : 'input'
  throw new RagError(
    'context_length_exceeded',
    `${param}: expected at most ${maxTokens - 2} tokens, found a text of ${texts[at]?.length ?? 0} characters`,
    param,
  )
}

const toCitation = ({ id, chunk, source, score, rank }: RetrievedDocument): Citation => ({
  id,
  chunk,
  source,
  score,
  rank,
})

const indexNotFound = (param: string): RagError =>
  new RagError('index_not_found', `${param}: no index of that name; GET /v1/rag/indexes lists them`, param)

const bundledIsFixed = (): RagError =>
  new RagError(
    'invalid_request',
    'index: the bundled index cannot be changed; POST documents to make your own of that name',
    'index',
  )

const documentNotFound = (): RagError =>
  new RagError('document_not_found', 'id: no document of that id in the index', 'id')

/** Builds retrieval. Nothing is loaded or opened before it is needed. @throws RagError model_unavailable for a model that was asked for and is not there. */
export function createRag(options: RagOptions): RagService {
  const models = createModelProcess(options.onWorkerDeath)
  const thread = createStaticThread(options.onWorkerDeath)
  const { cacheDir: hubCacheDir, endpoint, isOffline } = options.hub
  const hub = { hubCacheDir, downloadDir: join(options.cacheDir, 'transformers'), endpoint, isOffline }
  // A bundled model that is missing is an error of the requests that need it; one that was asked for, of the start.
  const bundledEmbedder: StaticSource = {
    kind: 'static',
    name: BUNDLED_EMBEDDER,
    folder: join(options.modelsDir, BUNDLED_EMBEDDER),
  }
  const source =
    options.embeddingModel === null
      ? bundledEmbedder
      : resolveEmbedder(options.embeddingModel, '--embedding-model', hub)
  const embedder = source.kind === 'static' ? createEmbedder(source, thread) : createEmbedder(source, models)
  const reranker =
    options.rerankerModel === null
      ? null
      : createReranker(resolveModel(options.rerankerModel, '--reranker-model', hub), models)
  const reader = createDocumentReader(options.onWorkerDeath)
  return new RagService({
    ...options,
    embedder,
    reranker,
    reader,
    weights: { ...FUSION_WEIGHTS[source.kind === 'static' ? 'static' : 'encoder'], ...options.weights },
    store: createStore(options),
    bundled:
      options.bundledFiles.length > 0
        ? bundledIndex({
            name: BUNDLED_INDEX,
            files: options.bundledFiles,
            folder: join(options.cacheDir, 'rag'),
            embedder,
            reader,
            ...(options.onWorkerDeath && { onWorkerDeath: options.onWorkerDeath }),
          })
        : null,
    closeModels: async () => {
      await Promise.all([models.close(), thread.close()])
    },
  })
}

/** Folder of the bundled embedding model below `modelsDir`. */
export const BUNDLED_EMBEDDER = 'mini-embedder'

function createStore({ store, storeUrl, dataDir, onWorkerDeath }: RagOptions): IndexStore {
  switch (store) {
    case 'memory':
      return createMemoryStore(join(dataDir, 'rag'), onWorkerDeath)
    case 'pgvector':
      if (storeUrl === null)
        throw new RagError('invalid_request', '--rag-store pgvector: expected --rag-store-url postgres://…')
      return createPgvectorStore(storeUrl)
    default:
      throw new Error(`unknown store ${String(store)}`)
  }
}

/** The query and what was found for it, in the form of OpenTelemetry's conventions. */
const captured = (query: string, documents: readonly RetrievedDocument[]) => ({
  'gen_ai.retrieval.query.text': query,
  'gen_ai.retrieval.documents': JSON.stringify(documents.map(({ id, score, text }) => ({ id, score, content: text }))),
})
