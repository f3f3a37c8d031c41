/** Worker entry of the memory store: searches, journals and loads off the main thread. */
import { workerData } from 'node:worker_threads'
import { RagError } from '../errors.ts'
import { serveCalls, Transferred } from '../worker-rpc.ts'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  SearchQuery,
  StoredDocument,
} from '../vector-index.ts'
import type { JournaledIndex } from './journaled-index.ts'
import { LocalMemoryStore } from './memory-local.ts'

export interface MemoryWorkerData {
  readonly folder: string
}

/** Indexes go by name in every call, so that a worker started anew goes on where one that died stopped. */
export interface MemoryWorkerApi {
  readonly list: { readonly params: null; readonly result: readonly IndexInfo[] }
  readonly open: { readonly params: { readonly name: string }; readonly result: IndexSpec | null }
  readonly openOrCreate: {
    readonly params: { readonly name: string; readonly spec: IndexSpec }
    readonly result: IndexSpec
  }
  readonly drop: { readonly params: { readonly name: string }; readonly result: boolean }
  readonly info: { readonly params: { readonly name: string }; readonly result: IndexInfo }
  readonly upsert: {
    readonly params: { readonly name: string; readonly documents: readonly EmbeddedDocument[] }
    readonly result: null
  }
  readonly delete: {
    readonly params: { readonly name: string; readonly ids: readonly string[] }
    readonly result: number
  }
  readonly get: {
    readonly params: { readonly name: string; readonly id: string }
    readonly result: StoredDocument | null
  }
  readonly summaries: {
    readonly params: { readonly name: string; readonly ids: readonly string[] | null }
    readonly result: readonly DocumentSummary[]
  }
  readonly search: {
    readonly params: { readonly name: string; readonly query: SearchQuery }
    readonly result: readonly Candidate[]
  }
}

const { folder } = workerData as MemoryWorkerData
const store = new LocalMemoryStore(folder)

async function opened(name: string): Promise<JournaledIndex> {
  const index = await store.open(name)
  if (!index) throw new RagError('index_not_found', 'index: no index of that name', 'index')
  return index
}

const specOf = ({ model, dimensions }: IndexSpec): IndexSpec => ({ model, dimensions })

serveCalls<MemoryWorkerApi>({
  list: () => store.list(),
  open: async ({ name }) => {
    const index = await store.open(name)
    return index && specOf(index)
  },
  openOrCreate: async ({ name, spec }) => specOf(await store.openOrCreate(name, spec)),
  drop: ({ name }) => store.drop(name),
  info: async ({ name }) => (await opened(name)).info(),
  upsert: async ({ name, documents }) => {
    await (await opened(name)).upsert(documents)
    return null
  },
  delete: async ({ name, ids }) => (await opened(name)).delete(ids),
  get: async ({ name, id }) => (await opened(name)).get(id),
  summaries: async ({ name, ids }) => (await opened(name)).summaries(ids),
  search: async ({ name, query }) => new Transferred(await (await opened(name)).search(query), []),
})
