/** Builds retrieval from its options: models, reader, store and the bundled index. */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import type { HubOptions } from '../engine/weights/hub.ts'
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
import { INDEX_NAME_WORDS, type IndexStore, isIndexName } from './vector-index.ts'
import type { WorkerDeathListener } from './worker-rpc.ts'

export interface RagOptions {
  readonly store: 'memory' | 'pgvector'
  /** The address of the pgvector store: postgres://… */
  readonly storeUrl: string | null
  /** The folder of the memory store's indexes. */
  readonly dataDir: string
  /** The folder of files that can be made again: the bundled index and downloaded models. */
  readonly cacheDir: string
  /** The folder of the bundled models. */
  readonly modelsDir: string
  /** A folder or a hub id; null: the bundled model. */
  readonly embeddingModel: string | null
  /** A folder or a hub id; null: late interaction over static token vectors. */
  readonly rerankerModel: string | null
  /** Replace the fusion's weights for the models. */
  readonly weights?: Partial<FusionWeights>
  readonly hub: HubOptions
  /** The device of models that are not in ONNX. */
  readonly device: EngineDevice
  /** The index that requests with `"rag": true` use. */
  readonly defaultIndex: string
  /** The files of the bundled index, which answers as `BUNDLED_INDEX` until the user has documents under that name; empty: no such index. */
  readonly bundledFiles: readonly string[]
  readonly rerankBudgetMs: number
  /** Called when a worker of the models, the reader or a store ends by itself. The next call starts another. */
  readonly onWorkerDeath?: WorkerDeathListener
  /** Called with the kind of error when the reranker failed or took too long, so that the order of the search is used. */
  readonly onRerankFailure?: (kind: string) => void
}

export const DEFAULT_RERANK_BUDGET_MS = 1000

/**
 * Builds retrieval. Nothing is loaded or opened before it is needed.
 * @throws RagError model_unavailable for a configured model that is missing, invalid_request for another setting that cannot work
 */
export function createRag(options: RagOptions): RagService {
  if (!isIndexName(options.defaultIndex))
    throw new RagError('invalid_request', `--rag-index: expected ${INDEX_NAME_WORDS}, found "${options.defaultIndex}"`)
  const models = createModelWorkers(options.onWorkerDeath)
  const { hub, device } = options
  const downloadDir = join(options.cacheDir, 'transformers')
  const modelOptions = { hub, downloadDir, device, threads: modelThreads() }
  // Not checked here: if the bundled model is missing, the requests that need it fail.
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
      ? // An encoder has only one vector per passage; the bundled model compares the words.
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

/** The folder of the bundled embedding model below `modelsDir`. */
export const BUNDLED_EMBEDDER = 'mini-embedder'

function createStore({ store, storeUrl, dataDir, onWorkerDeath }: RagOptions): IndexStore {
  switch (store) {
    case 'memory':
      if (statSync(dataDir, { throwIfNoEntry: false })?.isDirectory() === false)
        throw new RagError('invalid_request', `--data-dir ${dataDir}: expected a folder, found a file`)
      return createMemoryStore(join(dataDir, 'rag'), onWorkerDeath)
    case 'pgvector':
      if (storeUrl === null)
        throw new RagError('invalid_request', '--rag-store pgvector: expected --rag-store-url postgres://…')
      return createPgvectorStore(storeUrl)
    default:
      throw new Error(`unknown store ${String(store)}`)
  }
}
