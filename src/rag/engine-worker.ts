/**
 * Thread entry of embedding and reranking models on the engine's kernels. The only file of retrieval that runs the engine's code, in a thread
 * of its own.
 */
import { TextEmbedder, TextRanker, type TextModelRequest } from '../engine/runner/encoder/text-model.ts'
import { fetchModel } from '../engine/weights/hub.ts'
import { messageOf, modelUnavailable } from './errors.ts'
import type { ModelApi } from './model-api.ts'
import { embedderCalls, rerankerCalls } from './model-worker.ts'
import type { EngineSource } from './models.ts'
import { sharedByKey } from '../promises.ts'
import { serveCalls } from './worker-rpc.ts'

const loader = <T>(load: (request: TextModelRequest) => Promise<T>) =>
  sharedByKey(
    ({ location }: EngineSource) => location,
    async ({ location, device, threads, hub }) => {
      try {
        const { path } = await fetchModel(location, hub)
        return await load({ path, device, threads })
      } catch (error) {
        throw modelUnavailable(messageOf(error), error)
      }
    },
  )

serveCalls<ModelApi<EngineSource>>({
  ...embedderCalls(loader((request) => TextEmbedder.load(request))),
  ...rerankerCalls(loader((request) => TextRanker.load(request))),
})
