/** How much of the machine an embedding or reranking model gets. */
import { availableParallelism } from 'node:os'

/** Half of the cores, so that neither the event loop nor a decode step waits for a model beside the language model. */
export const modelThreads = (): number => Math.max(1, Math.floor(availableParallelism() / 2))
