/** A caller's texts as vectors; their lengths are first checked against what the model reads. */
import { stage } from '../observability/context.ts'
import { untilAborted } from './shared-work.ts'
import type { Embedder, Embeddings } from './embedder.ts'
import { RagError } from './errors.ts'

/** Embed texts, as the span embed.query. @throws RagError context_length_exceeded naming a text that is too long for the model. */
export function embedTexts(embedder: Embedder, texts: readonly string[], signal?: AbortSignal): Promise<Embeddings> {
  return stage('embed.query', { 'rag.embed.model': embedder.name }, async (span) => {
    const { maxTokens, dimensions } = await untilAborted(embedder.load(), signal)
    span.set({ 'rag.embed.dimensions': dimensions })
    refuseLong(texts, maxTokens)
    const counts = await embedder.countTokens(texts, signal && { signal })
    const tooLong = counts.findIndex((count) => count + 2 > maxTokens)
    if (tooLong >= 0) {
      const param = texts.length > 1 ? `input.${tooLong}` : 'input'
      throw new RagError(
        'context_length_exceeded',
        `${param}: expected at most ${maxTokens - 2} tokens, found ${counts[tooLong] ?? 0}`,
        param,
      )
    }
    return embedder.embed(texts, { role: 'plain', isBulk: texts.length > 1, ...(signal && { signal }) })
  })
}

/** UTF-16 units of a text for each token of the model, at most: longer texts are not even tokenized, for that would take others' time. */
const MAX_CHARS_PER_TOKEN = 32

function refuseLong(texts: readonly string[], maxTokens: number): void {
  const at = texts.findIndex(({ length }) => length > maxTokens * MAX_CHARS_PER_TOKEN)
  if (at < 0) return
  const param = texts.length > 1 ? `input.${at}` : 'input'
  throw new RagError(
    'context_length_exceeded',
    `${param}: expected at most ${maxTokens - 2} tokens, found a text of ${texts[at]?.length ?? 0} characters`,
    param,
  )
}
