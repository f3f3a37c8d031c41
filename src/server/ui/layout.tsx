/** The frame of every page. There are no inline scripts or styles, so the strictest content policy applies. */
import type { Context } from 'hono'
import type { Child } from 'hono/jsx'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { AppEnv } from '../env.ts'
import { ROUTES } from '../routes.ts'

const PAGE_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  // With no-referrer, browsers would send no origin for a form.
  'referrer-policy': 'same-origin',
  'x-content-type-options': 'nosniff',
  // Traces change and belong to a key: no shared cache may keep them.
  'cache-control': 'no-store',
}

/** Whether the visitor can sign in or has signed in. */
export type Visitor = 'anyone' | 'may-sign-in' | 'signed-in'

/** @param canSignIn whether there are keys to sign in with */
export const visitorOf = (c: Context<AppEnv>, canSignIn: boolean): Visitor =>
  c.get('isSignedIn') ? 'signed-in' : canSignIn ? 'may-sign-in' : 'anyone'

interface LayoutProps {
  readonly title: string
  readonly visitor?: Visitor
  /** The page's own script, among the assets. */
  readonly script?: string
  readonly current?: 'chat' | 'traces'
  /** Whether the browser loads the page again at once. */
  readonly isRefreshed?: boolean
  readonly children?: Child
}

/** The page frame: head, navigation, content. @param script file of ui/static that the page loads */
export function Layout({
  title,
  visitor = 'anyone',
  script = 'traces.js',
  current,
  isRefreshed = false,
  children,
}: LayoutProps) {
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        {isRefreshed ? <meta http-equiv="refresh" content="0" /> : null}
        <title>{title}</title>
        <link rel="icon" href="/traces/assets/icon.svg" type="image/svg+xml" />
        <link rel="stylesheet" href="/traces/assets/traces.css" />
        <script src={`/traces/assets/${script}`} defer></script>
      </head>
      <body>
        <header class="bar">
          <a class="brand" href="/">
            miniserve
          </a>
          <nav>
            <a href="/" aria-current={current === 'chat' ? 'page' : undefined}>
              Chat
            </a>
            <a href="/traces" aria-current={current === 'traces' ? 'page' : undefined}>
              Traces
            </a>
            {visitor === 'may-sign-in' ? <a href={ROUTES.signIn.path}>Sign in</a> : null}
            {visitor === 'signed-in' ? (
              <form method="post" action={ROUTES.signOut.path}>
                <button type="submit">Sign out</button>
              </form>
            ) : null}
          </nav>
        </header>
        <main>{children}</main>
      </body>
    </html>
  )
}

/** The response for a page. */
export async function html(
  c: Context<AppEnv>,
  page: ReturnType<typeof Layout>,
  status: ContentfulStatusCode = 200,
  headers: Readonly<Record<string, string>> = {},
): Promise<Response> {
  return c.html(`<!DOCTYPE html>${String(await page)}`, status, { ...PAGE_HEADERS, ...headers })
}
