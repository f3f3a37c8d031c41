/**
 * Protects a server without keys from web pages. Any page can make its visitor's browser send requests to this server. Writes of other
 * origins are refused, and on loopback also requests under a foreign host name: its owner may have pointed it at 127.0.0.1, which makes
 * the page same-origin (DNS rebinding). With keys this is not needed, because a page does not know one.
 */
import { isIP } from 'node:net'
import type { Context, MiddlewareHandler } from 'hono'
import { unsupportedMedia } from './body.ts'
import type { AppEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { JSON_LINES_TYPE } from './json-lines.ts'

interface OriginPolicy {
  /** Origins that may call from a browser. '*' allows every origin and every host name. */
  readonly corsOrigins: readonly string[]
  /** The address the server listens on. If it is undefined, host names are not checked. */
  readonly host: string | undefined
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS'])
/** Forms cannot send this type, and pages of other sites need a preflight request for it. */
const BYTES_TYPE = /^application\/octet-stream\s*(?:;|$)/i
const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i
const LOOPBACK = /^(?:127(?:\.\d{1,3}){3}|\[?::1\]?|localhost|(?:[a-z0-9-]+\.)+localhost)$/i

export const isLoopback = (hostname: string): boolean => LOOPBACK.test(hostname)

const isAddress = (hostname: string): boolean => isIP(hostname.replace(/^\[|\]$/g, '')) !== 0

/** Refuses requests of other sites' pages with 403, and bodies of pages that are not declared as JSON with 415. */
export function requireOwnOrigin(policy: OriginPolicy): MiddlewareHandler<AppEnv> {
  const isEveryone = policy.corsOrigins.includes('*')
  const isLocal = policy.host !== undefined && isLoopback(policy.host)
  /** DNS rebinding needs a name, so an address is safe. */
  const isOwnHost = (hostname: string): boolean =>
    isLoopback(hostname) || hosts.has(hostname) || (!isLocal && (isAddress(hostname) || hostname === policy.host))
  const hosts = new Set(
    policy.corsOrigins.filter((origin) => URL.canParse(origin)).map((origin) => new URL(origin).hostname),
  )
  return async function requireOwnOrigin(c, next) {
    const { hostname } = new URL(c.req.url)
    const openTo = c.get('route')?.openTo
    if (policy.host !== undefined && !isEveryone && openTo !== 'probes' && !isOwnHost(hostname)) {
      throw new ApiError(
        'host_not_allowed',
        `Host: expected ${isLocal ? 'a loopback address or localhost' : 'an address'} on a server without keys; --cors-origin allows another host`,
      )
    }
    if (!SAFE_METHODS.has(c.req.method)) {
      if (!isAllowedOrigin(c, policy.corsOrigins)) {
        throw new ApiError(
          'origin_not_allowed',
          'Origin: expected this server itself or an origin that --cors-origin allows',
        )
      }
      if (openTo !== 'sign-in') requireJsonOfPages(c)
    }
    await next()
  }
}

/** Refuses forms from pages of other sites, even if their origin may call the API. @throws ApiError 403 */
export function requireOwnForm(c: Context<AppEnv>): void {
  if (isAllowedOrigin(c, [])) return
  throw new ApiError('origin_not_allowed', 'Origin: expected a page of this server itself')
}

/** Whether a browser reports that the request comes from a page of this server. */
export function isOwnPage(c: Context<AppEnv>): boolean {
  const says = c.req.header('sec-fetch-site') ?? c.req.header('origin')
  return says !== undefined && says !== 'none' && isAllowedOrigin(c, [])
}

function isAllowedOrigin(c: Context<AppEnv>, corsOrigins: readonly string[]): boolean {
  const origin = c.req.header('origin')
  const site = c.req.header('sec-fetch-site')
  if (corsOrigins.includes('*') || (origin !== undefined && corsOrigins.includes(origin))) return true
  // Sec-Fetch-Site is right even behind proxies that change the Host header. Browsers send it over https and on loopback only.
  if (site !== undefined) return site === 'same-origin' || site === 'none'
  if (origin === undefined) return true
  const host = c.req.header('host') ?? new URL(c.req.url).host
  return URL.canParse(origin) && new URL(origin).host === host.toLowerCase()
}

/** Pages may send forms and text/plain anywhere without a preflight request. Other programs may use any type. */
function requireJsonOfPages(c: Context<AppEnv>): void {
  const type = c.req.header('content-type')
  const isBrowser = c.req.header('origin') !== undefined || c.req.header('sec-fetch-site') !== undefined
  if (!isBrowser || type === undefined || JSON_TYPE.test(type) || JSON_LINES_TYPE.test(type) || BYTES_TYPE.test(type))
    return
  throw unsupportedMedia('Content-Type: expected application/json, found another type')
}
