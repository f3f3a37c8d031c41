/**
 * Every route of the server, one row each. The application registers only these rows. Admission and spans read the row that Hono matched,
 * and /openapi.json is generated from the table. The names are the operation ids.
 */
import { z } from 'zod'
import { TRACE_FORMATS } from '../observability/trace-formats.ts'
import { CONTRACT_LEVELS } from '../observability/contract/span-spec.ts'
import { MAX_ID_LENGTH } from '../rag/vector-index.ts'
import type { RouteKind } from '../observability/root-span.ts'
import type { AdmissionPool } from './admission.ts'
import { countTokensRequest, messagesRequest } from './messages/wire.ts'
import * as answer from './response-bodies.ts'
import { responsesRequest } from './responses/wire.ts'
import { MAX_WAIT_SECONDS, traceQuery } from './trace-query.ts'
import { list } from './validation.ts'
import { chatRequest, completionRequest, detokenizeRequest, tokenizeRequest } from './wire.ts'
import {
  embeddingsRequest,
  indexNameText,
  MAX_INGEST_DOCUMENTS,
  ragDocument,
  ragDocumentsRequest,
  ragQueryRequest,
  rerankRequest,
  scoreRequest,
} from './wire-rag.ts'

export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** In Hono's syntax. */
  readonly path: string
  /** Paths that other servers use for the same route. */
  readonly aliases?: readonly string[]
  readonly summary: string
  readonly tag: 'Generation' | 'Retrieval' | 'Tokenizer' | 'Models' | 'Traces' | 'Pages' | 'Server'
  /** The kind of trace that is recorded; `other`: none. */
  readonly kind?: RouteKind
  /** Prefix of the request's id. */
  readonly idPrefix?: string
  /** The admission pool that counts its requests; absent: it is not admitted, and reads no body. */
  readonly pool?: AdmissionPool
  /** Who may call it without a key even if keys are set: probes (under any host name), or a browser that signs in. */
  readonly openTo?: 'probes' | 'sign-in'
  /** What a signed-in browser may use: a page, which shows the sign-in form first, or a route that pages call. */
  readonly session?: 'page' | 'call'
  /** The format of errors, if it is not OpenAI's. */
  readonly errors?: 'anthropic' | 'protocol'
  readonly query?: z.ZodObject
  readonly body?: z.ZodType
  /** The body is bytes of this media type. */
  readonly bytes?: string
  /** Schema of a line, if the body may also be JSON lines. */
  readonly line?: z.ZodType
  /** Schema of a JSON response, or the media type of another response. */
  readonly answer: z.ZodType | string
  /** When the answer is 202 without a body, if it may be. */
  readonly accepts?: string
  /** Schema of an event's data, if the response may be a stream. */
  readonly event?: z.ZodType
}

const generation = { method: 'POST', tag: 'Generation', kind: 'generation', pool: 'generation' } as const
const index = { tag: 'Retrieval', kind: 'retrieval', idPrefix: 'rag' } as const
const retrieval = { ...index, method: 'POST', pool: 'retrieval' } as const
const tokenizer = { method: 'POST', tag: 'Tokenizer', pool: 'tokenizer' } as const
const get = { method: 'GET' } as const
const traces = { ...get, tag: 'Traces', session: 'call' } as const
const models = { ...get, tag: 'Models' } as const
const remove = { method: 'DELETE' } as const
const page = { tag: 'Pages', answer: 'text/html', session: 'page' } as const
const probe = { ...get, tag: 'Server' } as const
const ofIndex = z.object({ index: indexNameText.optional() })
const waitSeconds = z.coerce.number().int().min(0).max(MAX_WAIT_SECONDS).optional()
const pageNumber = z.coerce.number().int().min(1).optional()
const oneOf = (values: readonly string[]) => z.enum(values).optional()

export const ROUTES = {
  createCompletion: {
    ...generation,
    path: '/v1/completions',
    summary: 'Complete a prompt',
    idPrefix: 'cmpl',
    body: completionRequest,
    answer: answer.completion,
    event: answer.completionChunk,
  },
  createChatCompletion: {
    ...generation,
    path: '/v1/chat/completions',
    summary: 'Answer a conversation',
    session: 'call',
    idPrefix: 'chatcmpl',
    body: chatRequest,
    answer: answer.chatCompletion,
    event: answer.chatChunk,
  },
  createResponse: {
    ...generation,
    path: '/v1/responses',
    summary: 'Create a response and store it for later turns',
    idPrefix: 'resp',
    body: responsesRequest,
    answer: answer.response,
    event: answer.responseEvent,
  },
  getResponse: {
    ...get,
    tag: 'Generation',
    path: '/v1/responses/:id',
    summary: 'Get a stored response',
    answer: answer.response,
  },
  deleteResponse: {
    ...remove,
    tag: 'Generation',
    path: '/v1/responses/:id',
    summary: 'Delete a stored response',
    answer: answer.deletedResponse,
  },
  createMessage: {
    ...generation,
    path: '/v1/messages',
    summary: "Answer a conversation in Anthropic's form",
    idPrefix: 'msg',
    errors: 'anthropic',
    body: messagesRequest,
    answer: answer.message,
    event: answer.messageEvent,
  },
  countMessageTokens: {
    ...tokenizer,
    path: '/v1/messages/count_tokens',
    summary: 'Count the tokens of such a conversation',
    errors: 'anthropic',
    body: countTokensRequest,
    answer: answer.countedTokens,
  },
  tokenize: {
    ...tokenizer,
    path: '/tokenize',
    aliases: ['/v1/tokenize'],
    summary: 'Token ids of a prompt or a conversation',
    body: tokenizeRequest,
    answer: answer.tokenized,
  },
  detokenize: {
    ...tokenizer,
    path: '/detokenize',
    aliases: ['/v1/detokenize'],
    summary: 'Decode token ids',
    body: detokenizeRequest,
    answer: answer.detokenized,
  },
  describeTokenizer: {
    ...get,
    tag: 'Tokenizer',
    path: '/tokenizer_info',
    aliases: ['/v1/tokenizer_info'],
    summary: 'Special tokens and chat template',
    answer: answer.tokenizerInfo,
  },
  listModels: {
    ...models,
    path: '/v1/models',
    summary: 'The served models',
    session: 'call',
    answer: answer.modelList,
  },
  getModel: { ...models, path: '/v1/models/:id{.+}', summary: 'One served model', answer: answer.model },
  createEmbeddings: {
    ...retrieval,
    path: '/v1/embeddings',
    summary: 'Embed texts',
    idPrefix: 'embd',
    body: embeddingsRequest,
    answer: answer.embeddings,
  },
  rerank: {
    ...retrieval,
    path: '/v1/rerank',
    aliases: ['/rerank', '/v2/rerank'],
    summary: 'Rank documents by relevance to a query',
    idPrefix: 'rerank',
    body: rerankRequest,
    answer: answer.reranked,
  },
  score: {
    ...retrieval,
    path: '/v1/score',
    aliases: ['/score'],
    summary: 'Score pairs of texts',
    idPrefix: 'score',
    body: scoreRequest,
    answer: answer.scores,
  },
  putDocuments: {
    ...retrieval,
    path: '/v1/rag/documents',
    summary: 'Add documents to an index, as a list or as JSON lines',
    query: ofIndex,
    body: ragDocumentsRequest.extend({ documents: list(ragDocument, { min: 1, max: MAX_INGEST_DOCUMENTS }) }),
    line: ragDocument,
    answer: answer.ingested,
  },
  putFile: {
    ...retrieval,
    path: '/v1/rag/files',
    summary: 'Add the documents of a file to an index',
    query: ofIndex.extend({ name: z.string().min(1).max(MAX_ID_LENGTH) }),
    session: 'call',
    bytes: 'application/octet-stream',
    answer: answer.ingestedFile,
  },
  getDocument: {
    ...index,
    ...get,
    path: '/v1/rag/documents/:id{.+}',
    summary: 'Get a document and its chunks',
    query: ofIndex,
    answer: answer.document,
  },
  deleteDocument: {
    ...index,
    ...remove,
    path: '/v1/rag/documents/:id{.+}',
    summary: 'Delete a document',
    query: ofIndex,
    answer: answer.deletedDocument,
  },
  listIndexes: {
    ...index,
    ...get,
    path: '/v1/rag/indexes',
    summary: 'The indexes',
    session: 'call',
    answer: answer.indexes,
  },
  deleteIndex: {
    ...index,
    ...remove,
    path: '/v1/rag/indexes/:name',
    summary: 'Delete an index and its documents',
    answer: answer.deletedIndex,
  },
  queryIndex: {
    ...retrieval,
    path: '/v1/rag/query',
    summary: 'Search an index',
    session: 'call',
    body: ragQueryRequest,
    answer: answer.found,
  },
  callMcp: {
    ...retrieval,
    path: '/mcp',
    summary: 'Model Context Protocol, streamable HTTP: search_documents, list_indexes, get_document',
    idPrefix: 'mcp',
    errors: 'protocol',
    body: z.looseObject({}),
    answer: answer.mcp,
    accepts: 'a notification or a response was accepted',
  },
  listTraces: {
    ...traces,
    path: '/v1/traces',
    summary: 'Recent traces',
    query: traceQuery,
    answer: answer.traceList,
  },
  getTrace: {
    ...traces,
    path: '/v1/traces/:traceId',
    summary: 'One trace, as otlp, tempo, grafana or jaeger JSON',
    query: z.object({ format: oneOf(TRACE_FORMATS), page: pageNumber, wait: waitSeconds }),
    answer: answer.trace,
  },
  validateTrace: {
    ...traces,
    path: '/v1/traces/:traceId/validate',
    summary: 'A trace validated against the span contract',
    query: z.object({ level: oneOf(CONTRACT_LEVELS), page: pageNumber, wait: waitSeconds }),
    answer: answer.validation,
  },
  showChat: { ...page, ...get, path: '/', summary: 'The chat page' },
  showSignIn: { ...page, ...get, path: '/traces/sign-in', summary: 'The sign-in form', openTo: 'sign-in' },
  signIn: { ...page, method: 'POST', path: '/traces/sign-in', summary: 'Open a session with a key', openTo: 'sign-in' },
  signOut: { ...page, method: 'POST', path: '/traces/sign-out', summary: 'End the session', openTo: 'sign-in' },
  getAsset: {
    ...get,
    tag: 'Pages',
    path: '/traces/assets/:name',
    summary: 'Styles and scripts of the pages',
    openTo: 'sign-in',
    answer: '*/*',
  },
  showTraces: { ...page, ...get, path: '/traces', summary: 'The page of recent traces', query: traceQuery },
  showTrace: {
    ...page,
    ...get,
    path: '/traces/:traceId',
    summary: 'The waterfall of a trace',
    query: z.object({ page: pageNumber }),
  },
  getHealth: { ...probe, path: '/health', summary: 'The process is alive', openTo: 'probes', answer: answer.health },
  getReadiness: {
    ...probe,
    path: '/ready',
    summary: 'The model is loaded and requests are accepted',
    openTo: 'probes',
    answer: answer.readiness,
  },
  getVersion: { ...probe, path: '/version', summary: 'Version, revision and device', answer: answer.version },
  getOpenApi: { ...probe, path: '/openapi.json', summary: 'This description', answer: answer.openApi },
  getMetrics: { ...probe, path: '/metrics', summary: 'Prometheus metrics', answer: 'text/plain' },
} as const satisfies Record<string, Route>

export type RouteName = keyof typeof ROUTES

/** The path of a route as OpenAPI and spans show it. */
export const patternOf = ({ path }: Route): string => path.replace(/:(\w+)(?:\{[^}]*\})?/g, '{$1}')
