import { describe, expect, it } from 'vitest'
import { analyze } from './analyzer.ts'
import { BM25_B, BM25_K1, Bm25Index, inverseDocumentFrequency } from './bm25.ts'

const TEXTS = [
  'red apple pie',
  'green apple',
  'blue sky over a red red barn door',
  'nothing here',
  'apple apple apple pie pie',
]

/** The formula over all texts, with no index. */
function expectedScores(texts: readonly string[], query: string): number[] {
  const rows = texts.map((text) => analyze(text))
  const meanLength = rows.reduce((sum, terms) => sum + terms.length, 0) / rows.length
  return rows.map((terms) =>
    analyze(query).reduce((sum, term) => {
      const frequency = terms.filter((other) => other === term).length
      const idf = inverseDocumentFrequency(rows.length, rows.filter((row) => row.includes(term)).length)
      const norm = BM25_K1 * (1 - BM25_B + (BM25_B * terms.length) / meanLength)
      return sum + (idf * frequency * (BM25_K1 + 1)) / (frequency + norm)
    }, 0),
  )
}

/** Each text is a document of its own. */
const indexOf = (texts: readonly string[]): Bm25Index => {
  const index = new Bm25Index()
  texts.forEach((text, row) => index.add(row, row, text))
  return index
}

describe('Bm25Index', () => {
  it.each(['apple', 'red pie', 'red red barn', 'unknown'])('scores %s by the formula', (query) => {
    const index = indexOf(TEXTS)
    const scores = index.score(query).rows
    expectedScores(TEXTS, query).forEach((score, row) => expect(scores[row]).toBeCloseTo(score, 5))
  })

  it('scores after a removal as if the row had never been there', () => {
    const index = indexOf(TEXTS)
    index.remove(1, TEXTS.slice(1, 2))
    index.remove(1, TEXTS.slice(1, 2))
    const { rows: scores } = index.score('apple pie')
    const left = expectedScores(
      TEXTS.filter((_, row) => row !== 1),
      'apple pie',
    )
    expect([scores[0], scores[2], scores[3], scores[4]].map((score) => score?.toFixed(5))).toEqual(
      left.map((score) => score.toFixed(5)),
    )
  })

  it('scores a document by all of its rows', () => {
    const index = new Bm25Index()
    const documents = [TEXTS.slice(0, 2), TEXTS.slice(2, 3), TEXTS.slice(3)]
    let row = 0
    for (const [document, texts] of documents.entries()) for (const text of texts) index.add(row++, document, text)
    const lengths = documents.map((texts) => texts.flatMap(analyze).length)
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length
    const idf = inverseDocumentFrequency(TEXTS.length, 3)
    const { documents: scores } = index.score('apple')
    for (const [document, frequency] of [2, 0, 3].entries()) {
      const norm = BM25_K1 * (1 - BM25_B + (BM25_B * (lengths[document] ?? 0)) / mean)
      expect(scores[document]).toBeCloseTo((idf * frequency * (BM25_K1 + 1)) / (frequency + norm), 5)
    }
  })
})
