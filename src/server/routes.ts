/** The route patterns by path, known before routing: the root span opens before any handler is chosen. */

export type RouteKind = 'generation' | 'retrieval' | 'other'

export interface RouteInfo {
  readonly route: string
  readonly kind: RouteKind
  /** Prefix of the response id. */
  readonly idPrefix: string
}

const PATTERNS: readonly (readonly [method: string, pattern: RegExp, info: RouteInfo])[] = [
  ['POST', /^\/v1\/completions$/, { route: '/v1/completions', kind: 'generation', idPrefix: 'cmpl' }],
  ['POST', /^\/v1\/chat\/completions$/, { route: '/v1/chat/completions', kind: 'generation', idPrefix: 'chatcmpl' }],
  ['POST', /^\/v1\/responses$/, { route: '/v1/responses', kind: 'generation', idPrefix: 'resp' }],
  ['GET', /^\/v1\/responses\/[^/]+$/, { route: '/v1/responses/{id}', kind: 'other', idPrefix: 'req' }],
  ['DELETE', /^\/v1\/responses\/[^/]+$/, { route: '/v1/responses/{id}', kind: 'other', idPrefix: 'req' }],
  ['POST', /^\/v1\/messages$/, { route: '/v1/messages', kind: 'generation', idPrefix: 'msg' }],
  ['POST', /^\/v1\/messages\/count_tokens$/, { route: '/v1/messages/count_tokens', kind: 'other', idPrefix: 'req' }],
  ['POST', /^\/v1\/embeddings$/, { route: '/v1/embeddings', kind: 'retrieval', idPrefix: 'embd' }],
  ['POST', /^\/v1\/rerank$/, { route: '/v1/rerank', kind: 'retrieval', idPrefix: 'rerank' }],
  ['POST', /^\/v1\/rag\/documents$/, { route: '/v1/rag/documents', kind: 'retrieval', idPrefix: 'rag' }],
  ['GET', /^\/v1\/rag\/documents\/.+$/, { route: '/v1/rag/documents/{id}', kind: 'retrieval', idPrefix: 'rag' }],
  ['DELETE', /^\/v1\/rag\/documents\/.+$/, { route: '/v1/rag/documents/{id}', kind: 'retrieval', idPrefix: 'rag' }],
  ['GET', /^\/v1\/rag\/indexes$/, { route: '/v1/rag/indexes', kind: 'retrieval', idPrefix: 'rag' }],
  ['DELETE', /^\/v1\/rag\/indexes\/[^/]+$/, { route: '/v1/rag/indexes/{name}', kind: 'retrieval', idPrefix: 'rag' }],
  ['POST', /^\/mcp$/, { route: '/mcp', kind: 'retrieval', idPrefix: 'mcp' }],
  ['POST', /^\/v1\/rag\/query$/, { route: '/v1/rag/query', kind: 'retrieval', idPrefix: 'rag' }],
]

export function routeOf(method: string, path: string): RouteInfo {
  const found = PATTERNS.find(([verb, pattern]) => verb === method && pattern.test(path))
  return found?.[2] ?? { route: path, kind: 'other', idPrefix: 'req' }
}
