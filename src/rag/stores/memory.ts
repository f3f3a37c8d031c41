/** The store of one process: indexes in the memory of a worker thread, one file each. Exact search, fast to some 100,000 chunks. */
import { existsSync } from 'node:fs'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  IndexStore,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import { threadWorker } from '../worker-host.ts'
import { WorkerClient, workerUrl, type CallOptions, type WorkerDeathListener } from '../worker-rpc.ts'
import { indexNames, indexPath } from './memory-local.ts'
import type { IndexCall, IndexMethod, MemoryWorkerApi, MemoryWorkerData } from './memory-worker.ts'

/** Searches are answered one after the other; more than this many waiting is overload. */
const MAX_WAITING = 4096

type Client = WorkerClient<MemoryWorkerApi>
type Result<M extends IndexMethod> = Awaited<ReturnType<VectorIndex[M]>>

/** Stands for an index in the worker: every method is one call. */
class MemoryStoreIndex implements VectorIndex {
  readonly name: string
  readonly model: string
  readonly dimensions: number
  readonly #client: Client

  constructor(client: Client, name: string, { model, dimensions }: IndexSpec) {
    this.#client = client
    this.name = name
    this.model = model
    this.dimensions = dimensions
  }

  info(): Promise<IndexInfo> {
    return this.#call('info', [])
  }

  isEmpty(): Promise<boolean> {
    return this.#call('isEmpty', [])
  }

  upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    return this.#call('upsert', [documents])
  }

  delete(ids: readonly string[]): Promise<number> {
    return this.#call('delete', [ids])
  }

  get(id: string): Promise<StoredDocument | null> {
    return this.#call('get', [id])
  }

  summaries(ids?: readonly string[]): Promise<readonly DocumentSummary[]> {
    return this.#call('summaries', [ids])
  }

  search(query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    return this.#call('search', [query], signal && { signal })
  }

  async #call<M extends IndexMethod>(
    method: M,
    args: Parameters<VectorIndex[M]>,
    options?: CallOptions,
  ): Promise<Result<M>> {
    const spec = { model: this.model, dimensions: this.dimensions }
    const call: IndexCall<M> = { name: this.name, spec, method, args }
    return (await this.#client.call('index', call, options)) as Result<M>
  }
}

/** @param folder where the files of the indexes are; made with the first one. */
export function createMemoryStore(folder: string, onDeath?: WorkerDeathListener): IndexStore {
  const workerData: MemoryWorkerData = { folder }
  const client: Client = new WorkerClient(threadWorker(workerUrl('./memory-worker', import.meta.url), workerData), {
    name: 'the index worker',
    concurrency: Infinity,
    maxWaiting: MAX_WAITING,
    failureCode: 'store_unavailable',
    drainOnClose: true,
    ...(onDeath && { onDeath }),
  })
  /** What each index was when it was opened last: a search of a known index is one call. */
  const specs = new Map<string, IndexSpec>()
  /** Asked anew each time: another process may make and drop indexes at any time. */
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
      return new MemoryStoreIndex(client, name, spec)
    },
    async openOrCreate(name, wanted) {
      const spec = await client.call('openOrCreate', { name, spec: wanted })
      specs.set(name, spec)
      return new MemoryStoreIndex(client, name, spec)
    },
    async drop(name) {
      specs.delete(name)
      return client.call('drop', { name })
    },
    forget(name) {
      specs.delete(name)
    },
    async close() {
      // A thread that was never started has nothing to settle. What fails here is found again by the next start.
      if (client.isRunning) await client.call('close', null).catch(() => undefined)
      await client.close()
    },
  }
}
