/** Retrieval from the settings, for the server and for `miniserve rag index`. */
import { join } from 'node:path'
import type { CommandLine, Config } from './config.ts'
import { MODELS, PACKAGE } from './model-loading.ts'
import { createProgress } from './progress.ts'
import { createRag, DEFAULT_RERANK_BUDGET_MS, type RagOptions } from './rag/create-rag.ts'

/** What retrieval is made with. */
export function ragSettings(config: Config): RagOptions {
  return {
    store: config.ragStore,
    storeUrl: config.ragStoreUrl,
    dataDir: config.dataDir,
    cacheDir: config.cacheDir,
    modelsDir: MODELS,
    embeddingModel: config.embeddingModel,
    rerankerModel: config.rerankerModel,
    weights: config.ragWeights,
    hub: {
      cacheDir: config.hfHubCache,
      endpoint: config.hfEndpoint,
      token: config.hfToken,
      offline: config.hfOffline,
    },
    device: config.device,
    defaultIndex: config.ragIndex,
    bundledFiles: [join(PACKAGE, 'README.md'), join(PACKAGE, 'docs')],
    rerankBudgetMs: DEFAULT_RERANK_BUDGET_MS,
  }
}

/** `miniserve rag index PATH…`: the exit code. */
export async function indexDocuments(
  { config, isStrict }: Pick<CommandLine, 'config' | 'isStrict'>,
  paths: readonly string[],
): Promise<number> {
  const rag = createRag(ragSettings(config))
  try {
    const { runRagIndex } = await import('./rag/index-command.ts')
    const progress = createProgress(process.stderr, 'indexing', { isShortShown: true })
    const folder = config.ragStore === 'memory' ? config.dataDir : null
    return await runRagIndex({ rag, paths, index: config.ragIndex, folder, isStrict, progress }, process.stderr)
  } finally {
    await rag.close()
  }
}
