/**
 * Thread entry of embedding and reranking models on the engine's kernels: loads each on its first call, and runs one call at a time. The only
 * file of this room that runs the engine's code, in a thread of its own.
 */
import { TextEmbedder, TextRanker, type TextModelRequest } from '../engine/runner/encoder/text-model.ts'
import { fetchModel } from '../engine/weights/hub.ts'
import { messageOf, RagError } from './errors.ts'
import type { ModelApi } from './model-api.ts'
import type { EngineSource } from './models.ts'
import { scoreInBatches, timePairs } from './reranker-timing.ts'
import { serveCalls, Transferred } from './worker-rpc.ts'

const embedders = new Map<string, Promise<TextEmbedder>>()
const rankers = new Map<string, Promise<TextRanker>>()

/** The model of a source; after a failed load the next call tries again. */
function loaded<T>(
  models: Map<string, Promise<T>>,
  { location, device, threads, hub }: EngineSource,
  load: (request: TextModelRequest) => Promise<T>,
): Promise<T> {
  const known = models.get(location)
  if (known !== undefined) return known
  const loading = (async () => {
    try {
      const { cacheDir, endpoint, token, isOffline: offline } = hub
      const { path } = await fetchModel(location, { cacheDir, endpoint, token, offline })
      return await load({ path, device, threads })
    } catch (error) {
      throw new RagError('model_unavailable', messageOf(error), null, { cause: error })
    }
  })()
  models.set(location, loading)
  loading.catch(() => models.delete(location))
  return loading
}

const embedderOf = (source: EngineSource): Promise<TextEmbedder> =>
  loaded(embedders, source, (request) => TextEmbedder.load(request))
const rankerOf = (source: EngineSource): Promise<TextRanker> =>
  loaded(rankers, source, (request) => TextRanker.load(request))

serveCalls<ModelApi<EngineSource>>({
  async loadEmbedder({ model }) {
    const { digest, dimensions, maxTokens } = await embedderOf(model)
    return { fingerprint: `${model.name}@${digest}`, dimensions, maxTokens }
  },
  async loadReranker({ model }) {
    const ranker = await rankerOf(model)
    return timePairs(ranker.maxTokens, (query, documents) => ranker.score(query, documents))
  },
  async embed({ model, texts, role }) {
    const result = await (await embedderOf(model)).embed(texts, role)
    return new Transferred(result, [result.vectors.buffer])
  },
  async countTokens({ model, texts }) {
    const embedder = await embedderOf(model)
    return texts.map((text) => embedder.countTokens(text))
  },
  async decode({ model, ids }) {
    const embedder = await embedderOf(model)
    return ids.map((list) => embedder.decode(list))
  },
  async rerank({ model, query, documents }, signal) {
    const ranker = await rankerOf(model)
    return scoreInBatches(query, documents, (asked, batch) => ranker.score(asked, batch), signal)
  },
})
