// Markdown through cutting, embedding and storing, and how long the main thread stalls meanwhile.
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { ingest } from '#dist/rag/ingest.js'
import { createMemoryStore } from '#dist/rag/stores/memory.js'
import { round } from '../stats.mjs'
import { openModels, syntheticDocuments, table } from './common.mjs'

/** Period of the timer that measures; the histogram counts it. */
const RESOLUTION_MS = 2

async function withLag(work) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  delay.enable()
  const started = performance.now()
  const result = await work()
  const seconds = (performance.now() - started) / 1000
  delay.disable()
  const lagMs = (nanoseconds) => round(Math.max(0, nanoseconds / 1e6 - RESOLUTION_MS))
  return { result, seconds, p99Ms: lagMs(delay.percentile(99)), maxMs: lagMs(delay.max) }
}

export async function ingestion({ isQuick, scratch }) {
  const models = openModels()
  try {
    /** @type {import('#dist/rag/ingest.js').SourceDocument[]} */
    const documents = syntheticDocuments(isQuick ? 40 : 200).map((document) => ({
      ...document,
      source: document.id,
      format: 'markdown',
      metadata: {},
      origin: '',
    }))
    // One of several megabytes, in one paragraph: the cutting must not hold the thread for as long as that takes.
    /** @type {import('#dist/rag/ingest.js').SourceDocument} */
    const giant = {
      ...documents[0],
      id: 'giant.txt',
      format: 'text',
      text: documents.map(({ text }) => text.replaceAll('\n', ' ')).join(' '),
    }
    const { embedder } = models
    const { fingerprint, dimensions } = await embedder.load()
    const store = createMemoryStore(join(scratch, 'ingest'))
    const index = await store.openOrCreate('ingest', { model: fingerprint, dimensions })
    const idle = await withLag(() => sleep(2000))
    const run = await withLag(() => ingest(documents, { index, embedder }))
    const again = await withLag(() => ingest(documents, { index, embedder }))
    const large = await withLag(() => ingest([giant], { index, embedder }))
    await store.close()
    const results = {
      documents: documents.length,
      chunks: run.result.chunks,
      chunksPerSecond: round(run.result.chunks / run.seconds, 1),
      unchangedDocumentsPerSecond: round(again.result.unchanged / again.seconds, 0),
      eventLoopLagP99Ms: run.p99Ms,
      eventLoopLagMaxMs: run.maxMs,
      idleEventLoopLagP99Ms: idle.p99Ms,
      oneLargeDocument: {
        characters: giant.text.length,
        chunks: large.result.chunks,
        chunksPerSecond: round(large.result.chunks / large.seconds, 1),
        eventLoopLagP99Ms: large.p99Ms,
        eventLoopLagMaxMs: large.maxMs,
      },
    }
    table('Ingestion: bundled embedding model, memory store', [
      {
        what: `${documents.length} documents`,
        chunks: results.chunks,
        'chunks/s': results.chunksPerSecond,
        'event loop lag p99 (ms)': run.p99Ms,
        'max (ms)': run.maxMs,
      },
      {
        what: `one of ${giant.text.length} characters`,
        chunks: large.result.chunks,
        'chunks/s': results.oneLargeDocument.chunksPerSecond,
        'event loop lag p99 (ms)': large.p99Ms,
        'max (ms)': large.maxMs,
      },
      { what: 'idle', 'event loop lag p99 (ms)': idle.p99Ms, 'max (ms)': idle.maxMs },
    ])
    console.log(`unchanged documents skipped: ${results.unchangedDocumentsPerSecond} a second`)
    return results
  } finally {
    await models.close()
  }
}
