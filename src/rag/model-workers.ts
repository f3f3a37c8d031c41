/** The process and the threads of embedding and reranking models, each started by its first call. */
import type { ModelApi } from './model-api.ts'
import { createEmbedder, type Embedder } from './embedder.ts'
import type { EngineSource, ModelSource, OnnxSource, StaticSource } from './models.ts'
import { createInteraction, createReranker, type Reranker } from './reranker.ts'
import type { StaticApi } from './static-worker.ts'
import { processWorker, threadWorker } from './worker-host.ts'
import { WorkerClient, workerUrl, type WorkerDeathListener } from './worker-rpc.ts'

/** Calls that may wait before new ones are refused. */
const MAX_WAITING = 1024

/** Embedders and rerankers of any source, in the workers of their kinds. */
export function createModelWorkers(onDeath?: WorkerDeathListener) {
  // One call at a time, so that an urgent call waits for one batch at most.
  const common = { concurrency: 1, maxWaiting: MAX_WAITING, failureCode: 'model_unavailable', onDeath } as const
  // Not a thread: the addon of ONNX Runtime keeps the JavaScript class of its sessions in a global variable
  // (`InferenceSessionWrap::constructor` of onnxruntime-node 1.14). When a second thread loads it, or a thread is restarted, the addon releases
  // the reference of the first thread, whose environment may be gone. That corrupts the heap, and the process crashes at some later allocation.
  // If a model crashes this process, the current call fails, and the next call starts another.
  const onnx = new WorkerClient<ModelApi<OnnxSource>>(processWorker(workerUrl('./onnx-worker', import.meta.url)), {
    ...common,
    name: 'the embedding and reranking worker',
    drainOnClose: false,
  })
  // This thread only waits for the kernels' own threads or device, which must not disappear during a step.
  const engine = new WorkerClient<ModelApi<EngineSource>>(threadWorker(workerUrl('./engine-worker', import.meta.url)), {
    ...common,
    name: 'the thread of embedding and reranking models',
    drainOnClose: true,
  })
  const statics = new WorkerClient<StaticApi>(threadWorker(workerUrl('./static-worker', import.meta.url)), {
    ...common,
    name: 'the embedding thread',
    drainOnClose: false,
  })
  return {
    embedder(source: ModelSource | StaticSource): Embedder {
      if (source.kind === 'static') return createEmbedder(source, statics)
      return source.kind === 'engine' ? createEmbedder(source, engine) : createEmbedder(source, onnx)
    },
    reranker: (source: ModelSource): Reranker =>
      source.kind === 'engine' ? createReranker(source, engine) : createReranker(source, onnx),
    /** Late interaction over the token vectors of a static model. */
    interaction: (source: StaticSource): Reranker => createInteraction(source, statics),
    async close() {
      await Promise.all([onnx.close(), engine.close(), statics.close()])
    },
  }
}
