/** Builds retrieval from its options: models, reader, store and the bundled index. */
import { join } from 'node:path'
import { bundledIndex } from './bundled.ts'
import { createDocumentReader } from './document-reader.ts'
import { RagError } from './errors.ts'
import { FUSION_WEIGHTS, type FusionWeights } from './fusion.ts'
import { BUNDLED_INDEX } from './index-catalog.ts'
import { createModelWorkers } from './model-workers.ts'
import { modelThreads, type EngineDevice, resolveEmbedder, resolveModel, type StaticSource } from './models.ts'
import { RagService } from './service.ts'
import { createMemoryStore } from './stores/memory.ts'
import { createPgvectorStore } from './stores/pgvector.ts'
import type { IndexStore } from './vector-index.ts'
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
  /** A folder or a hub id; null: the embedding model's own reranking, if it has any. */
  readonly rerankerModel: string | null
  /** In place of the fusion's weights for the models. */
  readonly weights?: Partial<FusionWeights>
  /** The hub's cache on this machine, its address, and whether it may be called. */
  readonly hub: {
    readonly cacheDir: string
    readonly endpoint: string
    readonly token: string | null
    readonly isOffline: boolean
  }
  /** What models that are not in ONNX run on. */
  readonly device: EngineDevice
  /** The index of `"rag": true`. */
  readonly defaultIndex: string
  /** Files of the bundled index, which answers as `BUNDLED_INDEX` while the user has no document under that name. Empty: none. */
  readonly bundledFiles: readonly string[]
  readonly rerankBudgetMs: number
  /** Told when the models' process or a store's thread ends by itself: the next call starts another. */
  readonly onWorkerDeath?: WorkerDeathListener
  /** Told when an answer keeps the order of the search, because the reranker failed (with the kind of its error) or took too long. */
  readonly onRerankFailure?: (kind: string) => void
}

export const DEFAULT_RERANK_BUDGET_MS = 1000

/** Builds retrieval. Nothing is loaded or opened before it is needed. @throws RagError model_unavailable for a model that was asked for and is not there. */
export function createRag(options: RagOptions): RagService {
  const models = createModelWorkers(options.onWorkerDeath)
  const { cacheDir: hubCacheDir, ...hub } = options.hub
  const downloadDir = join(options.cacheDir, 'transformers')
  const modelOptions = { ...hub, hubCacheDir, downloadDir, device: options.device, threads: modelThreads() }
  // A missing bundled model is an error of the requests that need it; a missing configured model is an error at the start.
  const bundledEmbedder: StaticSource = {
    kind: 'static',
    name: BUNDLED_EMBEDDER,
    folder: join(options.modelsDir, BUNDLED_EMBEDDER),
  }
  const source =
    options.embeddingModel === null
      ? bundledEmbedder
      : resolveEmbedder(options.embeddingModel, '--embedding-model', modelOptions)
  const embedder = models.embedder(source)
  const reranker =
    options.rerankerModel === null
      ? // An encoder has one vector for a passage: which of its words answer, the bundled table says.
        models.interaction(source.kind === 'static' ? source : bundledEmbedder)
      : models.reranker(resolveModel(options.rerankerModel, '--reranker-model', modelOptions))
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
    closeModels: () => models.close(),
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
