/** Finds the row of ROUTES for a request, from Hono's own match, and registers the handlers. */
import type { Context, Hono } from 'hono'
import { matchedRoutes } from 'hono/route'
import type { AppEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { patternOf, type Route, type RouteName, ROUTES } from './routes.ts'

type Handler = (c: Context<AppEnv>) => Response | Promise<Response>
/** The handler of each route. */
export type Handlers = Readonly<Record<RouteName, Handler>>

/** Handlers of some routes. A name that is not in ROUTES does not compile. */
export const handlersOf = <Name extends RouteName>(handlers: Readonly<Record<Name, Handler>>) => handlers

const METHODS = ['GET', 'POST', 'DELETE'] as const
const pathsOf = ({ path, aliases = [] }: Route): readonly string[] => [path, ...aliases]
const byMatch = new Map<string, Route>(
  Object.values(ROUTES).flatMap((route: Route) =>
    pathsOf(route).map((path) => [`${route.method} ${path}`, route] as const),
  ),
)

interface Match {
  readonly method: string
  readonly path: string
}

const rowOf = (matches: readonly Match[]): Route | null => {
  for (const { method, path } of matches) {
    const route = byMatch.get(`${method} ${path}`)
    if (route) return route
  }
  return null
}

/** The row of the request's route; null if no route has its method and path. Also works before the handlers run. */
export const routeOf = (c: Context<AppEnv>): Route | null => rowOf(matchedRoutes(c))

/** Registers the handlers in the order of the table, and the errors for all other paths. */
export function registerRoutes(app: Hono<AppEnv>, handlers: Partial<Handlers>): readonly RouteName[] {
  const names = (Object.keys(ROUTES) as RouteName[]).filter((name) => handlers[name] !== undefined)
  for (const name of names) {
    const route: Route = ROUTES[name]
    const handler = handlers[name]
    if (handler) app.on(route.method, [...pathsOf(route)], handler)
  }
  const methodsOf = (path: string): string[] =>
    METHODS.filter((method) => rowOf(app.router.match(method, path)[0].map((match) => match[0][1])) !== null).flatMap(
      (method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]),
    )
  app.notFound((c) => {
    const methods = methodsOf(c.req.path)
    const allow = [...methods, 'OPTIONS'].join(', ')
    if (methods.length > 0 && c.req.method === 'OPTIONS') return c.body(null, 204, { Allow: allow })
    const elsewhere = ELSEWHERE[c.req.path.replace(/(?<=^\/v1\/responses\/)[^/]+(?=\/)/, '{id}')]
    if (elsewhere !== undefined) throw new ApiError('not_supported', `${shown(c)}: ${elsewhere}`)
    if (methods.length > 0) {
      throw new ApiError('method_not_allowed', `${shown(c)}: expected ${methods.join(' or ')}`, {
        headers: { Allow: allow },
      })
    }
    const near = nearest(c.req.method, c.req.path, names)
    const hint = near === null ? '' : `; did you mean ${near}?`
    throw new ApiError('not_found', `${shown(c)}: no such route${hint}; GET /openapi.json lists them`)
  })
  return names
}

/** Paths of other servers, with a hint for each. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  '/infill': 'this server does not support fill-in-the-middle',
  '/v1/audio/transcriptions': 'this server does not support audio input',
  '/v1/audio/translations': 'this server does not support audio input',
  '/v1/audio/speech': 'this server generates only text',
  '/v1/images/generations': 'this server generates only text',
  '/v1/moderations': 'this server has no moderation model',
  '/v1/files': 'this server keeps no files; POST /v1/rag/documents takes documents',
  '/v1/fine_tuning/jobs': 'this server does not train',
  '/v1/batches': 'this server has no batch files; send the requests themselves',
  '/v1/messages/batches': 'this server has no batches; send the requests themselves',
  '/v1/responses/input_tokens':
    'this server does not count the tokens of a response; POST /tokenize counts those of a chat',
  '/v1/responses/compact': 'this server does not compact conversations',
  '/v1/responses/{id}/input_items': 'this server keeps the output of a response, not its input items',
  '/v1/responses/{id}/cancel': 'this server runs no responses in the background; closing the connection cancels one',
  '/v1/conversations': 'this server keeps no conversations; previous_response_id continues one',
  '/v1/vector_stores': 'expected POST /v1/rag/documents',
  '/v1/assistants': 'this server has no assistants; POST /v1/responses has tools and turns',
  '/v1/threads': 'this server has no threads; POST /v1/responses has tools and turns',
  '/completion': 'expected POST /v1/completions',
  '/api/chat': 'expected POST /v1/chat/completions; this server speaks OpenAI’s API, not Ollama’s',
  '/api/generate': 'expected POST /v1/completions; this server speaks OpenAI’s API, not Ollama’s',
  '/api/embed': 'expected POST /v1/embeddings; this server speaks OpenAI’s API, not Ollama’s',
  '/api/embeddings': 'expected POST /v1/embeddings; this server speaks OpenAI’s API, not Ollama’s',
  '/api/show': 'expected GET /v1/models; this server speaks OpenAI’s API, not Ollama’s',
  '/api/tags': 'expected GET /v1/models; this server speaks OpenAI’s API, not Ollama’s',
}

/** The request's method and path, if they are harmless to repeat. */
const shown = (c: Context<AppEnv>): string =>
  `${/^[A-Z]{1,16}$/.test(c.req.method) ? c.req.method : 'this method'} ${/^\/[\w./-]{0,127}$/.test(c.req.path) ? c.req.path : 'of this path'}`

/** Paths with more edits between them are not similar. */
const MAX_EDITS = 3

/** The route that a path was probably meant to be: its prefix is missing, doubled or another server's, or it has a typing error. */
function nearest(method: string, path: string, names: readonly RouteName[]): string | null {
  const tidied = path
    .toLowerCase()
    .replace(/\/{2,}/g, '/')
    .replace(/(.)\/$/, '$1')
    .slice(0, 128)
  const bare = tidied.replace(/^(?:\/(?:api|openai|v\d|v1beta))+(?=\/)/, '')
  const candidates = new Set([tidied, bare, `/v1${bare}`])
  let best: { readonly text: string; readonly edits: number } | null = null
  for (const name of names) {
    const route: Route = ROUTES[name]
    const pattern = patternOf(route)
    if (route.tag === 'Pages') continue
    for (const candidate of candidates) {
      const edits = numEdits(candidate, pattern) + (route.method === method ? 0 : 0.5)
      if (edits <= MAX_EDITS && (best === null || edits < best.edits))
        best = { text: `${route.method} ${pattern}`, edits }
    }
  }
  return best?.text ?? null
}

/** Levenshtein distance. */
function numEdits(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > MAX_EDITS) return Infinity
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      )
    }
    row = next
  }
  return row[b.length] ?? Infinity
}
