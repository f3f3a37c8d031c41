/** The store of one process: indexes in the memory of a worker thread, one file each. Exact search, fast to some 100,000 chunks. */
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
import { WorkerClient, workerUrl, type WorkerDeathListener } from '../worker-rpc.ts'
import type { MemoryWorkerApi, MemoryWorkerData } from './memory-worker.ts'

/** Searches are answered one after the other; more than this many waiting is overload. */
const MAX_WAITING = 4096

type Client = WorkerClient<MemoryWorkerApi>

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
    return this.#client.call('info', { name: this.name })
  }

  async upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    await this.#client.call('upsert', { name: this.name, documents })
  }

  delete(ids: readonly string[]): Promise<number> {
    return this.#client.call('delete', { name: this.name, ids })
  }

  get(id: string): Promise<StoredDocument | null> {
    return this.#client.call('get', { name: this.name, id })
  }

  summaries(ids: readonly string[] | null = null): Promise<readonly DocumentSummary[]> {
    return this.#client.call('summaries', { name: this.name, ids })
  }

  search(query: SearchQuery, signal?: AbortSignal): Promise<readonly Candidate[]> {
    return this.#client.call('search', { name: this.name, query }, signal && { signal })
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
  return {
    list: () => client.call('list', null),
    async open(name) {
      const spec = await client.call('open', { name })
      return spec && new MemoryStoreIndex(client, name, spec)
    },
    async openOrCreate(name, spec) {
      return new MemoryStoreIndex(client, name, await client.call('openOrCreate', { name, spec }))
    },
    drop: (name) => client.call('drop', { name }),
    close: () => client.close(),
  }
}
