/** POST /v1/embeddings in OpenAI's format. */
import { stage } from '../observability/context.ts'
import { untilAborted } from '../promises.ts'
import { RagError } from '../rag/errors.ts'
import type { LoadedEmbedder } from '../rag/model-api.ts'
import type { RagService } from '../rag/service.ts'
import { invalidRequest, modelNotFound, unlessGone } from './errors.ts'
import { readBody } from './body.ts'
import { JSON_HEADERS, toJson } from './large-json.ts'
import { handlersOf } from './router.ts'
import { embeddingsRequest } from './wire-rag.ts'
import { textContent } from './captured-content.ts'

/** Handler of `/v1/embeddings`. */
export function embeddingHandlers(rag: RagService) {
  return handlersOf({
    createEmbeddings: async (c) => {
      const body = await readBody(c, embeddingsRequest)
      if (body.model !== undefined && body.model !== rag.embedder.name) {
        throw modelNotFound(`the embedding model is "${rag.embedder.name}"`)
      }
      const trace = c.get('trace')
      trace.setGeneration({ operation: 'embeddings', model: rag.embedder.name })
      const { signal } = c.req.raw
      const loaded = await unlessGone(signal, untilAborted(rag.embedder.load(), signal))
      const { dimensions } = loaded
      const length = body.dimensions ?? dimensions
      if (length > dimensions) {
        throw invalidRequest(`dimensions: expected at most the model's ${dimensions}, found ${length}`, 'dimensions')
      }
      const texts = await toTexts(body.input, rag)
      if (trace.capturesContent) trace.setContent(textContent(texts))
      const { vectors, numTokens } = await unlessGone(signal, embed(rag, texts, loaded, signal))
      const promptTokens = numTokens.reduce((sum, count) => sum + count, 0)
      trace.set({ 'gen_ai.usage.input_tokens': promptTokens })
      const answer = {
        object: 'list',
        data: texts.map((_, index) => {
          const vector = shorten(vectors.subarray(index * dimensions, (index + 1) * dimensions), length)
          return {
            object: 'embedding',
            index,
            embedding: body.encoding_format === 'base64' ? toBase64(vector) : [...vector],
          }
        }),
        model: rag.embedder.name,
        usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
      }
      return c.body(await toJson(answer), 200, JSON_HEADERS)
    },
  })
}

/** Token ids are those of the embedding model's tokenizer; they are decoded to text. */
async function toTexts(
  input: string | readonly string[] | readonly number[] | readonly (readonly number[])[],
  rag: RagService,
): Promise<readonly string[]> {
  if (typeof input === 'string') return [input]
  const strings = input.filter((item) => typeof item === 'string')
  if (strings.length === input.length) return strings
  const numbers = input.filter((item) => typeof item === 'number')
  const lists = numbers.length > 0 ? [numbers] : input.filter((item) => typeof item === 'object')
  const texts = await rag.embedder.decode(lists)
  return texts.map((text, i) => {
    if (text !== null && text !== '') return text
    const param = numbers.length > 0 ? 'input' : `input.${i}`
    throw invalidRequest(`${param}: expected token ids of the embedding model's vocabulary that decode to text`, param)
  })
}

/** UTF-16 units of a text per token that the model reads. A longer text is not even tokenized, which would hold up other calls. */
const MAX_CHARS_PER_TOKEN = 32

/** Embeds texts, as the span embed.query. @throws RagError context_length_exceeded naming a text that is too long for the model */
const embed = (
  { embedder }: RagService,
  texts: readonly string[],
  { maxTokens, dimensions }: LoadedEmbedder,
  signal: AbortSignal,
) =>
  stage('embed.query', { 'rag.embed.model': embedder.name, 'rag.embed.dimensions': dimensions }, async () => {
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

/** The first values of a vector, normalised again. Meant for models that are trained for it (Matryoshka). */
function shorten(vector: Float32Array, length: number): Float32Array {
  if (length === vector.length) return vector
  const short = vector.slice(0, length)
  const norm = Math.hypot(...short)
  return norm > 0 ? short.map((value) => value / norm) : short
}

/** f32, little-endian. */
const toBase64 = (vector: Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')
