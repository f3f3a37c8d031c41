// Passages of about 100 words against a question.
import { readSplit } from '../../experiments/models/retrieval/signals.mjs'
import { openModels, percentile, round, table, time } from './common.mjs'

export async function reranking({ isQuick }) {
  const models = openModels()
  try {
    const passages = readSplit('eval').documents.map(({ text }) => text)
    const results = []
    for (const count of [5, 20, 50]) {
      const times = await time(isQuick ? 10 : 50, 3, (i) =>
        models.reranker.rerank(`How are blocks reused, question ${i}?`, passages.slice(0, count)),
      )
      results.push({ candidates: count, p50Ms: round(percentile(times, 0.5)), p99Ms: round(percentile(times, 0.99)) })
    }
    table(
      'Reranking: bundled cross-encoder',
      results.map((row) => ({ candidates: row.candidates, 'p50 (ms)': row.p50Ms, 'p99 (ms)': row.p99Ms })),
    )
    return results
  } finally {
    await models.close()
  }
}
