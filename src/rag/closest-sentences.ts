/** Finds the sentences closest to a question: small language models find an answer more easily in few words. */
import type { Embedder } from './embedder.ts'
import { createHybridReranker } from './hybrid-reranker.ts'
import { SENTENCE_END } from './plain.ts'

/** Sentences that are compared, from the first passage on. */
const MAX_SENTENCES = 100

/** Finds sentences. @returns up to `count`, in the order of the passages @throws as Embedder.embed */
export type SentencePicker = (
  question: string,
  passages: readonly string[],
  count: number,
  signal?: AbortSignal,
) => Promise<readonly string[]>

/** Equal weights: among the sentences of a few passages, words distinguish better than in a whole index. */
const WEIGHTS = { vector: 1, text: 1 }

/** A picker that compares sentences by their embeddings and by their words. */
export function createSentencePicker(embedder: Embedder): SentencePicker {
  const scorer = createHybridReranker(embedder, WEIGHTS)
  return async (question, passages, count, signal) => {
    const sentences = passages.flatMap(sentencesOf).slice(0, MAX_SENTENCES)
    // Repeating all sentences would add nothing.
    if (sentences.length <= count) return []
    const texts = sentences.map((text) => ({ headings: [], text }))
    const { scores } = await scorer.rerank(question, texts, { signal })
    const best = sentences.map((_, i) => i).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    return best
      .slice(0, count)
      .sort((a, b) => a - b)
      .flatMap((i) => sentences[i] ?? [])
  }
}

/** The sentences of a passage; items of lists end without a full stop. */
const sentencesOf = (passage: string): string[] =>
  passage
    .split(/\n\s*\n|\n(?=\s*(?:[-*+•]|\d{1,3}[.)])\s)/)
    .flatMap((paragraph) => {
      const ends = [...paragraph.matchAll(SENTENCE_END)].map(({ index, 0: sign }) => index + sign.length)
      return [0, ...ends].map((from, i) => paragraph.slice(from, ends[i]).trim())
    })
    .filter((sentence) => sentence !== '')
