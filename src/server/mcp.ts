/**
 * POST /mcp: retrieval as tools of the Model Context Protocol (https://modelcontextprotocol.io, streamable HTTP). There are no sessions: each
 * request gets its own server object and one JSON body. Keys and limits apply as on every other route.
 */
import { z } from 'zod'
import { RagError } from '../rag/errors.ts'
import type { RagService } from '../rag/service.ts'
import { readJson } from './body.ts'
import { ApiError, unlessGone } from './errors.ts'
import { handlersOf } from './router.ts'

const index = z.string().optional().describe('Name of the index. The default index when left out.')

/** The result of a tool: as text for the model, and as data for programs. */
const toolResult = (data: Record<string, unknown>) => ({
  content: [{ type: 'text' as const, text: JSON.stringify(data) }],
  structuredContent: data,
})

/** Runs a tool. Known errors become a result that describes them; other errors fail the request. */
async function runTool(run: () => Promise<Record<string, unknown>>) {
  try {
    return toolResult(await run())
  } catch (error) {
    if (!(error instanceof RagError) && !(error instanceof ApiError)) throw error
    return { content: [{ type: 'text' as const, text: error.message }], isError: true }
  }
}

async function createServer(rag: ReturnType<RagService['as']>, version: string, signal: AbortSignal) {
  // Loaded by the first request, because most servers never get one.
  const { McpServer } = await import('@modelcontextprotocol/sdk/server/mcp.js')
  const server = new McpServer({ name: 'miniserve', version })
  server.registerTool(
    'search_documents',
    {
      title: 'Search documents',
      description: 'Finds the passages of the indexed documents that answer a question best.',
      inputSchema: {
        query: z.string().min(1).describe('What to look for, as a question or in keywords.'),
        index,
        top_n: z.int().min(1).max(50).optional().describe('How many passages to return.'),
      },
      annotations: { readOnlyHint: true },
    },
    ({ query, index: name, top_n: topN }) =>
      runTool(async () => {
        const found = await unlessGone(signal, rag.query({ query, index: name, top_n: topN }, signal))
        return { index: found.index, documents: found.documents }
      }),
  )
  server.registerTool(
    'list_indexes',
    {
      title: 'List indexes',
      description: 'Lists the document indexes of this server with their sizes.',
      inputSchema: {},
      annotations: { readOnlyHint: true },
    },
    () =>
      runTool(async () => ({
        default: rag.defaultIndex,
        indexes: (await rag.listIndexes()).map(({ name, numDocuments, numChunks }) => ({
          name,
          documents: numDocuments,
          chunks: numChunks,
        })),
      })),
  )
  server.registerTool(
    'get_document',
    {
      title: 'Get a document',
      description: 'Returns the whole text of one document by its id, as search_documents names it.',
      inputSchema: { id: z.string().min(1).describe('The id of the document.'), index },
      annotations: { readOnlyHint: true },
    },
    ({ id, index: name }) =>
      runTool(async () => {
        const document = await rag.getDocument(name ?? null, id)
        return {
          id: document.id,
          source: document.source,
          metadata: document.metadata,
          chunks: document.chunks.map(({ text }) => text),
        }
      }),
  )
  return server
}

/** Handler of `/mcp`. */
export const mcpHandlers = (rag: RagService, version: string) =>
  handlersOf({
    callMcp: async (c) => {
      const body = await readJson(c)
      const { WebStandardStreamableHTTPServerTransport } =
        await import('@modelcontextprotocol/sdk/server/webStandardStreamableHttp.js')
      const server = await createServer(rag.as(c.get('caller').indexes), version, c.req.raw.signal)
      const transport = new WebStandardStreamableHTTPServerTransport({ enableJsonResponse: true })
      try {
        await server.connect(transport)
        return await transport.handleRequest(c.req.raw, { parsedBody: body })
      } finally {
        await server.close()
      }
    },
  })
