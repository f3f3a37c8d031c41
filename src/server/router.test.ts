/** The table of routes, and requests outside it: an error names the allowed methods, or the path that was probably meant. */
import { Hono } from 'hono'
import { describe, expect, it } from 'vitest'
import type { AppEnv } from './env.ts'
import { ApiError, toErrorBody } from './errors.ts'
import { type Handlers, registerRoutes, routeOf } from './router.ts'
import { patternOf, type Route, type RouteName, ROUTES } from './routes.ts'

const names = Object.keys(ROUTES) as RouteName[]

it('every route that takes a body is admitted before it is read, but for the sign-in form', () => {
  const takesBody = names.filter((name) => {
    const route: Route = ROUTES[name]
    return route.method === 'POST' && route.openTo !== 'sign-in'
  })
  expect(takesBody.length).toBeGreaterThan(10)
  expect(takesBody.filter((name) => (ROUTES[name] as Route).pool === undefined)).toEqual([])
})

function app() {
  const hono = new Hono<AppEnv>()
  hono.onError((error, c) => {
    if (!(error instanceof ApiError)) throw error
    return c.json(toErrorBody(error), error.status, { ...error.headers })
  })
  hono.use(async (c, next) => {
    c.set('route', routeOf(c))
    await next()
  })
  const handlers = Object.fromEntries(
    names.map((name) => [
      name,
      (c: Parameters<Handlers[RouteName]>[0]) => c.json({ name, row: c.get('route') === ROUTES[name] }),
    ]),
  )
  registerRoutes(hono, handlers)
  return hono
}

const ask = async (method: string, path: string) => {
  const response = await app().request(path, { method })
  const text = await response.text()
  return { status: response.status, allow: response.headers.get('allow'), text }
}

it.each(names)('%s is answered by its own handler, and known by its own row before', async (name) => {
  const { method } = ROUTES[name]
  const path = patternOf(ROUTES[name]).replace(/\{\w+\}/g, 'x')
  expect(JSON.parse((await ask(method, path)).text)).toEqual({ name, row: true })
})

it('ids may hold slashes where the table says so', async () => {
  for (const path of ['/v1/models/org/name', '/v1/rag/documents/a/b.md'])
    expect((await ask('GET', path)).status).toBe(200)
})

it.each([
  ['POST', '/v1/responses/resp-1/cancel', /background/],
  ['GET', '/v1/responses/resp-1/input_items', /input items/],
  ['POST', '/v1/responses/input_tokens', /POST \/tokenize/],
  ['POST', '/api/show', /GET \/v1\/models/],
])('%s %s says what this server has instead', async (method, path, hint) => {
  const { status, text } = await ask(method, path)
  expect(status).toBe(501)
  expect(text).toMatch(hint)
})

describe('a method that a path does not have', () => {
  it.each([
    ['GET', '/v1/chat/completions', 'POST, OPTIONS'],
    ['PUT', '/v1/rag/documents/x', 'GET, HEAD, DELETE, OPTIONS'],
    ['PATCH', '/health', 'GET, HEAD, OPTIONS'],
    ['DELETE', '/v1/models', 'GET, HEAD, OPTIONS'],
  ])('%s %s is a 405', async (method, path, allow) => {
    const { status, allow: found, text } = await ask(method, path)
    expect([status, found]).toEqual([405, allow])
    expect(text).toContain(`${method} ${path}: expected ${allow.split(', ')[0]}`)
  })

  it('OPTIONS names them', async () => {
    expect(await ask('OPTIONS', '/v1/completions')).toMatchObject({ status: 204, allow: 'POST, OPTIONS', text: '' })
  })
})

describe('a path that is not there', () => {
  it.each([
    ['POST', '/chat/completions', 'POST /v1/chat/completions'],
    ['POST', '/v1/v1/chat/completions', 'POST /v1/chat/completions'],
    ['POST', '/v1/chat/completions/', 'POST /v1/chat/completions'],
    ['POST', '//v1/completions', 'POST /v1/completions'],
    ['POST', '/api/v1/embeddings', 'POST /v1/embeddings'],
    ['POST', '/openai/v1/completions', 'POST /v1/completions'],
    ['POST', '/V1/Completions', 'POST /v1/completions'],
    ['GET', '/v1/model', 'GET /v1/models'],
    ['GET', '/healthz', 'GET /health'],
  ])('%s %s: did you mean %s?', async (method, path, meant) => {
    const { status, text } = await ask(method, path)
    expect(status).toBe(404)
    expect(text).toContain(`did you mean ${meant}?`)
  })

  it('that is near nothing is named alone, and only what is harmless of it', async () => {
    expect((await ask('GET', '/favicon.ico')).text).toContain(
      '"GET /favicon.ico: no such route; GET /openapi.json lists them"',
    )
    expect((await ask('GET', '/%3Cscript%3E')).text).toContain('"GET of this path: no such route')
  })
})
