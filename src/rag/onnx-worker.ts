/** Process entry of embedding and reranking models in ONNX. */
import type { ModelApi } from './model-api.ts'
import { embedderCalls, rerankerCalls } from './model-worker.ts'
import type { OnnxSource } from './models.ts'
import { loadOnnxEmbedder, loadOnnxReranker } from './onnx-inference.ts'
import { sharedByKey } from '../promises.ts'
import { serveCalls } from './worker-rpc.ts'

const keyOf = (source: OnnxSource): string => (source.kind === 'folder' ? source.folder : `hub ${source.name}`)

serveCalls<ModelApi<OnnxSource>>({
  ...embedderCalls(sharedByKey(keyOf, loadOnnxEmbedder)),
  ...rerankerCalls(sharedByKey(keyOf, loadOnnxReranker)),
})
