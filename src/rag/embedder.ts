/** The embedding model as the main thread sees it. */
import type { TextRole } from '../engine/runner/encoder/text-model.ts'
import { INGEST_PRIORITY, QUERY_PRIORITY, type EmbedderApi, type Embeddings, type LoadedEmbedder } from './model-api.ts'
import { shared } from '../promises.ts'
import type { WorkerClient } from './worker-rpc.ts'

interface EmbedOptions {
  readonly role: TextRole
  /** Whether queries may overtake the texts that wait; the default for documents. */
  readonly isBulk?: boolean
  readonly signal?: AbortSignal
}

/** An embedding model. Calls may throw RagError `model_unavailable`, or the signal's reason once it is aborted. */
export interface Embedder {
  /** Name for responses and spans. */
  readonly name: string
  /** Loads the model if necessary. An index belongs to one fingerprint and number of dimensions. */
  load(): Promise<LoadedEmbedder>
  /** Embeds any number of texts. Texts that are too long are cut. */
  embed(texts: readonly string[], options: EmbedOptions): Promise<Embeddings>
  /** Token counts, special tokens left out. */
  countTokens(texts: readonly string[], options?: { readonly signal?: AbortSignal }): Promise<readonly number[]>
  /** Texts of token ids of this model's tokenizer; null if an id is unknown. */
  decode(ids: readonly (readonly number[])[]): Promise<readonly (string | null)[]>
}

/** Texts per call to the worker. A query may have to wait for one call of an ingestion. */
const BATCH_SIZE = 16

/** UTF-16 units of the texts per call that counts tokens, unless a single text is longer. */
const MAX_COUNTED_CHARS = 64 * 1024

function* byChars(texts: readonly string[], maxChars: number): Generator<readonly string[]> {
  let from = 0
  let numChars = 0
  for (const [i, { length }] of texts.entries()) {
    if (i > from && numChars + length > maxChars) {
      yield texts.slice(from, i)
      from = i
      numChars = 0
    }
    numChars += length
  }
  if (from < texts.length) yield texts.slice(from)
}

/** The positions of the texts by length: batches of similar lengths have little padding. */
const byLength = (texts: readonly string[]): number[] =>
  texts.map((_, i) => i).sort((a, b) => (texts[a]?.length ?? 0) - (texts[b]?.length ?? 0))

/** An embedding model in a worker of its kind. */
export function createEmbedder<Source extends { readonly name: string }>(
  model: Source,
  models: Pick<WorkerClient<EmbedderApi<Source>>, 'call'>,
): Embedder {
  return {
    name: model.name,
    load: shared(() => models.call('loadEmbedder', { model })),
    async embed(texts, { role, isBulk = role === 'document', signal }) {
      const priority = isBulk ? INGEST_PRIORITY : QUERY_PRIORITY
      const options = { priority, signal }
      const order = byLength(texts)
      const numTokens = texts.map(() => 0)
      let vectors = new Float32Array(0)
      for (let from = 0; from < order.length; from += BATCH_SIZE) {
        const rows = order.slice(from, from + BATCH_SIZE)
        const batch = await models.call('embed', { model, role, texts: rows.map((row) => texts[row] ?? '') }, options)
        const dimensions = batch.vectors.length / rows.length
        if (vectors.length === 0) vectors = new Float32Array(texts.length * dimensions)
        rows.forEach((row, i) => {
          vectors.set(batch.vectors.subarray(i * dimensions, (i + 1) * dimensions), row * dimensions)
          numTokens[row] = batch.numTokens[i] ?? 0
        })
      }
      return { vectors, numTokens }
    },
    async countTokens(texts, { signal } = {}) {
      const counts: number[] = []
      for (const part of byChars(texts, MAX_COUNTED_CHARS)) {
        const options = { priority: INGEST_PRIORITY, signal }
        counts.push(...(await models.call('countTokens', { model, texts: part }, options)))
      }
      return counts
    },
    decode: (ids) => models.call('decode', { model, ids }),
  }
}
