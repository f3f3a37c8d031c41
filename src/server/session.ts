/**
 * Signing in to the trace pages with an API key: a browser sends no Authorization header of its own. The key is shown once, over a form
 * of this server's; from then on it is replaced by a cookie that scripts cannot read, that other sites' pages cannot send (SameSite=Strict),
 * and that opens the pages and what they call. It is sealed with the server's secret, ends with its key or after twelve hours, and is kept
 * nowhere on the server.
 */
import type { Context } from 'hono'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { readChunks } from './body.ts'
import { addressOf, type AppEnv } from './env.ts'
import { FailedAttempts } from './failed-attempts.ts'
import type { Caller, Keys } from './keys.ts'
import { isOwnPage, requireOwnForm } from './origin.ts'
import { handlersOf } from './router.ts'
import { html } from './ui/layout.tsx'
import { OwnNavigationPage, SignInPage } from './ui/sign-in.tsx'

const COOKIE = 'miniserve_session'
const SESSION_SECONDS = 12 * 3600
const MAX_FORM_BYTES = 8192

/** Where a sign-in may lead to: nothing that a link could smuggle in. */
const DESTINATION = /^\/(?:traces(?:\/[0-9a-f]{32})?)?$/

/** The caller of a browser that has signed in; null for other routes, methods, and for programs, which show a key. */
export function sessionOf(c: Context<AppEnv>, keys: Keys): Caller | null {
  if (c.req.header('authorization') !== undefined || c.req.header('x-api-key') !== undefined) return null
  if (!keys.canSignIn || !isOpenToSessions(c)) return null
  const session = getCookie(c, COOKIE)
  const caller = session === undefined ? null : keys.resumeSession(session)
  if (caller) c.set('isSignedIn', true)
  return caller
}

function isOpenToSessions(c: Context<AppEnv>): boolean {
  const route = c.get('route')
  // The cookie comes from this site's pages only; what changes or costs something also has to say that it does.
  return route?.session !== undefined && (route.method === 'GET' || isOwnPage(c))
}

/** The page that a browser gets where a key is needed; null for programs, and for routes that are no pages. */
export async function signInFirst(c: Context<AppEnv>): Promise<Response | null> {
  const isPage = c.req.method === 'GET' && c.get('route')?.session === 'page'
  if (!isPage || !c.req.header('accept')?.includes('text/html')) return null
  // A link on another site leaves the cookie behind: the browser is asked to come again, from here.
  const site = c.req.header('sec-fetch-site')
  if (site === 'cross-site' || site === 'same-site') return html(c, OwnNavigationPage())
  return html(c, SignInPage({ to: destination(c.req.path), isRefused: false }), 401, { 'WWW-Authenticate': 'Bearer' })
}

/** @param failures of keys, by address. */
export function sessionHandlers(keys: Keys, failures = new FailedAttempts()) {
  return handlersOf({
    showSignIn: (c) => html(c, SignInPage({ to: '/traces', isRefused: false })),
    signIn: async (c) => {
      requireOwnForm(c)
      const address = addressOf(c)
      failures.requireFew(address)
      const chunks: Uint8Array[] = []
      for await (const chunk of readChunks(c, MAX_FORM_BYTES)) chunks.push(chunk)
      const form = new URLSearchParams(Buffer.concat(chunks).toString('utf8'))
      const to = destination(form.get('to') ?? '')
      const session = keys.openSession((form.get('key') ?? '').trim(), Date.now() + SESSION_SECONDS * 1000)
      if (session === null) {
        c.get('trace').log.warn('sign_in.refused', { address, attempts: failures.add(address) })
        return html(c, SignInPage({ to, isRefused: true }), 401, { 'WWW-Authenticate': 'Bearer' })
      }
      setCookie(c, COOKIE, session, { ...cookieOptions(c), maxAge: SESSION_SECONDS })
      return c.redirect(to, 303)
    },
    signOut: (c) => {
      requireOwnForm(c)
      deleteCookie(c, COOKIE, cookieOptions(c))
      return c.redirect('/traces', 303)
    },
  })
}

const destination = (path: string): string => (DESTINATION.test(path) ? path : '/traces')

/** Secure behind a proxy that speaks TLS, too: a client that forges the header only locks itself out. */
const cookieOptions = (c: Context<AppEnv>) =>
  ({
    path: '/',
    httpOnly: true,
    sameSite: 'Strict',
    secure: new URL(c.req.url).protocol === 'https:' || c.req.header('x-forwarded-proto') === 'https',
  }) as const
