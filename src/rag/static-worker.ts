/** Worker entry of static embeddings: a thread of this process, since they need no native code. Loads each model on its first call. */
import type { StaticSource } from './models.ts'
import type { EmbedderApi, Passage } from './model-api.ts'
import { StaticModel } from './static-model.ts'
import { serveCalls, Transferred } from './worker-rpc.ts'

export interface StaticApi extends EmbedderApi<StaticSource> {
  /** Relevance of each passage to the query: `StaticModel.interact`. */
  readonly interact: {
    readonly params: { readonly model: StaticSource; readonly query: string; readonly passages: readonly Passage[] }
    readonly result: Float32Array
  }
}

const loaded = new Map<string, StaticModel>()

function modelOf(source: StaticSource): StaticModel {
  const known = loaded.get(source.folder)
  if (known) return known
  const model = new StaticModel(source.folder)
  loaded.set(source.folder, model)
  return model
}

serveCalls<StaticApi>({
  async loadEmbedder({ model }) {
    const { hash, dimensions, maxTokens } = modelOf(model)
    return { fingerprint: `${model.name}@${hash}`, dimensions, maxTokens }
  },
  async embed({ model, texts }) {
    const result = modelOf(model).embed(texts)
    return new Transferred(result, [result.vectors.buffer])
  },
  async countTokens({ model, texts }) {
    const embedder = modelOf(model)
    return texts.map((text) => embedder.countTokens(text))
  },
  async interact({ model, query, passages }) {
    const scores = modelOf(model).interact(query, passages)
    return new Transferred(scores, [scores.buffer])
  },
  async decode({ model, ids }) {
    const embedder = modelOf(model)
    return ids.map((list) => embedder.decode(list))
  },
})
