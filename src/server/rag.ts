/** /v1/rag/*: documents in and out of indexes, and searching them without generating. */
import { Hono } from 'hono'
import { formatOf } from '../rag/files.ts'
import type { Rejection, SourceDocument } from '../rag/ingest.ts'
import type { RagService } from '../rag/service.ts'
import { unlessGone } from './disconnect.ts'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { readJson } from './body.ts'
import { parseBody } from './wire.ts'
import { ragDocument, ragDocumentsRequest, ragQueryRequest } from './wire-rag.ts'

export interface RagRouteParts {
  readonly rag: RagService
  readonly maxRequestBytes: number
}

export function ragRoutes({ rag, maxRequestBytes }: RagRouteParts): Hono<AppEnv> {
  return new Hono<AppEnv>()
    .post('/v1/rag/documents', async (c) => {
      const body = parseBody(ragDocumentsRequest, await readJson(c, maxRequestBytes))
      const { documents, rejected } = checkDocuments(body.documents)
      const { signal } = c.req.raw
      const result = await unlessGone(signal, rag.ingestDocuments(body.index ?? null, documents, signal))
      return c.json({
        index: result.index,
        accepted: result.accepted,
        rejected: [...rejected, ...result.rejected],
        chunks: result.chunks,
      })
    })
    .get('/v1/rag/documents/:id{.+}', async (c) => {
      const { id, source, metadata, chunks } = await rag.getDocument(
        c.req.query('index') ?? null,
        documentId(c.req.path),
      )
      return c.json({
        id,
        source,
        metadata,
        chunks: chunks.map(({ numTokens, ...chunk }) => ({ ...chunk, num_tokens: numTokens })),
      })
    })
    .delete('/v1/rag/documents/:id{.+}', async (c) => {
      const id = documentId(c.req.path)
      await rag.deleteDocument(c.req.query('index') ?? null, id)
      return c.json({ id, deleted: true })
    })
    .get('/v1/rag/indexes', async (c) => {
      const indexes = await rag.listIndexes()
      return c.json({
        default: rag.defaultIndex,
        indexes: indexes.map(({ name, model, dimensions, numDocuments, numChunks, bytes, isBundled }) => ({
          name,
          model,
          dimensions,
          documents: numDocuments,
          chunks: numChunks,
          bytes,
          bundled: isBundled,
        })),
      })
    })
    .post('/v1/rag/query', async (c) => {
      const body = parseBody(ragQueryRequest, await readJson(c, maxRequestBytes))
      const params = {
        topK: body.top_k ?? null,
        topN: body.top_n ?? null,
        minScore: body.min_score ?? null,
        filter: body.filter ?? null,
      }
      const { signal } = c.req.raw
      const found = await unlessGone(signal, rag.query(body.query, body.index ?? null, params, signal))
      return c.json({ index: found.index, reranked: found.isReranked, documents: found.documents })
    })
}

/** The id as it stands in the path: a document's id may hold encoded slashes, which the router's own decoding would tell nothing of. */
function documentId(path: string): string {
  const encoded = path.slice('/v1/rag/documents/'.length)
  try {
    return decodeURIComponent(encoded)
  } catch {
    throw invalidRequest('id: expected a percent-encoded document id', 'id')
  }
}

/** The documents that can be tried, and why the others cannot. */
function checkDocuments(items: readonly unknown[]): {
  readonly documents: SourceDocument[]
  readonly rejected: Rejection[]
} {
  const documents: SourceDocument[] = []
  const rejected: Rejection[] = []
  for (const [i, item] of items.entries()) {
    try {
      const { id, text, source = id, format, metadata = {} } = parseBody(ragDocument, item)
      const named = formatOf(source)
      documents.push({
        id,
        text,
        source,
        format: format ?? (named === null || named === 'jsonl' ? 'text' : named),
        metadata,
        origin: '',
      })
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      rejected.push({ id: idOf(item) ?? `documents.${i}`, reason: error.message })
    }
  }
  return { documents, rejected }
}

const idOf = (item: unknown): string | null =>
  typeof item === 'object' && item !== null && 'id' in item && typeof item.id === 'string' && item.id !== ''
    ? item.id
    : null
