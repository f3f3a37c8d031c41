/** POST /v1/rerank and /v1/score: the relevance of texts, in the formats that Cohere, Jina and vLLM share. */
import type { RagService } from '../rag/service.ts'
import { readBody } from './body.ts'
import { invalidRequest, modelNotFound, unlessGone } from './errors.ts'
import { JSON_HEADERS, toJson } from './large-json.ts'
import { handlersOf } from './router.ts'
import { rerankRequest, scoreRequest } from './wire-rag.ts'
import { textContent } from './captured-content.ts'

/** Handlers of `/v1/rerank` and `/v1/score`. */
export function rerankHandlers(rag: RagService) {
  const requireModel = (model: string | undefined) => {
    if (model === undefined || model === rag.scorer.name) return
    throw modelNotFound(`the reranking model is "${rag.scorer.name}"`)
  }
  return handlersOf({
    rerank: async (c) => {
      const body = await readBody(c, rerankRequest)
      requireModel(body.model)
      const trace = c.get('trace')
      trace.setGeneration({ operation: 'retrieval', model: rag.scorer.name })
      const { documents, query } = body
      if (trace.capturesContent) trace.setContent(textContent([query]))
      const { signal } = c.req.raw
      const topN = Math.min(body.top_n ?? documents.length, documents.length)
      const { scores, numTokens } = await unlessGone(signal, rag.rerank(query, documents, topN, signal))
      trace.set({ 'gen_ai.usage.input_tokens': numTokens })
      const results = documents
        .map((text, index) => ({
          index,
          relevance_score: scores[index] ?? 0,
          ...(body.return_documents ? { document: { text } } : {}),
        }))
        .toSorted((a, b) => b.relevance_score - a.relevance_score || a.index - b.index)
        .slice(0, topN)
      const answer = { id: c.get('requestId'), model: rag.scorer.name, results, usage: usageOf(numTokens) }
      return c.body(await toJson(answer), 200, JSON_HEADERS)
    },
    score: async (c) => {
      const body = await readBody(c, scoreRequest)
      requireModel(body.model)
      const trace = c.get('trace')
      trace.setGeneration({ operation: 'retrieval', model: rag.scorer.name })
      const { signal } = c.req.raw
      const scores: number[] = []
      let total = 0
      for (const { query, documents } of pairsOf(body.text_1, body.text_2)) {
        const found = await unlessGone(signal, rag.rerank(query, documents, documents.length, signal))
        scores.push(...found.scores)
        total += found.numTokens
      }
      trace.set({ 'gen_ai.usage.input_tokens': total })
      return c.json({
        id: c.get('requestId'),
        object: 'list',
        created: Math.floor(Date.now() / 1000),
        model: rag.scorer.name,
        data: scores.map((score, index) => ({ index, object: 'score', score })),
        usage: usageOf(total),
      })
    },
  })
}

const usageOf = (numTokens: number) => ({ prompt_tokens: numTokens, total_tokens: numTokens })

interface Pairs {
  readonly query: string
  readonly documents: readonly string[]
}

/** @throws ApiError 400 for lists of different lengths. */
function pairsOf(first: string | readonly string[], second: string | readonly string[]): readonly Pairs[] {
  const seconds = typeof second === 'string' ? [second] : second
  const firsts = typeof first === 'string' ? [first] : first
  if (firsts.length === 1) return [{ query: firsts[0] ?? '', documents: seconds }]
  if (firsts.length !== seconds.length) {
    throw invalidRequest(
      `text_2: expected as many texts as text_1 (${firsts.length}), found ${seconds.length}`,
      'text_2',
    )
  }
  return firsts.map((query, i) => ({ query, documents: [seconds[i] ?? ''] }))
}
