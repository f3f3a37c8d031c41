/** Calls of the models' workers: how urgent they are, and what is asked once. */

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
