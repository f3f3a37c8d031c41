/** POST /v1/rerank: documents by their relevance to a query, in the shape that Cohere, Jina and vLLM share. */
import type { RagService } from '../rag/service.ts'
import { unlessGone } from './disconnect.ts'
import { ApiError } from './errors.ts'
import { readJson } from './body.ts'
import type { Handlers } from './routes.ts'
import { parseBody } from './validation.ts'
import { rerankRequest } from './wire-rag.ts'

export function rerankHandlers({
  rag,
  maxRequestBytes,
}: {
  readonly rag: RagService
  readonly maxRequestBytes: number
}): Pick<Handlers, 'rerank'> {
  return {
    rerank: async (c) => {
      const body = parseBody(rerankRequest, await readJson(c, maxRequestBytes))
      if (body.model !== undefined && body.model !== rag.reranker.name) {
        throw new ApiError('model_not_found', 'model: no reranking model of that name is served', { param: 'model' })
      }
      const { documents, query } = body
      const { signal } = c.req.raw
      const topN = Math.min(body.top_n ?? documents.length, documents.length)
      const { scores, numTokens } = await unlessGone(signal, rag.rerank(query, documents, topN, signal))
      const results = documents
        .map((text, index) => ({
          index,
          relevance_score: scores[index] ?? 0,
          ...(body.return_documents ? { document: { text } } : {}),
        }))
        .toSorted((a, b) => b.relevance_score - a.relevance_score || a.index - b.index)
        .slice(0, topN)
      return c.json({ id: c.get('requestId'), model: rag.reranker.name, results, usage: { total_tokens: numTokens } })
    },
  }
}
