/** An inverted index scored by Okapi BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009). Rows are chunks. */
import { analyze } from './analyzer.ts'
import type { Segment } from './stores/segment.ts'

/** The saturation of a term's frequency, and the influence of a row's length: the usual values. */
export const BM25_K1 = 1.2
export const BM25_B = 0.75

const REMOVED = -1

/** The postings of a term. A plain array of small integers: most terms occur once, and a typed array would cost 200 bytes. */
interface Postings {
  /** Row, frequency, row, frequency, ... by ascending row. */
  readonly entries: number[]
  /** Entries whose row is not removed: the document frequency. */
  numLive: number
}

/** The inverse document frequency; never negative. */
export const inverseDocumentFrequency = (numRows: number, documentFrequency: number): number =>
  Math.log(1 + (numRows - documentFrequency + 0.5) / (documentFrequency + 0.5))

/** The terms of a text with their counts. */
export function countTerms(text: string): Map<string, number> {
  const counts = new Map<string, number>()
  for (const term of analyze(text)) counts.set(term, (counts.get(term) ?? 0) + 1)
  return counts
}

/** The scores of a query's words. */
interface LexicalScores {
  /** By row, including removed rows, which the caller knows. */
  readonly rows: Float32Array
  /** By document: the score of all its rows together, with the inverse document frequencies among rows. */
  readonly documents: Float32Array
  /** The score of a row of mean length that has each term of the query once, including terms that no row has; 0 without terms. */
  readonly whole: number
}

const share = (total: number, count: number): number => (count === 0 ? 1 : Math.max(1, total / count))

/** The BM25 postings of one index. Removed rows keep their number until the index is packed. */
export class Bm25Index {
  readonly #packed: Segment | null
  /** The number of packed postings whose row was removed, by term. */
  readonly #removed = new Map<string, number>()
  readonly #postings = new Map<string, Postings>()
  /** The number of terms by row; REMOVED for a removed row. */
  readonly #lengths: number[] = []
  /** The document of each row. The rows of a document are consecutive. */
  readonly #documents: number[] = []
  /** The number of terms by document. */
  readonly #documentLengths: number[] = []
  #numRows = 0
  #numDocuments = 0
  #totalLength = 0

  /** @param packed the first rows, if any @param documentOf the document of a packed row */
  constructor(packed: Segment | null = null, documentOf: (row: number) => number = () => 0) {
    this.#packed = packed
    for (const [row, length] of packed?.lengths.entries() ?? []) this.#count(row, documentOf(row), length)
  }

  /** The postings added since the index was packed, by term: row, frequency, row, frequency, ... */
  *added(): Generator<readonly [term: string, entries: readonly number[]]> {
    for (const [term, { entries }] of this.#postings) yield [term, entries]
  }

  lengthOf(row: number): number {
    return this.#lengths[row] ?? 0
  }

  /** Adds a row of a document. The caller numbers rows and documents, and adds them in ascending order. */
  add(row: number, document: number, text: string): void {
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
    this.#count(row, document, length)
  }

  #count(row: number, document: number, length: number): void {
    this.#lengths[row] = length
    this.#documents[row] = document
    if (this.#documentLengths[document] === undefined) this.#numDocuments++
    this.#documentLengths[document] = (this.#documentLengths[document] ?? 0) + length
    this.#numRows++
    this.#totalLength += length
  }

  /** Removes the rows of a document from the counts. Their postings stay until the index is packed. @param texts the texts that were added */
  remove(firstRow: number, texts: readonly string[]): void {
    let numRemoved = 0
    for (const [i, text] of texts.entries()) {
      const length = this.#lengths[firstRow + i]
      if (length === undefined || length === REMOVED) continue
      const isPacked = firstRow + i < (this.#packed?.lengths.length ?? 0)
      for (const term of countTerms(text).keys()) {
        const postings = this.#postings.get(term)
        if (isPacked) this.#removed.set(term, (this.#removed.get(term) ?? 0) + 1)
        else if (postings) postings.numLive--
      }
      this.#lengths[firstRow + i] = REMOVED
      numRemoved++
      this.#totalLength -= length
    }
    this.#numRows -= numRemoved
    if (numRemoved > 0) this.#numDocuments--
  }

  /** Scores every row and document that has a term of the query. */
  score(query: string): LexicalScores {
    const rows = new Float32Array(this.#lengths.length)
    const documents = new Float32Array(this.#documentLengths.length)
    let whole = 0
    const meanLength = share(this.#totalLength, this.#numRows)
    const meanDocument = share(this.#totalLength, this.#numDocuments)
    const saturated = (frequency: number, length: number): number =>
      (frequency * (BM25_K1 + 1)) / (frequency + BM25_K1 * (1 - BM25_B + BM25_B * length))
    for (const [term, weight] of countTerms(query)) {
      const packed = this.#packed?.postings(term)
      const postings = this.#postings.get(term)
      const numPacked = (packed?.rows.length ?? 0) - (this.#removed.get(term) ?? 0)
      const numLive = numPacked + (postings?.numLive ?? 0)
      const idf = inverseDocumentFrequency(this.#numRows, numLive) * weight
      whole += idf
      if (numLive === 0) continue
      let document = -1
      let ofDocument = 0
      const addDocument = (): void => {
        if (ofDocument === 0) return
        const length = (this.#documentLengths[document] ?? 0) / meanDocument
        documents[document] = (documents[document] ?? 0) + idf * saturated(ofDocument, length)
        ofDocument = 0
      }
      const add = (row: number, frequency: number): void => {
        const length = this.#lengths[row] ?? 0
        rows[row] = (rows[row] ?? 0) + idf * saturated(frequency, length / meanLength)
        if (this.#documents[row] !== document) {
          addDocument()
          document = this.#documents[row] ?? -1
        }
        ofDocument += frequency
      }
      if (packed) for (let i = 0; i < packed.rows.length; i++) add(packed.rows[i] ?? 0, packed.frequencies[i] ?? 0)
      const entries = postings?.entries ?? []
      for (let i = 0; i < entries.length; i += 2) add(entries[i] ?? 0, entries[i + 1] ?? 0)
      addDocument()
    }
    return { rows, documents, whole }
  }
}
