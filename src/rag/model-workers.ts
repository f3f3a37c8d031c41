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

/** One call at a time, so that an urgent call waits for one batch at most. */
const clientOptions = (name: string, onDeath: WorkerDeathListener | undefined) => ({
  name,
  concurrency: 1,
  maxWaiting: MAX_WAITING,
  failureCode: 'model_unavailable' as const,
  drainOnClose: false,
  ...(onDeath && { onDeath }),
})

/**
 * The process of models in ONNX.
 *
 * A thread would not be safe: the addon of ONNX Runtime keeps the JavaScript class of its sessions in a global variable
 * (`InferenceSessionWrap::constructor` of onnxruntime-node 1.14). When a second thread loads it, or a thread is restarted, the addon releases the
 * reference of the first thread, whose environment may be gone. That corrupts the heap, and the process crashes at some later allocation. If a model
 * crashes the separate process, the current call fails, and the next call starts another.
 */
const createOnnxProcess = (onDeath?: WorkerDeathListener): WorkerClient<ModelApi<OnnxSource>> =>
  new WorkerClient(
    processWorker(workerUrl('./onnx-worker', import.meta.url)),
    clientOptions('the embedding and reranking worker', onDeath),
  )

/** The thread of models on the engine's kernels. It only waits for the kernels' own threads or device. */
const createEngineThread = (onDeath?: WorkerDeathListener): WorkerClient<ModelApi<EngineSource>> =>
  new WorkerClient(
    threadWorker(workerUrl('./engine-worker', import.meta.url)),
    // A device must not disappear during a step.
    { ...clientOptions('the thread of embedding and reranking models', onDeath), drainOnClose: true },
  )

/** The thread of static embeddings, which need no native code. */
const createStaticThread = (onDeath?: WorkerDeathListener): WorkerClient<StaticApi> =>
  new WorkerClient(
    threadWorker(workerUrl('./static-worker', import.meta.url)),
    clientOptions('the embedding thread', onDeath),
  )

export interface ModelWorkers {
  embedder(source: ModelSource | StaticSource): Embedder
  reranker(source: ModelSource): Reranker
  /** Late interaction over the token vectors of a static model. */
  interaction(source: StaticSource): Reranker
  close(): Promise<void>
}

/** Embedders and rerankers of any source, in the workers of their kinds. */
export function createModelWorkers(onDeath?: WorkerDeathListener): ModelWorkers {
  const onnx = createOnnxProcess(onDeath)
  const engine = createEngineThread(onDeath)
  const statics = createStaticThread(onDeath)
  return {
    embedder(source) {
      if (source.kind === 'static') return createEmbedder(source, statics)
      return source.kind === 'engine' ? createEmbedder(source, engine) : createEmbedder(source, onnx)
    },
    reranker: (source) => (source.kind === 'engine' ? createReranker(source, engine) : createReranker(source, onnx)),
    interaction: (source) => createInteraction(source, statics),
    async close() {
      await Promise.all([onnx.close(), engine.close(), statics.close()])
    },
  }
}
