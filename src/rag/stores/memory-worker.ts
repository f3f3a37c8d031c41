/** Thread entry of the memory store: searches, writes and loads indexes off the main thread. */
import { workerData } from 'node:worker_threads'
import { indexNotFound } from '../errors.ts'
import { checkSpec, type IndexSpec, type VectorIndex } from '../vector-index.ts'
import { serveCalls } from '../worker-rpc.ts'
import { LocalMemoryStore } from './memory-local.ts'

export interface MemoryWorkerData {
  readonly folder: string
}

/** The methods of an index that the main thread forwards. */
export type IndexMethod = 'info' | 'upsert' | 'delete' | 'get' | 'summaries' | 'search'

/** A call of a method of an index, which is given by name so that a restarted worker can continue. */
interface IndexCall {
  readonly name: string
  /** The spec that the caller knows: the index may have been made anew since. */
  readonly spec: IndexSpec
  readonly method: IndexMethod
  readonly args: Parameters<VectorIndex[IndexMethod]>
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
    if (!index) throw indexNotFound()
    checkSpec(index, spec)
    // The compiler cannot see that the method and its arguments belong together.
    const call = index[method] as (...values: readonly unknown[]) => Promise<unknown>
    return call.apply(index, args)
  },
})
