/** The sentences of passages that are closest to a question: small language models find the answer sooner in few words. */
import type { Embedder } from './embedder.ts'
import { createHybridReranker } from './hybrid-reranker.ts'
import { SENTENCE_END } from './sentences.ts'

/** Sentences that are compared, at most, from the first passage on. */
const MAX_SENTENCES = 100

/** Finds sentences. @returns as many as there are, `count` at most, in the order of the passages. @throws as Embedder.embed */
export type SentencePicker = (
  question: string,
  passages: readonly string[],
  count: number,
  signal?: AbortSignal,
) => Promise<readonly string[]>

/** By meaning and by words alike: of single sentences of the right passage, the words tell more than they do of a whole index. */
const WEIGHTS = { vector: 1, text: 1 }

/** A picker that compares by an embedding model and by words. */
export function createSentencePicker(embedder: Embedder): SentencePicker {
  const scorer = createHybridReranker(embedder, WEIGHTS)
  return async (question, passages, count, signal) => {
    const sentences = passages.flatMap(sentencesOf).slice(0, MAX_SENTENCES)
    // All there is would only be said twice.
    if (sentences.length <= count) return []
    const texts = sentences.map((text) => ({ headings: [], text }))
    const { scores } = await scorer.rerank(question, texts, signal && { signal })
    const best = sentences.map((_, i) => i).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    return best
      .slice(0, count)
      .sort((a, b) => a - b)
      .flatMap((i) => sentences[i] ?? [])
  }
}

/** Sentences of paragraphs; lines of lists and tables end without a full stop. */
const sentencesOf = (passage: string): string[] =>
  passage
    .split(/\n\s*\n|\n(?=\s*(?:[-*+•]|\d{1,3}[.)])\s)/)
    .flatMap((paragraph) => {
      const ends = [...paragraph.matchAll(SENTENCE_END)].map(({ index, 0: sign }) => index + sign.length)
      return [0, ...ends].map((from, i) => paragraph.slice(from, ends[i]).trim())
    })
    .filter((sentence) => sentence !== '')
