/** Process entry of the models in ONNX: loads them on their first call and runs them one batch a call. */
import type { LoadedEmbedder, ModelApi } from './model-api.ts'
import type { OnnxSource } from './models.ts'
import { embedWithOnnx, scorePairs } from './onnx-inference.ts'
import { fingerprintOf, loadedModel } from './onnx.ts'
import { scoreInBatches, timePairs } from './reranker-timing.ts'
import { serveCalls, Transferred } from './worker-rpc.ts'

const infos = new Map<string, Promise<LoadedEmbedder>>()

serveCalls<ModelApi<OnnxSource>>({
  async loadEmbedder({ model }) {
    const embedder = await loadedModel(model, 'embedding')
    const key = JSON.stringify(model)
    const info =
      infos.get(key) ??
      embedWithOnnx(embedder, ['a'], 'query').then(({ vectors }) => ({
        fingerprint: fingerprintOf(model),
        dimensions: vectors.length,
        maxTokens: embedder.maxTokens,
      }))
    infos.set(key, info)
    return info
  },
  async loadReranker({ model }) {
    const reranker = await loadedModel(model, 'reranking')
    return timePairs(reranker.maxTokens, (query, documents) => scorePairs(reranker, query, documents))
  },
  async embed({ model, texts, role }) {
    const result = await embedWithOnnx(await loadedModel(model, 'embedding'), texts, role)
    return new Transferred(result, [result.vectors.buffer])
  },
  async countTokens({ model, texts }) {
    const { tokenizer } = await loadedModel(model, 'embedding')
    return texts.map((text) => tokenizer.encode(text, null, { add_special_tokens: false }).length)
  },
  async decode({ model, ids }) {
    const { tokenizer } = await loadedModel(model, 'embedding')
    const size = tokenizer.model.vocab.length
    return ids.map((list) =>
      list.every((id) => id < size) ? tokenizer.decode([...list], { skip_special_tokens: true }) : null,
    )
  },
  async rerank({ model, query, documents }, signal) {
    const reranker = await loadedModel(model, 'reranking')
    return scoreInBatches(query, documents, (asked, batch) => scorePairs(reranker, asked, batch), signal)
  },
})
