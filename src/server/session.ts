/**
 * Signing in to the pages with an API key, because a browser sends no Authorization header. The key is entered once, in a form of this
 * server. From then on a cookie replaces it: scripts cannot read it, pages of other sites cannot send it (SameSite=Strict), and it is valid
 * only for pages and the routes that they call. It is sealed with the server's secret, and expires with its key or after twelve hours. The
 * server stores no sessions.
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

/** Where a sign-in may redirect to. A link must not be able to name another site. */
const DESTINATION = /^\/(?:traces(?:\/[0-9a-f]{32})?)?$/

/** The caller of a signed-in browser; null for routes that sessions may not use, and for requests with a key. */
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
  // Only this server's pages can send the cookie. Requests that are not GET must also prove it by their headers.
  return route?.session !== undefined && (route.method === 'GET' || isOwnPage(c))
}

/** The page that asks a browser to sign in; null for other clients, and for routes that are not pages. */
export async function signInFirst(c: Context<AppEnv>): Promise<Response | null> {
  const isPage = c.req.method === 'GET' && c.get('route')?.session === 'page'
  if (!isPage || !c.req.header('accept')?.includes('text/html')) return null
  // After a link on another site the browser sends no cookie. It is asked to load the page again, now from this site.
  const site = c.req.header('sec-fetch-site')
  if (site === 'cross-site' || site === 'same-site') return html(c, OwnNavigationPage())
  return html(c, SignInPage({ to: destination(c.req.path), isRefused: false }), 401, { 'WWW-Authenticate': 'Bearer' })
}

/** Handlers of the sign-in form. @param failures wrong keys by address */
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

/** Secure also behind a TLS proxy. A client that forges the header only locks itself out. */
const cookieOptions = (c: Context<AppEnv>) =>
  ({
    path: '/',
    httpOnly: true,
    sameSite: 'Strict',
    secure: new URL(c.req.url).protocol === 'https:' || c.req.header('x-forwarded-proto') === 'https',
  }) as const
