/** /v1/rag/*: adds, shows and deletes documents, and searches indexes without generating. */
import type { Context } from 'hono'
import { type RagService, retrievedContent } from '../rag/service.ts'
import { isDocumentId } from '../rag/vector-index.ts'
import { type AppEnv, placeOf } from './env.ts'
import { invalidRequest, unlessGone } from './errors.ts'
import { readBody, readBytes, unsupportedMedia } from './body.ts'
import { JSON_LINES_TYPE, readJsonLines } from './json-lines.ts'
import { ingestLines, ingestList, reportingAccepted, type Ingest, type IngestReport } from './rag-documents.ts'
import { handlersOf } from './router.ts'
import { WARNING_HEADER } from './warnings.ts'
import { ragDocumentsRequest, ragQueryRequest } from './wire-rag.ts'

/** Handlers of `/v1/rag/*`. */
export function ragHandlers(service: RagService) {
  /** Retrieval over the caller's indexes. */
  const ragOf = (c: Context<AppEnv>) => service.as(c.get('caller').indexes)
  return handlersOf({
    putDocuments: async (c) => {
      const rag = ragOf(c)
      const { signal } = c.req.raw
      let index: string
      let report: IngestReport
      if (JSON_LINES_TYPE.test(c.req.header('content-type') ?? '')) {
        index = rag.indexName(c.req.query('index') ?? null)
        const lines = readJsonLines(c)
        // A batch is small, so it is completed even if the client disconnects.
        const ingest: Ingest = (documents, onAccepted) => rag.ingestDocuments(index, documents, { onAccepted })
        report = await unlessGone(signal, ingestLines(lines, ingest, signal, placeOf(c).dropped))
      } else {
        const body = await readBody(c, ragDocumentsRequest)
        index = rag.indexName(body.index ?? c.req.query('index') ?? null)
        const ingest: Ingest = (documents, onAccepted) => rag.ingestDocuments(index, documents, { signal, onAccepted })
        report = await unlessGone(signal, ingestList(body.documents, ingest))
      }
      const { accepted, rejected, chunks, numReplaced } = report
      if (numReplaced > 0) {
        const warning = `documents: ${numReplaced} replaced by a later document of the request with the same id`
        c.header(WARNING_HEADER, warning)
      }
      return c.json({ index, accepted, rejected, chunks })
    },
    putFile: async (c) => {
      const rag = ragOf(c)
      const { signal } = c.req.raw
      const index = rag.indexName(c.req.query('index') ?? null)
      if (/^multipart\//i.test(c.req.header('content-type') ?? ''))
        throw unsupportedMedia("Content-Type: expected the file's own bytes as the body, found a form")
      const name = c.req.query('name') ?? ''
      if (!isDocumentId(name)) throw invalidRequest("name: expected a file's name, such as report.pdf", 'name')
      const content = await readBytes(c)
      if (content.byteLength === 0) throw invalidRequest('body: expected the bytes of a file, found none')
      const { accepted, rejected, warnings, chunks } = await reportingAccepted((onAccepted) =>
        unlessGone(signal, rag.ingestFile(index, { name, content }, { signal, onAccepted })),
      )
      return c.json({ index, accepted, rejected, warnings, chunks })
    },
    getDocument: async (c) => {
      const { id, source, metadata, chunks } = await ragOf(c).getDocument(
        c.req.query('index') ?? null,
        documentId(c.req.path),
      )
      return c.json({
        id,
        source,
        metadata,
        chunks: chunks.map(({ numTokens, ...chunk }) => ({ ...chunk, num_tokens: numTokens })),
      })
    },
    deleteDocument: async (c) => {
      const id = documentId(c.req.path)
      await ragOf(c).deleteDocument(c.req.query('index') ?? null, id)
      return c.json({ id, deleted: true })
    },
    listIndexes: async (c) => {
      const indexes = await ragOf(c).listIndexes()
      return c.json({
        default: service.defaultIndex,
        indexes: indexes.map(({ name, owner, model, dimensions, numDocuments, numChunks, bytes, isBundled }) => ({
          name,
          owner,
          model,
          dimensions,
          documents: numDocuments,
          chunks: numChunks,
          bytes,
          bundled: isBundled,
        })),
      })
    },
    deleteIndex: async (c) => {
      const name = c.req.param('name') ?? ''
      await ragOf(c).deleteIndex(name)
      return c.json({ index: name, deleted: true })
    },
    queryIndex: async (c) => {
      const body = await readBody(c, ragQueryRequest)
      if (body.query.trim() === '') throw invalidRequest('query: expected text, found only white space', 'query')
      const { signal } = c.req.raw
      const trace = c.get('trace')
      trace.setGeneration({ operation: 'retrieval', model: service.embedder.name })
      const found = await unlessGone(signal, ragOf(c).query(body, signal))
      trace.set({ 'gen_ai.data_source.id': found.index })
      if (trace.capturesContent) trace.set(retrievedContent(body.query, found.documents))
      return c.json({ index: found.index, reranked: found.isReranked, documents: found.documents })
    },
  })
}

/** The document id in a path. It may contain encoded slashes, which the router would decode. */
function documentId(path: string): string {
  const encoded = path.slice('/v1/rag/documents/'.length)
  try {
    return decodeURIComponent(encoded)
  } catch {
    throw invalidRequest('id: expected a percent-encoded document id', 'id')
  }
}
