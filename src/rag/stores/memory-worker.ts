/** Worker entry of the memory store: searches, journals and loads off the main thread. */
import { workerData } from 'node:worker_threads'
import { RagError } from '../errors.ts'
import type { IndexSpec, VectorIndex } from '../vector-index.ts'
import { serveCalls } from '../worker-rpc.ts'
import { checkSpec, LocalMemoryStore } from './memory-local.ts'

export interface MemoryWorkerData {
  readonly folder: string
}

/** Methods of an index that its proxy on the main thread forwards. */
export type IndexMethod = 'info' | 'isEmpty' | 'upsert' | 'delete' | 'get' | 'summaries' | 'search'

/** A call of a method of an index. The index is given by name, so that a restarted worker can continue. */
export interface IndexCall<M extends IndexMethod = IndexMethod> {
  readonly name: string
  /** What the caller knows the index to be: it may have been made anew since. */
  readonly spec: IndexSpec
  readonly method: M
  readonly args: Parameters<VectorIndex[M]>
}

export interface MemoryWorkerApi {
  readonly open: { readonly params: { readonly name: string }; readonly result: IndexSpec | null }
  readonly openOrCreate: {
    readonly params: { readonly name: string; readonly spec: IndexSpec }
    readonly result: IndexSpec
  }
  readonly close: { readonly params: null; readonly result: void }
  readonly drop: { readonly params: { readonly name: string }; readonly result: boolean }
  readonly index: { readonly params: IndexCall; readonly result: unknown }
}

const { folder } = workerData as MemoryWorkerData
const store = new LocalMemoryStore(folder)

const specOf = ({ model, dimensions }: IndexSpec): IndexSpec => ({ model, dimensions })

serveCalls<MemoryWorkerApi>({
  open: async ({ name }) => {
    const index = await store.open(name)
    return index && specOf(index)
  },
  openOrCreate: async ({ name, spec }) => specOf(await store.openOrCreate(name, spec)),
  close: () => store.close(),
  drop: ({ name }) => store.drop(name),
  index: async ({ name, spec, method, args }) => {
    const index = await store.open(name)
    if (!index) throw new RagError('index_not_found', 'index: no index of that name', 'index')
    checkSpec(index, spec)
    // One call of one method: the compiler cannot see that name and arguments belong together.
    const call = index[method] as (...values: readonly unknown[]) => Promise<unknown>
    return call.apply(index, args)
  },
})
