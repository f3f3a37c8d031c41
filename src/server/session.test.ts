import { Hono } from 'hono'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { play, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import type { AppEnv } from './env.ts'
import { createKeys, type Keys } from './keys.ts'
import { renderError, requestTrace, requireKey } from './middleware.ts'
import { sessionHandlers } from './session.ts'
import { FailedAttempts } from './failed-attempts.ts'
import { registerRoutes } from './router.ts'
import { traceHandlers } from './traces.ts'

const secret = Buffer.alloc(32, 7)
const PAGE = { accept: 'text/html', 'sec-fetch-site': 'none' }
const FORM = { 'content-type': 'application/x-www-form-urlencoded', origin: 'http://localhost' }

let observability: TestObservability
let keys: Keys
let traceId: string

function app(known: Keys = keys): Hono<AppEnv> {
  const hono = new Hono<AppEnv>()
  hono.onError(renderError)
  hono.use(requestTrace(observability))
  hono.use(requireKey(known, new FailedAttempts()))
  registerRoutes(hono, { ...sessionHandlers(known), ...traceHandlers({ observability, canSignIn: true }) })
  return hono.post('/v1/completions', (c) => c.json({})).get('/metrics', (c) => c.text(''))
}

beforeEach(async () => {
  observability = testObservability()
  keys = createKeys({ keys: ['alice-key', 'bob-key'], adminKey: 'root-key', secret })
  const keyId = keys.authenticate('Bearer alice-key', undefined)?.keyId ?? ''
  const { trace } = await play(observability, 'formatting', { input: { keyId } })
  trace.finish({ ending: 'success', status: 200 })
  traceId = trace.traceId
})
afterEach(async () => {
  vi.useRealTimers()
  await observability.shutdown(100)
})

const signIn = (key: string, headers: Readonly<Record<string, string>> = FORM, to = `/traces/${traceId}`) =>
  app().request('/traces/sign-in', { method: 'POST', headers, body: new URLSearchParams({ key, to }).toString() })

const cookieOf = (response: Response) => (response.headers.get('set-cookie') ?? '').split(';')[0] ?? ''

describe('signing in', () => {
  it('asks people for a key and programs for a header', async () => {
    const page = await app().request(`/traces/${traceId}`, { headers: PAGE })
    expect(page.status).toBe(401)
    expect(await page.text()).toContain(`value="/traces/${traceId}"`)
    const program = await app().request(`/traces/${traceId}`)
    expect(program.status).toBe(401)
    expect(await program.json()).toMatchObject({ error: { code: 'invalid_api_key' } })
    expect((await app().request('/v1/traces', { headers: PAGE })).headers.get('content-type')).toContain('json')
    expect((await app().request('/traces/assets/traces.css')).status).toBe(200)
  })

  it('gives a cookie that scripts and other sites do not have, and leads on', async () => {
    const response = await signIn('alice-key')
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toBe(`/traces/${traceId}`)
    expect(response.headers.get('set-cookie')).toMatch(
      /^miniserve_session=[0-9a-f]{12}\.\d+\.[\w-]{43}; Max-Age=43200; Path=\/; HttpOnly; SameSite=Strict$/,
    )
    expect(response.headers.get('set-cookie')).not.toContain('alice-key')
    const secure = await signIn('alice-key', { ...FORM, 'x-forwarded-proto': 'https' })
    expect(secure.headers.get('set-cookie')).toContain('Secure')
  })

  it('refuses an unknown key, without repeating it', async () => {
    const response = await signIn('mallory-key')
    expect(response.status).toBe(401)
    expect(response.headers.get('set-cookie')).toBeNull()
    expect(await response.text()).not.toContain('mallory-key')
  })

  it.each(['https://evil.example', '//evil.example', '/traces/../metrics', '/v1/traces', 'javascript:alert(1)', ''])(
    'does not lead to "%s"',
    async (to) => {
      expect((await signIn('alice-key', FORM, to)).headers.get('location')).toBe('/traces')
    },
  )

  it.each<Readonly<Record<string, string>>>([
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: 'http://localhost', 'sec-fetch-site': 'cross-site' },
    { origin: 'http://localhost:3000', 'sec-fetch-site': 'same-site' },
  ])('refuses a form of %j', async (headers) => {
    for (const path of ['/traces/sign-in', '/traces/sign-out']) {
      const response = await app().request(path, {
        method: 'POST',
        headers: { ...FORM, ...headers },
        body: 'key=bob-key',
      })
      expect(response.status).toBe(403)
      expect(response.headers.get('set-cookie')).toBeNull()
    }
  })

  it('refuses a form that is no form', async () => {
    const response = await signIn('x'.repeat(10_000))
    expect(response.status).toBe(413)
  })
})

describe('a session', () => {
  const read = (path: string, cookie: string, known: Keys = keys) =>
    app(known).request(path, { headers: { ...PAGE, cookie } })

  it('reads the traces of its key, as pages and as files', async () => {
    const alice = cookieOf(await signIn('alice-key'))
    expect((await read(`/traces/${traceId}`, alice)).status).toBe(200)
    expect((await read(`/v1/traces/${traceId}?format=otlp`, alice)).status).toBe(200)
    expect(await (await read('/traces', alice)).text()).toContain('Sign out')
    expect((await read(`/traces/${traceId}`, cookieOf(await signIn('bob-key')))).status).toBe(404)
    expect((await read(`/traces/${traceId}`, cookieOf(await signIn('root-key')))).status).toBe(200)
  })

  it('opens nothing else', async () => {
    const cookie = cookieOf(await signIn('alice-key'))
    expect((await read('/metrics', cookie)).status).toBe(401)
    const headers = { cookie, 'content-type': 'application/json' }
    expect((await app().request('/v1/completions', { method: 'POST', headers, body: '{}' })).status).toBe(401)
  })

  it('yields to a key in the headers', async () => {
    const cookie = cookieOf(await signIn('alice-key'))
    const headers = { cookie, authorization: 'Bearer bob-key' }
    expect((await app().request(`/v1/traces/${traceId}`, { headers })).status).toBe(404)
  })

  it('is worth nothing when forged, of another secret, after its time and after its key', async () => {
    const cookie = cookieOf(await signIn('alice-key'))
    const [name = '', value = ''] = cookie.split('=')
    const [id, expires, mac = ''] = value.split('.')
    const flipped = (mac.startsWith('A') ? 'B' : 'A') + mac.slice(1)
    for (const forged of [
      `${id}.${Number(expires) + 1}.${mac}`,
      `${id}.${expires}.${flipped}`,
      `${id}.${expires}.`,
      '',
    ]) {
      expect((await read(`/traces/${traceId}`, `${name}=${forged}`)).status).toBe(401)
    }
    const elsewhere = createKeys({ keys: ['alice-key'], adminKey: null, secret: Buffer.alloc(32, 8) })
    expect((await read(`/traces/${traceId}`, cookie, elsewhere)).status).toBe(401)
    const revoked = createKeys({ keys: ['bob-key'], adminKey: null, secret })
    expect((await read(`/traces/${traceId}`, cookie, revoked)).status).toBe(401)
    expect((await read(`/traces/${traceId}`, cookie)).status).toBe(200)
    vi.useFakeTimers({ now: Number(expires), toFake: ['Date'] })
    expect((await read(`/traces/${traceId}`, cookie)).status).toBe(401)
  })

  it('ends by signing out', async () => {
    const response = await app().request('/traces/sign-out', { method: 'POST', headers: FORM })
    expect(response.status).toBe(303)
    expect(response.headers.get('set-cookie')).toMatch(/^miniserve_session=; Max-Age=0; Path=\//)
  })
})

it('asks a browser that comes from another site to come again from here', async () => {
  for (const site of ['cross-site', 'same-site']) {
    const response = await app().request(`/traces/${traceId}`, { headers: { ...PAGE, 'sec-fetch-site': site } })
    expect(response.status).toBe(200)
    const page = await response.text()
    expect(page).toContain('http-equiv="refresh"')
    expect(page).not.toContain('http.handler')
  }
})
