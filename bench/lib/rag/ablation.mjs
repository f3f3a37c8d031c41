// What each signal of the order is worth, on the half that the weights of src/rag/fusion.ts are chosen on: each left out, halved and doubled.
// Another embedding model may want others: npm run bench -- rag ablation --embedding-model FOLDER [--cache FOLDER]
import { FUSION_WEIGHTS } from '#dist/rag/fusion.js'
import { table } from './common.mjs'
import { measureWeights, openYardstick } from './yardstick.mjs'

const FACTORS = [0, 0.5, 2]

export async function ablation({ scratch, options }) {
  const opened = await openYardstick(scratch, { embeddingModel: options['embedding-model'] ?? null }, options.cache)
  try {
    const kind = options['embedding-model'] === undefined ? 'static' : 'encoder'
    const chosen = FUSION_WEIGHTS[kind]
    /** @type {Record<string, unknown>[]} */
    const rows = [{ signals: 'as chosen', ...chosen, ...(await measureWeights('tune', opened, chosen)) }]
    for (const [signal, weight] of Object.entries(chosen)) {
      for (const factor of weight > 0 ? FACTORS : []) {
        const weights = { ...chosen, [signal]: weight * factor }
        const signals = factor === 0 ? `without ${signal}` : `${signal} × ${factor}`
        rows.push({ signals, ...weights, ...(await measureWeights('tune', opened, weights)) })
      }
    }
    for (const signal of Object.keys(chosen)) {
      const alone = Object.fromEntries(Object.keys(chosen).map((name) => [name, Number(name === signal)]))
      rows.push({ signals: `${signal} alone`, ...alone, ...(await measureWeights('tune', opened, alone)) })
    }
    table(`Signals of ${opened.rag.embedder.name}, tuning half`, rows)
    return { embedder: opened.rag.embedder.name, half: 'tune', rows }
  } finally {
    await opened.rag.close()
  }
}
