// The process of crash.test.ts that is killed: puts one document after the other into an index and sends each id once it is stored.
import { LocalMemoryStore } from '../../src/rag/stores/memory-local.ts'

const store = new LocalMemoryStore(process.argv[2])
const index = await store.openOrCreate('killed', { model: 'test', dimensions: 64 })
const { numDocuments } = await index.info()
for (let i = numDocuments; ; i++) {
  const chunks = Array.from({ length: 20 }, (_, chunk) => ({
    chunk,
    text: `chunk ${chunk} of ${i}`,
    headings: [],
    start: 0,
    end: 1,
    numTokens: 4,
  }))
  const vectors = new Float32Array(chunks.length * 64).fill(0.125)
  const id = `d${i}`
  await index.upsert([{ id, source: id, contentHash: id, origin: '', metadata: {}, chunks, vectors }])
  process.send(id)
}
