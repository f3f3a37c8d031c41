/** How a reranker is run and timed, on any runtime. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { LoadedReranker, RerankerApi } from './model-api.ts'

/** Pairs that are scored together: between batches a call can be cancelled. */
const RERANK_BATCH = 8
/** What a reranker is timed with: lengths as they occur. */
const SAMPLE_QUESTION = 'Which flag of the server sets the port that it listens on?'
const SAMPLE_PASSAGE = 'Sets the port that the server listens on; 0 takes any free one. '.repeat(8)

type Scored = RerankerApi<never>['rerank']['result']
type ScorePairs = (query: string, documents: readonly string[]) => Promise<Scored>

/** What a pair takes; the first run prepares the model for the shape. */
export async function timePairs(maxTokens: number, score: ScorePairs): Promise<LoadedReranker> {
  const passages = Array.from({ length: RERANK_BATCH }, () => SAMPLE_PASSAGE)
  await score(SAMPLE_QUESTION, passages)
  const started = performance.now()
  await score(SAMPLE_QUESTION, passages)
  return { maxTokens, msPerPair: (performance.now() - started) / RERANK_BATCH }
}

/** Scores in batches of like lengths. @throws the signal's reason between batches. */
export async function scoreInBatches(
  query: string,
  documents: readonly string[],
  score: ScorePairs,
  signal: AbortSignal,
): Promise<Scored> {
  const scores = new Float32Array(documents.length)
  const order = documents.map((_, i) => i).sort((a, b) => (documents[a]?.length ?? 0) - (documents[b]?.length ?? 0))
  let numTokens = 0
  for (let from = 0; from < order.length; from += RERANK_BATCH) {
    const rows = order.slice(from, from + RERANK_BATCH)
    const batch = await score(
      query,
      rows.map((row) => documents[row] ?? ''),
    )
    rows.forEach((row, i) => (scores[row] = batch.scores[i] ?? 0))
    numTokens += batch.numTokens
    // A message that cancels the call is read here.
    await nextTurn()
    signal.throwIfAborted()
  }
  return { scores, numTokens }
}
