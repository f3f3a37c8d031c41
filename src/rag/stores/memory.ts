/** The store of one process: indexes in the memory of a worker thread, one file each. Search is exact, and fast up to about 100,000 chunks. */
import { existsSync } from 'node:fs'
import type { IndexSpec, IndexStore, VectorIndex } from '../vector-index.ts'
import { threadWorker } from '../worker-host.ts'
import { WorkerClient, workerUrl, type CallOptions, type WorkerDeathListener } from '../worker-rpc.ts'
import { indexNames, indexPath } from './memory-local.ts'
import type { IndexMethod, MemoryWorkerApi, MemoryWorkerData } from './memory-worker.ts'

/** Calls that may wait: searches are answered one after the other. */
const MAX_WAITING = 4096

type Client = WorkerClient<MemoryWorkerApi>
type Result<M extends IndexMethod> = Awaited<ReturnType<VectorIndex[M]>>

/** An index in the worker: each method is one call. */
function indexInWorker(client: Client, name: string, { model, dimensions }: IndexSpec): VectorIndex {
  const call = async <M extends IndexMethod>(
    method: M,
    args: Parameters<VectorIndex[M]>,
    options?: CallOptions,
  ): Promise<Result<M>> =>
    (await client.call('index', { name, spec: { model, dimensions }, method, args }, options)) as Result<M>
  return {
    name,
    model,
    dimensions,
    info: () => call('info', []),
    upsert: (documents) => call('upsert', [documents]),
    delete: (ids) => call('delete', [ids]),
    get: (id) => call('get', [id]),
    summaries: (ids) => call('summaries', [ids]),
    search: (query, signal) => call('search', [query], { signal }),
  }
}

/** Opens the store; the worker starts with the first call. @param folder of the index files, made with the first one */
export function createMemoryStore(folder: string, onDeath?: WorkerDeathListener): IndexStore {
  const workerData: MemoryWorkerData = { folder }
  const client: Client = new WorkerClient(threadWorker(workerUrl('./memory-worker', import.meta.url), workerData), {
    name: 'the index worker',
    concurrency: Infinity,
    maxWaiting: MAX_WAITING,
    failureCode: 'store_unavailable',
    drainOnClose: true,
    onDeath,
  })
  /** The spec of each index when it was last opened, so that a search of a known index is one call. */
  const specs = new Map<string, IndexSpec>()
  /** Looks each time: another process may make or drop indexes at any time. */
  const isThere = (name: string): boolean => {
    const path = indexPath(folder, name)
    return path !== null && existsSync(path)
  }
  return {
    names: async () => indexNames(folder),
    exists: async (name) => isThere(name),
    async open(name) {
      if (!isThere(name)) {
        specs.delete(name)
        return null
      }
      const spec = specs.get(name) ?? (await client.call('open', { name }))
      if (!spec) return null
      specs.set(name, spec)
      return indexInWorker(client, name, spec)
    },
    async openOrCreate(name, wanted) {
      const spec = await client.call('openOrCreate', { name, spec: wanted })
      specs.set(name, spec)
      return indexInWorker(client, name, spec)
    },
    async drop(name) {
      specs.delete(name)
      return client.call('drop', { name })
    },
    forget(name) {
      specs.delete(name)
    },
    async close() {
      // A thread that was never started has nothing to settle. A failure shows again at the next start.
      if (client.isRunning) await client.call('close', null).catch(() => undefined)
      await client.close()
    },
  }
}
