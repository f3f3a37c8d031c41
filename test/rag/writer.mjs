// The process of crash.test.ts that is killed: puts one version after the other of a few documents, or ever new ones, into an index, and
// sends each id with its version once it is stored.
import { LocalMemoryStore } from '../../src/rag/stores/memory-local.ts'

const [, , folder, numIds, dimensions] = process.argv
const store = new LocalMemoryStore(folder)
const index = await store.openOrCreate('killed', { model: 'test', dimensions: Number(dimensions) })
const summaries = await index.summaries()
const first = summaries.reduce((next, { contentHash }) => Math.max(next, Number(contentHash) + 1), 0)
for (let version = first; ; version++) {
  const chunks = Array.from({ length: 20 }, (_, chunk) => ({
    chunk,
    text: `chunk ${chunk} of ${version}`,
    headings: [],
    start: 0,
    end: 1,
    numTokens: 4,
  }))
  const vectors = new Float32Array(chunks.length * Number(dimensions)).fill(0.125)
  const id = `d${version % Number(numIds)}`
  await index.upsert([{ id, source: id, contentHash: String(version), origin: '', metadata: {}, chunks, vectors }])
  process.send({ id, version })
}
