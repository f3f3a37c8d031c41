/** Documents and vectors made from a seed, for tests of retrieval. */
import type { EmbeddedDocument } from '../../src/rag/vector-index.ts'

/** mulberry32: uniform in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** A document of 1 to 4 chunks with random unit vectors. */
export function syntheticDocument(id: string, dimensions: number, random: () => number): EmbeddedDocument {
  const numChunks = 1 + Math.floor(random() * 4)
  const vectors = new Float32Array(numChunks * dimensions)
  for (let c = 0; c < numChunks; c++) {
    const row = vectors.subarray(c * dimensions, (c + 1) * dimensions)
    row.forEach((_, i) => (row[i] = random() - 0.5))
    const norm = Math.hypot(...row)
    row.forEach((value, i) => (row[i] = value / norm))
  }
  const chunks = Array.from({ length: numChunks }, (_, chunk) => {
    const text = `Part ${chunk} of ${id}, word${Math.floor(random() * 1000)}.`
    const place = { headings: ['Made'], ...(chunk % 2 === 1 && { anchor: `#part-${chunk}` }) }
    return { chunk, text, ...place, start: chunk * 100, end: chunk * 100 + text.length, numTokens: 8 }
  })
  return {
    id,
    source: `${id}.md`,
    contentHash: `${id}-${random()}`,
    origin: '',
    metadata: { group: numChunks },
    chunks,
    vectors,
  }
}
