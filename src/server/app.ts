/** createApp(parts): the Hono application with its middleware and routes. Knows no sockets: `app.request(path)` tests it. */
import { Hono } from 'hono'
import type { Observability } from '../observability/observability.ts'
import type { EventLoopWatch } from '../observability/event-loop-watch.ts'
import type { RagService } from '../rag/service.ts'
import { createAdmission } from './admission.ts'
import { chatRoutes } from './chat.ts'
import { generationRoutes } from './completions.ts'
import { embeddingRoutes } from './embeddings.ts'
import type { AppEnv } from './env.ts'
import { ApiError } from './errors.ts'
import type { Keys } from './keys.ts'
import { mcpRoutes } from './mcp.ts'
import { messagesRoutes } from './messages/routes.ts'
import {
  admit,
  allowOrigins,
  limitConnection,
  refuseDotSegments,
  renderError,
  requestTrace,
  requireKey,
} from './middleware.ts'
import { CORE_ROUTES } from './openapi.ts'
import { requireOwnOrigin } from './origin.ts'
import { probeRoutes } from './probes.ts'
import { ragRoutes } from './rag.ts'
import { responsesRoutes } from './responses/routes.ts'
import { rerankRoutes } from './rerank.ts'
import { sessionRoutes } from './session.ts'
import type { ServerState } from './state.ts'
import { tokenizeRoutes } from './tokenize.ts'
import { traceRoutes } from './traces.ts'
import { RAG_ROUTES } from './wire-rag.ts'

export interface AppParts {
  readonly state: ServerState
  readonly observability: Observability
  readonly keys: Keys
  /** null: no retrieval on this server. */
  readonly rag: RagService | null
  /** null: nobody watches the event loop. */
  readonly watch?: EventLoopWatch | null
  readonly version: string
  readonly revision: string | null
  readonly settings: {
    /** The address the server listens on; left out where there is no socket. */
    readonly host?: string
    readonly corsOrigins: readonly string[]
    readonly maxQueuedRequests: number
    readonly maxRequestBytes: number
    readonly requestTimeoutMs: number
    readonly defaultSeed: number | null
  }
}

export function createApp(parts: AppParts): Hono<AppEnv> {
  const { state, observability, rag, settings } = parts
  const { maxRequestBytes } = settings
  const admission = createAdmission({
    maxQueuedRequests: settings.maxQueuedRequests,
    maxRequestBytes,
    stats: () => state.stats(),
    state: () => state.phase,
  })
  const app = new Hono<AppEnv>()
  app.onError((error, c) => renderError(error, c))
  app.notFound(() => {
    throw new ApiError('not_found', 'no such route; GET /openapi.json lists them')
  })
  app.use(requestTrace(observability, parts.watch ?? null))
  app.use(refuseDotSegments)
  app.use(limitConnection(admission))
  if (settings.corsOrigins.length > 0) app.use(allowOrigins(settings.corsOrigins))
  app.use(requireKey(parts.keys))
  const isOpen = parts.keys.authenticate(undefined, undefined) !== null
  if (isOpen) app.use(requireOwnOrigin({ corsOrigins: settings.corsOrigins, host: settings.host }))
  app.on(
    'POST',
    ['/v1/completions', '/v1/chat/completions', '/v1/responses', '/v1/messages'],
    admit(admission, 'generation'),
  )
  app.on('POST', ['/v1/embeddings', '/v1/rerank', '/v1/rag/*', '/mcp'], admit(admission, 'retrieval'))
  app.on('POST', ['/tokenize', '/detokenize', '/v1/messages/count_tokens'], admit(admission, 'tokenizer'))
  app.route('/', generationRoutes({ state, rag, ...settings }))
  app.route('/', responsesRoutes({ state, rag, ...settings }))
  app.route('/', messagesRoutes({ state, rag, ...settings }))
  app.route('/', tokenizeRoutes({ state, maxRequestBytes }))
  if (parts.keys.canSignIn) app.route('/', sessionRoutes(parts.keys))
  app.route('/', chatRoutes({ hasRetrieval: rag !== null, canSignIn: parts.keys.canSignIn }))
  app.route('/', traceRoutes({ store: observability.store, canSignIn: parts.keys.canSignIn }))
  app.route(
    '/',
    probeRoutes({
      state,
      version: parts.version,
      revision: parts.revision,
      routes: { ...CORE_ROUTES, ...(rag ? RAG_ROUTES : {}) },
      renderMetrics: (accept, caller) => observability.metrics.render(accept, caller),
    }),
  )
  if (rag) {
    app.route('/', embeddingRoutes({ rag, maxRequestBytes }))
    app.route('/', rerankRoutes({ rag, maxRequestBytes }))
    app.route('/', ragRoutes({ rag, maxRequestBytes }))
    app.route('/', mcpRoutes({ rag, version: parts.version, maxRequestBytes }))
  }
  return app
}
