/** An inverted index scored by Okapi BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009). Rows are chunks. */
import { analyze } from './analyzer.ts'

/** Saturation of term frequency, and how far a row's length counts. The values most engines ship. */
export const BM25_K1 = 1.2
export const BM25_B = 0.75

const REMOVED = -1

/** Postings of a term. Plain arrays of small integers: most terms occur once, where typed arrays would cost 200 bytes each. */
interface Postings {
  /** Row, frequency, row, frequency, ... in ascending rows. */
  readonly entries: number[]
  /** Entries whose row is alive: the document frequency. */
  numLive: number
}

/** Inverse document frequency, never negative. */
export const inverseDocumentFrequency = (numRows: number, documentFrequency: number): number =>
  Math.log(1 + (numRows - documentFrequency + 0.5) / (documentFrequency + 0.5))

/** Terms of a text with their counts. */
export function countTerms(text: string): Map<string, number> {
  const counts = new Map<string, number>()
  for (const term of analyze(text)) counts.set(term, (counts.get(term) ?? 0) + 1)
  return counts
}

export class Bm25Index {
  readonly #postings = new Map<string, Postings>()
  /** Number of terms of a row; REMOVED once removed. */
  readonly #lengths: number[] = []
  #numRows = 0
  #totalLength = 0

  get numRows(): number {
    return this.#numRows
  }

  /** Adds a row. Rows are numbered by the caller and added in ascending order. */
  add(row: number, text: string): void {
    let length = 0
    for (const [term, count] of countTerms(text)) {
      length += count
      let postings = this.#postings.get(term)
      if (!postings) {
        postings = { entries: [], numLive: 0 }
        this.#postings.set(term, postings)
      }
      postings.entries.push(row, count)
      postings.numLive++
    }
    this.#lengths[row] = length
    this.#numRows++
    this.#totalLength += length
  }

  /** Takes a row out of the counts; its postings stay until the index is built anew. `text` is what was added. */
  remove(row: number, text: string): void {
    const length = this.#lengths[row]
    if (length === undefined || length === REMOVED) return
    for (const term of countTerms(text).keys()) {
      const postings = this.#postings.get(term)
      if (postings) postings.numLive--
    }
    this.#lengths[row] = REMOVED
    this.#numRows--
    this.#totalLength -= length
  }

  /**
   * Adds the score of every row that holds a term of the query to `scores` (f32, one per row). Removed rows are not skipped:
   * the caller knows which rows are alive.
   * @returns the score of a row of mean length with every term of the query once, terms that no row has included; 0 without terms.
   */
  score(query: string, scores: Float32Array): number {
    let whole = 0
    const meanLength = this.#numRows === 0 ? 1 : Math.max(1, this.#totalLength / this.#numRows)
    for (const [term, weight] of countTerms(query)) {
      const postings = this.#postings.get(term)
      const idf = inverseDocumentFrequency(this.#numRows, postings?.numLive ?? 0) * weight
      whole += idf
      if (!postings || postings.numLive === 0) continue
      const { entries } = postings
      for (let i = 0; i < entries.length; i += 2) {
        const row = entries[i] ?? 0
        const frequency = entries[i + 1] ?? 0
        const norm = BM25_K1 * (1 - BM25_B + (BM25_B * (this.#lengths[row] ?? 0)) / meanLength)
        scores[row] = (scores[row] ?? 0) + (idf * frequency * (BM25_K1 + 1)) / (frequency + norm)
      }
    }
    return whole
  }
}
