/** The process and the threads that models run in, each started by its first call. */
import type { ModelApi } from './model-api.ts'
import { createEmbedder, type Embedder } from './embedder.ts'
import type { EngineSource, ModelSource, OnnxSource, StaticSource } from './models.ts'
import { createInteraction, createReranker, type Reranker } from './reranker.ts'
import type { StaticApi } from './static-worker.ts'
import { processWorker, threadWorker } from './worker-host.ts'
import { WorkerClient, workerUrl, type WorkerDeathListener } from './worker-rpc.ts'

/** Calls that may wait for the models before new ones are refused. */
const MAX_WAITING = 1024

/** One call at a time, so that urgent ones wait for one batch at most. */
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
 * Not a thread: ONNX Runtime's addon keeps the JavaScript class of its sessions in a variable that is one for the whole process
 * (`InferenceSessionWrap::constructor` of onnxruntime-node 1.14). A second thread that loads it, or the same one started again, releases the
 * reference of the first, whose environment may be gone: the heap is damaged, and the process dies at some later allocation. A process loads
 * it once. A model may crash it: the current call gets an error, and the next call starts another.
 */
const createOnnxProcess = (onDeath?: WorkerDeathListener): WorkerClient<ModelApi<OnnxSource>> =>
  new WorkerClient(
    processWorker(workerUrl('./onnx-worker', import.meta.url)),
    clientOptions('the embedding and reranking worker', onDeath),
  )

/** The thread of models on the engine's kernels, whose own threads or device compute: it only waits for them. */
const createEngineThread = (onDeath?: WorkerDeathListener): WorkerClient<ModelApi<EngineSource>> =>
  new WorkerClient(
    threadWorker(workerUrl('./engine-worker', import.meta.url)),
    // A device must not go away under a running step.
    { ...clientOptions('the thread of embedding and reranking models', onDeath), drainOnClose: true },
  )

/** The thread of static embeddings: they need no native code, and a process would cost more than they do. */
const createStaticThread = (onDeath?: WorkerDeathListener): WorkerClient<StaticApi> =>
  new WorkerClient(
    threadWorker(workerUrl('./static-worker', import.meta.url)),
    clientOptions('the embedding thread', onDeath),
  )

export interface ModelWorkers {
  embedder(source: ModelSource | StaticSource): Embedder
  reranker(source: ModelSource): Reranker
  /** What a table's token vectors say of passages, token by token. */
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
