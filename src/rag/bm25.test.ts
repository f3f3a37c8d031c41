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

const scoresOf = (index: Bm25Index, query: string, size: number): number[] => {
  const scores = new Float32Array(size)
  index.score(query, scores)
  return [...scores]
}

describe('Bm25Index', () => {
  it.each(['apple', 'red pie', 'red red barn', 'unknown'])('scores %s by the formula', (query) => {
    const index = new Bm25Index()
    TEXTS.forEach((text, row) => index.add(row, text))
    const scores = scoresOf(index, query, TEXTS.length)
    expectedScores(TEXTS, query).forEach((score, row) => expect(scores[row]).toBeCloseTo(score, 5))
  })

  it('scores after a removal as if the row had never been there', () => {
    const index = new Bm25Index()
    TEXTS.forEach((text, row) => index.add(row, text))
    index.remove(1, TEXTS[1] ?? '')
    index.remove(1, TEXTS[1] ?? '')
    const scores = scoresOf(index, 'apple pie', TEXTS.length)
    const left = expectedScores(
      TEXTS.filter((_, row) => row !== 1),
      'apple pie',
    )
    expect([scores[0], scores[2], scores[3], scores[4]].map((score) => score?.toFixed(5))).toEqual(
      left.map((score) => score.toFixed(5)),
    )
  })
})
