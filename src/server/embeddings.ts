/** POST /v1/embeddings in OpenAI's format. */
import { untilAborted } from '../promises.ts'
import { embedTexts } from '../rag/embed-texts.ts'
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
      const { dimensions } = await unlessGone(signal, untilAborted(rag.embedder.load(), signal))
      const length = body.dimensions ?? dimensions
      if (length > dimensions) {
        throw invalidRequest(`dimensions: expected at most the model's ${dimensions}, found ${length}`, 'dimensions')
      }
      const texts = await toTexts(body.input, rag)
      if (trace.capturesContent) trace.setContent(textContent(texts))
      const { vectors, numTokens } = await unlessGone(signal, embedTexts(rag.embedder, texts, signal))
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
