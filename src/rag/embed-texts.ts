/** Embeds the texts of a request, after checking that the model can read them as a whole. */
import { stage } from '../observability/context.ts'
import type { Embedder, Embeddings } from './embedder.ts'
import { RagError } from './errors.ts'
import { untilAborted } from '../promises.ts'

/** UTF-16 units of a text per token that the model reads. A longer text is not even tokenized, which would hold up other calls. */
const MAX_CHARS_PER_TOKEN = 32

/** Embeds texts, as the span embed.query. @throws RagError context_length_exceeded naming a text that is too long for the model */
export function embedTexts(embedder: Embedder, texts: readonly string[], signal?: AbortSignal): Promise<Embeddings> {
  return stage('embed.query', { 'rag.embed.model': embedder.name }, async (span) => {
    const { maxTokens, dimensions } = await untilAborted(embedder.load(), signal)
    span.set({ 'rag.embed.dimensions': dimensions })
    const refuse = (at: number, found: string): void => {
      if (at < 0) return
      const param = texts.length > 1 ? `input.${at}` : 'input'
      const message = `${param}: expected at most ${maxTokens - 2} tokens, found ${found}`
      throw new RagError('context_length_exceeded', message, param)
    }
    const longest = texts.findIndex(({ length }) => length > maxTokens * MAX_CHARS_PER_TOKEN)
    refuse(longest, `a text of ${texts[longest]?.length ?? 0} characters`)
    const counts = await embedder.countTokens(texts, { signal })
    const tooLong = counts.findIndex((count) => count + 2 > maxTokens)
    refuse(tooLong, `${counts[tooLong] ?? 0}`)
    return embedder.embed(texts, { role: 'plain', isBulk: texts.length > 1, signal })
  })
}
