/** Relevance without a cross-encoder, for POST /v1/rerank: the similarity of the embeddings, and the words that text and query share. */
import { analyze } from './analyzer.ts'
import type { Embedder } from './embedder.ts'
import type { FusionWeights } from './fusion.ts'
import { contextualText } from './chunk.ts'
import type { Reranker } from './reranker.ts'
import { Slice } from './slice.ts'

/**
 * A reranker over an embedding model. The relevance of a document is the weighted mean of its cosine similarity and of the share of the query's
 * words in it. A search already uses both, so this reranker is of no use after one.
 */
export function createHybridReranker(
  embedder: Embedder,
  { vector, text }: Pick<FusionWeights, 'vector' | 'text'>,
): Reranker {
  return {
    name: `${embedder.name}-hybrid`,
    numCandidates: 50,
    isShown: true,
    async load() {
      await embedder.load()
      return { msPerPair: 0 }
    },
    async rerank(query, passages, { signal } = {}) {
      const documents = passages.map(contextualText)
      const asked = await embedder.embed([query], { role: 'query', signal })
      const found = await embedder.embed(documents, { role: 'document', signal })
      const shares = await sharesOf(query, documents)
      const dimensions = asked.vectors.length
      const scores = Float32Array.from(documents, (_, row) => {
        let cosine = 0
        for (let i = 0; i < dimensions; i++) {
          cosine += (asked.vectors[i] ?? 0) * (found.vectors[row * dimensions + i] ?? 0)
        }
        return (vector * Math.max(0, Math.min(1, cosine)) + text * (shares[row] ?? 0)) / (vector + text)
      })
      const numTokens = (asked.numTokens[0] ?? 0) * documents.length + found.numTokens.reduce((sum, n) => sum + n, 0)
      return { scores, numTokens }
    },
  }
}

/** The share of the query's words in each document, 0..1, independent of the other documents; 0 for a query without words. */
async function sharesOf(query: string, documents: readonly string[]): Promise<number[]> {
  const slice = new Slice()
  const asked = await termsOf(query, slice)
  const shares: number[] = []
  for (const text of documents) {
    let numShared = 0
    if (asked.size > 0) for (const term of await termsOf(text, slice)) if (asked.has(term)) numShared += 1
    shares.push(asked.size > 0 ? numShared / asked.size : 0)
    if (slice.isOver) await slice.end()
  }
  return shares
}

/** UTF-16 units analysed at a time. */
const PIECE_CHARACTERS = 16 * 1024

/** The terms of a text of any length. Words longer than a piece may be cut. */
async function termsOf(text: string, slice: Slice): Promise<ReadonlySet<string>> {
  const terms = new Set<string>()
  for (let at = 0; at < text.length;) {
    const space = text.slice(at + PIECE_CHARACTERS, at + 2 * PIECE_CHARACTERS).search(/\s/)
    const end = at + PIECE_CHARACTERS + Math.max(0, space)
    for (const term of analyze(text.slice(at, end))) terms.add(term)
    at = end
    if (slice.isOver) await slice.end()
  }
  return terms
}
