/** Thread entry of static embeddings. They need no native code, so a thread is safe. */
import type { EmbedderApi, Passage } from './model-api.ts'
import { embedderCalls } from './model-worker.ts'
import type { StaticSource } from './models.ts'
import { sharedByKey } from '../promises.ts'
import { StaticModel } from './static-model.ts'
import { serveCalls, Transferred } from './worker-rpc.ts'

export interface StaticApi extends EmbedderApi<StaticSource> {
  /** The relevance of each passage to the query: `StaticModel.interact`. */
  readonly interact: {
    readonly params: { readonly model: StaticSource; readonly query: string; readonly passages: readonly Passage[] }
    readonly result: Float32Array
  }
}

const load = sharedByKey(
  ({ folder }: StaticSource) => folder,
  async ({ folder }) => new StaticModel(folder),
)

serveCalls<StaticApi>({
  ...embedderCalls(load),
  async interact({ model, query, passages }) {
    const scores = (await load(model)).interact(query, passages)
    return new Transferred(scores, [scores.buffer])
  },
})
