// Recall@5 and MRR of each way to search, by the product's own code, over the hand-written evaluation questions.
import { FUSION_WEIGHTS } from '../../dist/rag/fusion.js'
import { evaluate, readSplit, SYSTEMS } from '../../experiments/models/retrieval/signals.mjs'
import { openModels, table } from './common.mjs'

const show = ([value, low, high]) => `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`

export async function quality() {
  const models = openModels()
  try {
    const measured = await evaluate(readSplit('eval'), models)
    table(
      'Quality: hand-written questions over documents that were not trained on',
      Object.keys(SYSTEMS).flatMap((system) =>
        Object.entries(measured.results).map(([kind, rows]) => ({
          system,
          questions: kind,
          'recall@5': show(rows[system]['recall@5']),
          MRR: show(rows[system].mrr),
        })),
      ),
    )
    for (const [kind, difference] of Object.entries(measured.fusedMinusBm25)) {
      console.log(`MRR of all fused minus BM25's, ${kind}: ${show(difference)}`)
    }
    return { weights: FUSION_WEIGHTS, ...measured }
  } finally {
    await models.close()
  }
}
