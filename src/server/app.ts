/** The Hono application: its middleware and the handlers of all routes. It needs no socket: tests call `app.request(path)`. */
import { Hono } from 'hono'
import type { Observability } from '../observability/observability.ts'
import type { EventLoopWatch } from '../observability/event-loop-watch.ts'
import type { RagService } from '../rag/service.ts'
import { Admission } from './admission.ts'
import { generationHandlers } from './completions.ts'
import { embeddingHandlers } from './embeddings.ts'
import type { AppEnv } from './env.ts'
import { FailedAttempts } from './failed-attempts.ts'
import { KeyPlaces } from './key-places.ts'
import type { Keys } from './keys.ts'
import { mcpHandlers } from './mcp.ts'
import { messagesHandlers } from './messages/routes.ts'
import {
  admit,
  allowOrigins,
  limitConnection,
  refuseDotSegments,
  renderError,
  requestTrace,
  requireKey,
  limitKey,
} from './middleware.ts'
import { openApiDocument } from './openapi.ts'
import { requireOwnOrigin } from './origin.ts'
import { probeHandlers } from './probes.ts'
import { ragHandlers } from './rag.ts'
import { responsesHandlers } from './responses/routes.ts'
import { RateLimits } from './rate-limits.ts'
import { rerankHandlers } from './rerank.ts'
import { type Handlers, registerRoutes } from './router.ts'
import { sessionHandlers } from './session.ts'
import type { ServerState } from './state.ts'
import { tokenizeHandlers } from './tokenize.ts'
import { traceHandlers } from './traces.ts'
import { ChatPage } from './ui/chat-page.tsx'
import { html, visitorOf } from './ui/layout.tsx'

interface AppParts {
  readonly state: ServerState
  readonly observability: Observability
  readonly keys: Keys
  /** null: no retrieval on this server. */
  readonly rag: RagService | null
  /** null: the event loop is not watched. */
  readonly watch?: EventLoopWatch | null
  readonly version: string
  readonly revision: string | null
  readonly settings: {
    /** The address the server listens on; absent without a socket. */
    readonly host?: string
    readonly corsOrigins: readonly string[]
    readonly maxQueuedRequests: number
    readonly maxRequestBytes: number
    readonly requestTimeoutMs: number
    readonly defaultSeed: number | null
    readonly maxNumSeqs: number
  }
}

/** On a server with retrieval. */
type RetrievalRoute =
  | keyof ReturnType<typeof embeddingHandlers>
  | keyof ReturnType<typeof rerankHandlers>
  | keyof ReturnType<typeof ragHandlers>
  | keyof ReturnType<typeof mcpHandlers>
/** On a server with keys. */
type SignInRoute = keyof ReturnType<typeof sessionHandlers>

/** Creates the Hono application: middleware and one handler per row of ROUTES. */
export function createApp(parts: AppParts): Hono<AppEnv> {
  const { state, observability, rag, settings } = parts
  const { maxQueuedRequests, maxRequestBytes } = settings
  const admission = new Admission({
    maxQueuedRequests,
    maxRequestBytes,
    stats: () => state.stats(),
    state: () => state.phase,
  })
  const app = new Hono<AppEnv>()
  app.onError((error, c) => renderError(error, c))
  app.use(requestTrace(observability, parts.watch ?? null))
  app.use(refuseDotSegments)
  app.use(limitConnection(admission))
  if (settings.corsOrigins.length > 0) app.use(allowOrigins(settings.corsOrigins))
  const failures = new FailedAttempts()
  app.use(requireKey(parts.keys, failures))
  const isOpen = parts.keys.authenticate(undefined, undefined) !== null
  if (isOpen) app.use(requireOwnOrigin({ corsOrigins: settings.corsOrigins, host: settings.host }))
  app.use(limitKey(new RateLimits()))
  app.use(admit(admission))
  let document: object = {}
  if (rag) {
    state.alsoServes(rag.embedder.name, '/v1/embeddings')
    state.alsoServes(rag.scorer.name, '/v1/rerank')
  }
  const mostOfKey = settings.maxNumSeqs + Math.floor(maxQueuedRequests / 2)
  const places = parts.keys.hasSeveral ? new KeyPlaces(mostOfKey) : null
  const { canSignIn } = parts.keys
  const generation = { state, rag, places, ...settings }
  const always: Omit<Handlers, RetrievalRoute | SignInRoute> = {
    ...generationHandlers(generation),
    ...responsesHandlers(generation),
    ...messagesHandlers(generation),
    ...tokenizeHandlers(state),
    showChat: (c) => html(c, ChatPage({ visitor: visitorOf(c, canSignIn), hasRetrieval: rag !== null })),
    ...traceHandlers({ observability, canSignIn }),
    ...probeHandlers({
      state,
      version: parts.version,
      revision: parts.revision,
      retrievalModels: rag
        ? [
            { name: rag.embedder.name, kind: 'embedding' },
            { name: rag.scorer.name, kind: 'reranking' },
          ]
        : [],
      describe: () => document,
      renderMetrics: (accept, caller) => observability.metrics.render(accept, caller),
    }),
  }
  const retrieval = rag && {
    ...embeddingHandlers(rag),
    ...rerankHandlers(rag),
    ...ragHandlers(rag),
    ...mcpHandlers(rag, parts.version),
  }
  const names = registerRoutes(app, {
    ...always,
    ...retrieval,
    ...(canSignIn ? sessionHandlers(parts.keys, failures) : {}),
  })
  document = openApiDocument(parts.version, names)
  return app
}
