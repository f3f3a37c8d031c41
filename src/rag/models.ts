/** Where the models of retrieval come from, and the process they run in. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { RagError } from './errors.ts'
import type { EmbedderApi, ModelWorkerApi } from './model-worker.ts'
import { isStaticModel } from './static-model.ts'
import { processWorker, threadWorker } from './worker-host.ts'
import { WorkerClient, workerUrl, type WorkerDeathListener } from './worker-rpc.ts'

/** Static embeddings in a folder (static-model.ts). */
export interface StaticSource {
  readonly kind: 'static'
  readonly name: string
  readonly folder: string
}

/** A model in ONNX on disk, or on the hub. Structured-cloneable: the worker loads it. */
export type ModelSource =
  | { readonly kind: 'folder'; readonly name: string; readonly folder: string }
  | {
      readonly kind: 'hub'
      readonly name: string
      readonly cacheDir: string
      /** The hub's address, without a slash at the end. */
      readonly endpoint: string
      readonly isOffline: boolean
    }

export interface HubOptions {
  /** The hub's own cache on this machine: looked into, never written. */
  readonly hubCacheDir: string
  /** Where downloaded models are kept, as ORG/NAME/FILE. */
  readonly downloadDir: string
  readonly endpoint: string
  readonly isOffline: boolean
}

const HUB_ID = /^[\w.-]+\/[\w.-]+$/

/**
 * A folder when there is one at that path, else a hub id.
 * @throws RagError model_unavailable naming the flag and what is missing.
 */
export function resolveModel(location: string, flag: string, hub: HubOptions): ModelSource {
  const folder = resolve(location)
  if (existsSync(folder) && statSync(folder).isDirectory()) {
    for (const file of ['config.json', 'tokenizer.json']) {
      if (existsSync(join(folder, file))) continue
      throw new RagError(
        'model_unavailable',
        `${flag}: ${folder} has no ${file}; expected config.json, tokenizer.json and onnx/model.onnx`,
      )
    }
    if (!onnxFile(folder)) {
      throw new RagError(
        'model_unavailable',
        `${flag}: ${folder} has neither onnx/model.onnx nor onnx/model_quantized.onnx`,
      )
    }
    return { kind: 'folder', name: basename(folder), folder }
  }
  if (HUB_ID.test(location)) {
    const snapshot = cachedSnapshot(location, hub.hubCacheDir)
    if (snapshot) return { kind: 'folder', name: location, folder: snapshot }
    const { downloadDir: cacheDir, endpoint, isOffline } = hub
    return { kind: 'hub', name: location, cacheDir, endpoint, isOffline }
  }
  throw new RagError('model_unavailable', `${flag}: ${location} is neither a folder nor a hub id ORG/NAME`)
}

/** As `resolveModel`, for the embedding model, which may be static embeddings too. @throws RagError model_unavailable */
export function resolveEmbedder(location: string, flag: string, hub: HubOptions): ModelSource | StaticSource {
  const folder = resolve(location)
  return isStaticModel(folder) ? { kind: 'static', name: basename(folder), folder } : resolveModel(location, flag, hub)
}

/** A model that other tools have already downloaded into the hub's cache, when it is complete there. */
function cachedSnapshot(id: string, hubCacheDir: string): string | null {
  const repository = join(hubCacheDir, `models--${id.replace('/', '--')}`)
  const ref = join(repository, 'refs', 'main')
  if (!existsSync(ref)) return null
  const snapshot = join(repository, 'snapshots', readFileSync(ref, 'utf8').trim())
  return existsSync(join(snapshot, 'tokenizer.json')) && onnxFile(snapshot) ? snapshot : null
}

/** The weights of a folder: the quantized ones when both are there, as the library's own default. */
export function onnxFile(folder: string): { readonly path: string; readonly isQuantized: boolean } | null {
  for (const [file, isQuantized] of [
    ['model_quantized.onnx', true],
    ['model.onnx', false],
  ] as const) {
    const path = join(folder, 'onnx', file)
    if (existsSync(path)) return { path, isQuantized }
  }
  return null
}

/** Urgency of calls to the models: a query of a waiting client goes before the next batch of an ingestion. */
export const QUERY_PRIORITY = 0
export const INGEST_PRIORITY = 1

/** What a model said of itself when it was loaded, asked for once; a load that failed is tried again by the next call. */
export function loadedOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | null = null
  return () => {
    loading ??= load().catch((error: unknown) => {
      loading = null
      throw error
    })
    return loading
  }
}

/** Calls that may wait for the models before new ones are refused. */
const MAX_WAITING = 1024

/** The process of the embedding and reranking models. */
export type ModelProcess = WorkerClient<ModelWorkerApi>

/**
 * The embedding and reranking models in a process of their own, started by the first call. One call at a time, so that urgent ones wait for
 * one batch at most.
 *
 * Not a thread: ONNX Runtime's addon keeps the JavaScript class of its sessions in a variable that is one for the whole process
 * (`InferenceSessionWrap::constructor` of onnxruntime-node 1.14). A second thread that loads it, or the same one started again, releases the
 * reference of the first, whose environment may be gone: the heap is damaged, and the process dies at some later allocation. A process loads
 * it once. It may die of whatever a model does to it, too: the call that it works on gets an error, and the next starts another.
 */
export const createModelProcess = (onDeath?: WorkerDeathListener): ModelProcess =>
  new WorkerClient(processWorker(workerUrl('./model-worker', import.meta.url)), {
    name: 'the embedding and reranking worker',
    concurrency: 1,
    maxWaiting: MAX_WAITING,
    failureCode: 'model_unavailable',
    drainOnClose: false,
    ...(onDeath && { onDeath }),
  })

/** The thread of static embeddings, with the same order of calls: they need no native code, and a process would cost more than they do. */
export const createStaticThread = (onDeath?: WorkerDeathListener): WorkerClient<EmbedderApi<StaticSource>> =>
  new WorkerClient(threadWorker(workerUrl('./static-worker', import.meta.url)), {
    name: 'the embedding thread',
    concurrency: 1,
    maxWaiting: MAX_WAITING,
    failureCode: 'model_unavailable',
    drainOnClose: false,
    ...(onDeath && { onDeath }),
  })
